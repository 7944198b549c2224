"""Token counts as the trainer's clients see them; the errand counts as told."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import resources_pb2, token_count_pb2

from services.common import errors
from services.common.ports.launcher import LaunchManifest
from tests.fakes import scripted_count
from tests.rpc.trainer_world import DATASET, World, trainer_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trainer_world(tmp_path) as running:
        yield running


async def create(world: World, dataset: str = DATASET, base_model: str = "tiny") -> token_count_pb2.TokenCount:
    asked = token_count_pb2.TokenCount(dataset=dataset, base_model=base_model)
    request = token_count_pb2.CreateTokenCountRequest(parent="projects/default", token_count=asked)
    created: token_count_pb2.TokenCount = await world.counts.CreateTokenCount(request)
    return created


async def get(world: World, name: str, *max_lengths: int) -> token_count_pb2.TokenCount:
    request = token_count_pb2.GetTokenCountRequest(name=name, max_lengths=max_lengths)
    count: token_count_pb2.TokenCount = await world.counts.GetTokenCount(request)
    return count


async def counted(world: World) -> token_count_pb2.TokenCount:
    name = (await create(world)).name
    await world.count()
    await world.count()
    return await get(world, name)


async def events_of(world: World, name: str) -> list[resources_pb2.Event]:
    return list((await world.jobs.ListFineTuningJobEvents(pb.ListFineTuningJobEventsRequest(name=name, page_size=100))).events)


async def test_a_dataset_is_counted_for_a_base_with_what_lengths_would_cut(world: World) -> None:
    world.launcher.run_errand = scripted_count(world.store, [20] * 90 + [100] * 9 + [300], 500)
    count = await counted(world)
    assert token_count_pb2.TokenCount.State.Name(count.state) == "STATE_SUCCEEDED"
    assert (count.train.row_count, count.train.token_count, count.train.trained_token_count) == (100, 3000, 500)
    assert (count.train.median_length, count.train.p90_length, count.train.p99_length, count.train.longest_length) == (
        20, 20, 100, 300,
    )  # fmt: skip
    assert not count.HasField("validation")
    told = await get(world, count.name, 150)
    assert [(cut.max_length, cut.row_count, cut.token_count) for cut in told.cuts] == [
        (32, 10, 9 * 68 + 268), (64, 10, 9 * 36 + 236), (128, 1, 172), (150, 1, 150), (256, 1, 44),
    ]  # fmt: skip


async def test_the_same_rows_are_counted_once_for_a_base(world: World) -> None:
    first = await counted(world)
    again = await create(world)
    assert (again.name, again.state) == (first.name, first.state)
    assert len(world.launcher.errands) == 1
    listed = await world.counts.ListTokenCounts(token_count_pb2.ListTokenCountsRequest(parent="projects/default"))
    assert [count.name for count in listed.token_counts] == [first.name]


async def test_a_jobs_first_events_tell_its_tokens_and_what_its_length_cuts(world: World) -> None:
    job = await world.create(recipe=pb.Recipe(epochs=3))
    await world.move(job.name, "PENDING")
    events = await events_of(world, job.name)
    assert [event.type for event in events[:3]] == ["STATE_CHANGED", "DATASET_READY", "TOKENS_COUNTED"]
    data = events[2].data
    assert (data["tokens_per_epoch"], data["trained_tokens_per_epoch"], data["epochs"], data["cut_row_count"]) == (20, 5, 3, 0)
    assert "cuts nothing" in events[2].message
    assert (await world.get(job.name)).token_count == data["token_count"]


async def test_rows_that_are_too_long_fail_the_job_before_it_waits_and_each_is_told(world: World) -> None:
    world.launcher.run_errand = scripted_count(world.store, [20, 70, 20, 80])
    job = await world.create(recipe=pb.Recipe(max_length=64))
    await world.move(job.name, "FAILED")
    failed = await world.get(job.name)
    assert "2 rows are longer than 64 tokens and would lose 22" in failed.error.message
    assert b"train[2]" in failed.error.SerializeToString()
    assert b"train[4]" in failed.error.SerializeToString()
    assert world.launcher.manifests == {}
    assert [e.level for e in await events_of(world, job.name) if e.type == "TOKENS_COUNTED"] == [
        resources_pb2.Event.LEVEL_WARNING
    ]


async def test_rows_that_the_base_can_not_read_fail_the_job_and_the_count_with_each_of_them(world: World) -> None:
    violations = [errors.Violation(f"train[{n}]", "TEMPLATE_REFUSED", "no system message") for n in (2, 5)]
    error = errors.InvalidInput("2 rows can't be read.", reason="ROWS_INVALID", violations=violations)

    def refuse(manifest: LaunchManifest) -> None:
        spec = json.loads(world.store.read(manifest["environment"]["AFINA_SPEC"]))
        world.store.commit(spec["result_key"], json.dumps({"error": error.to_document()}).encode())

    world.launcher.run_errand = refuse
    job = await world.create()
    await world.move(job.name, "FAILED")
    failed = await world.get(job.name)
    count = await get(world, failed.token_count)
    for told in (failed.error, count.error):
        assert told.message == "2 rows can't be read."
        assert b"train[5]" in told.SerializeToString()


async def test_a_count_that_crashes_three_times_fails_the_job_and_is_made_again_for_the_next(world: World) -> None:
    world.launcher.run_errand = lambda manifest: None
    job = await world.create()
    await world.move(job.name, "FAILED")
    failed = await world.get(job.name)
    assert "3 times without a result" in failed.error.message
    assert len(world.launcher.errands) == 3
    world.launcher.run_errand = scripted_count(world.store)
    second = await world.create()
    await world.move(second.name, "PENDING")
    assert (await world.get(second.name)).token_count == failed.token_count


async def test_a_count_whose_service_was_away_is_read_from_its_result(world: World) -> None:
    name = (await create(world)).name
    await world.counting.run_once()  # launched, and the result was committed meanwhile
    world.launcher.errands.clear()  # the launcher has forgotten it
    await world.count()
    assert token_count_pb2.TokenCount.State.Name((await get(world, name)).state) == "STATE_SUCCEEDED"


async def test_every_mistake_of_a_request_is_told_and_what_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await create(world, "", "")
    assert {violation.field for violation in caught.value.violations} == {"token_count.dataset", "token_count.base_model"}
    with pytest.raises(errors.NotFound):
        await create(world, base_model="huge")
    with pytest.raises(errors.NotFound):
        await create(world, "projects/mallory/datasets/ds-1")
    with pytest.raises(errors.NotFound):
        await get(world, "projects/default/tokenCounts/tokens-none")
    count = await counted(world)
    with pytest.raises(errors.InvalidInput):
        await get(world, count.name, 0)
