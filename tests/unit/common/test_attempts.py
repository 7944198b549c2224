"""Attempts: launched once however often it is tried, counted once launched, and reported for by whoever was heard first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.common import attempts
from services.common.attempts import Attempt, Issued
from services.common.errors import Conflict, Unauthenticated, Unavailable
from services.common.ports.database import Document, NewEvent
from services.common.ports.launcher import LaunchManifest, Observation, WorkloadState
from tests.fakes import MemoryObjectStore, ScriptedLauncher
from tests.fakes_database import MemoryDatabase

JOB = "projects/p/fineTuningJobs/ftjob-1"
FIRST = Attempt(JOB, 1, "services.trainer.worker", "jobs/ftjob-1/spec-1.json", "afina.dev/fine-tuning-job")
START = datetime(2026, 1, 1, tzinfo=UTC)


class WeakLauncher(ScriptedLauncher):
    """A launcher that is full, or whose answer is lost, for as long as it is told."""

    is_full = loses_answers = False

    async def launch(self, manifest: LaunchManifest) -> None:
        if self.is_full:
            raise Unavailable("The disk is full.", reason="DISK_FULL")
        await super().launch(manifest)
        if self.loses_answers:
            raise Unavailable("The answer was lost.", reason="UNREACHABLE")


@dataclass
class Program:
    """A program that launches workers."""

    time: datetime = START
    launcher: WeakLauncher = field(default_factory=WeakLauncher)
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    worker_environment: Mapping[str, str] = field(default_factory=dict)
    dropped: list[Document] = field(default_factory=list)
    issued: int = 0

    def __post_init__(self) -> None:
        self.database = MemoryDatabase(lambda: self.time)

    async def issue(self, dropped: Sequence[Document]) -> Issued:
        self.dropped += dropped
        self.issued += 1
        return Issued({"KEY": f"secret-{self.issued}"}, {"key": f"key-{self.issued}"})

    async def ensure(self) -> Observation:
        return await attempts.ensure_launched(self, FIRST, {"job": JOB}, self.issue)

    def token(self) -> str:
        return self.launcher.environment(FIRST.key)["AFINA_ATTEMPT_TOKEN"]

    async def tries(self) -> list[Document]:
        return attempts.tries_of(await attempts.find(self.database, JOB, 1))


@pytest.fixture
def program() -> Program:
    return Program()


async def test_an_attempt_is_launched_once_and_adopted_afterwards(program: Program) -> None:
    assert (await program.ensure()).state == (await program.ensure()).state == WorkloadState.RUNNING
    assert len(program.launcher.manifests) == len(await program.tries()) == program.issued == 1
    environment = program.launcher.environment(FIRST.key)
    assert (environment["AFINA_SPEC"], environment["KEY"]) == (FIRST.spec_key, "secret-1")
    await attempts.require(program.database, JOB, 1, program.token())
    with pytest.raises(Unauthenticated):
        await attempts.require(program.database, JOB, 1, "another")


async def test_a_launcher_that_is_full_for_two_hundred_tries_costs_no_number_and_few_grants(program: Program) -> None:
    program.launcher.is_full = True
    for _ in range(200):
        with pytest.raises(Unavailable):
            await program.ensure()
    program.launcher.is_full = False
    await program.ensure()
    assert [record.name for record in await attempts.recorded(program.database, JOB)] == [f"{JOB}/attempts/1"]
    kept = [one["key"] for one in await program.tries()]
    assert kept == [f"key-{n}" for n in range(194, 202)]
    assert [one["key"] for one in program.dropped] == [f"key-{n}" for n in range(1, 194)]
    await attempts.require(program.database, JOB, 1, program.token())


async def test_a_launch_whose_answer_was_lost_is_adopted_with_its_token(program: Program) -> None:
    program.launcher.loses_answers = True
    with pytest.raises(Unavailable):
        await program.ensure()
    assert (await program.ensure()).state == WorkloadState.RUNNING
    assert program.issued == 1
    await attempts.require(program.database, JOB, 1, program.token())


async def test_of_two_replicas_tries_the_one_that_was_heard_may_report_also_when_it_froze_before(program: Program) -> None:
    program.launcher.is_full = True
    manifests = []
    plan = program.launcher.plan

    def remember(workload: Any) -> LaunchManifest:
        manifests.append(plan(workload))
        return manifests[-1]

    program.launcher.plan = remember  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(Unavailable):
            await program.ensure()
    program.launcher.is_full = False
    await program.launcher.launch(manifests[0])  # the first wakes before the second is through
    await program.launcher.launch(manifests[1])
    assert program.token() == manifests[0]["environment"]["AFINA_ATTEMPT_TOKEN"]
    await attempts.require(program.database, JOB, 1, program.token())


async def test_a_worker_that_reports_between_look_and_launch_is_not_taken_for_one_that_was_not_there(program: Program) -> None:
    class Late(Program):
        async def issue(self, dropped: Sequence[Document]) -> Issued:
            reported = await attempts.require(self.database, JOB, 1, program.token())
            await attempts.record_events(self.database, reported, "job", JOB, 0, [NewEvent("STEP", "1")])
            return await super().issue(dropped)

    await program.ensure()
    await program.database.create("job", JOB, {})
    late = Late()
    late.database = program.database  # its launcher has not heard of the attempt yet
    with pytest.raises(Conflict):
        await late.ensure()
    assert not late.launcher.manifests


async def test_an_attempt_that_has_reported_and_is_gone_is_over_and_not_launched_again(program: Program) -> None:
    await program.ensure()
    await program.database.create("job", JOB, {})
    reported = await attempts.require(program.database, JOB, 1, program.token())
    await attempts.record_events(program.database, reported, "job", JOB, 0, [NewEvent("STEP", "1")])
    program.launcher.manifests.clear()
    assert (await program.ensure()).state == WorkloadState.GONE
    assert not program.launcher.manifests


async def test_silence_begins_when_it_runs_and_ends_with_every_new_report(program: Program) -> None:
    async def silent() -> float:
        return await attempts.silence_s(program.database, JOB, 1, program.time)

    await program.ensure()
    await program.database.create("job", JOB, {})
    program.time = START + timedelta(hours=5)  # it waited for its turn
    await attempts.note_running(program.database, JOB, 1)
    program.time += timedelta(minutes=10)
    assert await silent() == 600.0
    for first_number, silent_s in ((0, 0.0), (0, 60.0)):  # the second time it says again what it has said
        record = await attempts.require(program.database, JOB, 1, program.token())
        await attempts.record_events(program.database, record, "job", JOB, first_number, [NewEvent("STEP", "1")])
        assert await silent() == silent_s
        program.time += timedelta(minutes=1)


async def test_every_attempt_from_a_number_on_is_stopped_also_one_that_was_noted_nowhere(program: Program) -> None:
    await program.ensure()
    assert await attempts.stop_all(program, JOB, since=1)
    assert program.launcher.stopped == [FIRST.key]
    assert await attempts.stop_all(program, JOB, since=2)
    assert program.launcher.stopped == [FIRST.key]


async def test_a_record_from_before_there_were_tries_is_its_own(program: Program) -> None:
    old = {"token_sha256": "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0", "next_number": 2}
    await program.database.create(attempts.KIND, f"{JOB}/attempts/1", old)
    await attempts.require(program.database, JOB, 1, "token")  # Source: printf token | sha256sum
