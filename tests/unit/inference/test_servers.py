"""Servers: their legal moves, and how long a failed one rests."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.common.ports.model_server import Activity
from services.inference.servers import Placement, Server, placement_name, server_name

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def server(**changes: object) -> Server:
    made = Server("servers/abc", "models/abc", "a" * 64, "manifests/bases/a.json", 2048, since=NOW.isoformat())
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_failed_server_is_launched_at_once_and_then_rests_longer_each_time_up_to_a_minute() -> None:
    failing, pauses = server(), []
    for _ in range(10):
        failing = failing.fail("it crashed", NOW)
        pauses.append((failing.restart_time - NOW).total_seconds())
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_failures_are_forgotten_after_a_minute_of_health_and_not_before() -> None:
    active = server(failures=3).activate(NOW)
    assert active.look(True, NOW + timedelta(seconds=59)).failures == 3
    assert active.look(True, NOW + timedelta(seconds=60)).failures == 0


def test_misses_count_in_a_row() -> None:
    missed = server().activate(NOW).look(False, NOW).look(False, NOW)
    assert missed.misses == 2
    assert missed.look(True, NOW).misses == 0


def test_a_restart_is_another_generation_with_another_key_and_without_port_or_secret() -> None:
    running = server().begin(1234, "secret", NOW).activate(NOW)
    again = running.fail("it crashed", NOW).restart(NOW)
    assert (again.state, again.generation, again.port, again.api_key) == ("STARTING", 2, 0, "")
    assert running.key == "server-abc-1"
    assert again.key == "server-abc-2"
    assert server(birth="0f0f0f").key == "server-abc-0f0f0f-1"


@pytest.mark.parametrize(("rank", "expected"), [(17, 32), (32, 32), (33, 64), (200, 256)])
def test_a_server_grows_to_the_next_rank_that_its_engine_can_be_started_for(rank: int, expected: int) -> None:
    grown = server().begin(1234, "secret", NOW).activate(NOW).grow(rank, NOW)
    assert (grown.max_rank, grown.state, grown.comes_back) == (expected, "STOPPING", True)
    again = grown.rest(NOW)
    assert (again.state, again.generation, again.port, again.comes_back) == ("STARTING", 2, 0, False)


def test_a_server_that_answers_nobody_yet_is_launched_again_at_once() -> None:
    grown = server().begin(1234, "secret", NOW).grow(32, NOW)
    assert (grown.max_rank, grown.state, grown.restart_time) == (32, "FAILED", NOW)


def test_a_server_that_was_to_come_back_ends_for_good_when_it_is_retired_meanwhile() -> None:
    retired = server().begin(1234, "secret", NOW).activate(NOW).grow(32, NOW).retire("its base was deleted", NOW)
    assert (retired.state, retired.rest(NOW).state) == ("STOPPING", "STOPPED")


def test_a_server_does_not_grow_for_a_rank_that_it_takes() -> None:
    assert server().grow(16, NOW) == server()


def test_a_server_that_was_not_launched_yet_takes_what_is_wanted_without_being_launched_again() -> None:
    for resting in (server(), server(port=1).retire("room", NOW), server(port=1).retire("room", NOW).rest(NOW)):
        assert resting.grow(32, NOW) == replace(resting, max_rank=32)
        assert resting.fit(512, "{{ messages }}", "hermes", NOW) == replace(
            resting, max_length=512, chat_template="{{ messages }}", tool_call_parser="hermes"
        )


def test_a_server_that_runs_is_launched_again_when_its_template_or_length_changes_and_only_then() -> None:
    running = server().begin(1234, "secret", NOW).activate(NOW)
    assert running.fit(2048, "", "", NOW) == running
    changed = running.fit(2048, "{{ messages }}", "", NOW)
    assert (changed.state, changed.comes_back) == ("STOPPING", True)


def test_a_server_is_idle_since_it_was_last_seen_to_answer() -> None:
    active = server().begin(1234, "secret", NOW).activate(NOW)
    later, now = NOW + timedelta(seconds=30), NOW + timedelta(seconds=90)
    assert active.note(Activity(0, 0), later).idle_s(now) == 90
    assert active.note(Activity(0, 3), later).idle_s(now) == 60
    assert active.note(Activity(1, 0), later).idle_s(now) == 60


def test_what_runs_or_is_about_to_takes_memory_and_what_has_ended_or_waits_does_not() -> None:
    launched = server().begin(1234, "secret", NOW)
    stopping = launched.retire("room", NOW)
    hung = launched.fail("it did not answer", NOW)
    assert all(one.takes_memory for one in (launched, launched.activate(NOW), stopping, hung))
    assert not any(one.takes_memory for one in (server(), hung.end(), stopping.rest(NOW)))
    assert stopping.rest(NOW).restart(NOW).generation == 2


def test_a_placement_that_is_loaded_again_has_proven_nothing() -> None:
    proven = Placement("placements/abc/m", "servers/abc", "projects/p/models/m", "d" * 64, "a" * 64, "k", "PROVEN", 1, 2)
    assert proven.load(2) == replace(proven, state="LOADING", generation=2, refusals=0)


def test_models_of_two_projects_with_the_same_digest_have_two_placements() -> None:
    one, other = (placement_name(server_name("abc"), f"projects/{project}/models/d") for project in ("a", "b"))
    assert one == "placements/abc/projects.a.models.d"
    assert one != other
