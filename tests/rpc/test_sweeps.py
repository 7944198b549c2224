"""Sweeps as the trainer's clients see them: real gRPC, real SQLite and files; the workers end on cue."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from afina.v1 import fine_tuning_job_pb2, sweep_pb2

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.trainer.sweep import KIND
from services.trainer.sweeps import reconcile_sweep
from tests.rpc.trainer_world import DATASET, World, trainer_world

PART = {"key": "datasets/v", "size_bytes": 1, "sha256": "1" * 64, "row_count": 100}
RATES = (1e-4, 3e-4, 1e-3)


@dataclass
class Sweeps:
    """A trainer, and what a test does with its sweeps."""

    world: World

    async def create(self, *recipes: fine_tuning_job_pb2.Recipe, **fields: Any) -> sweep_pb2.Sweep:
        asked = sweep_pb2.Sweep(**{"base_model": "tiny", "dataset": DATASET, "recipes": recipes or rates(), **fields})
        created: sweep_pb2.Sweep = await self.world.sweeps.CreateSweep(
            sweep_pb2.CreateSweepRequest(parent="projects/default", sweep=asked)
        )
        return created

    async def get(self, name: str) -> sweep_pb2.Sweep:
        sweep: sweep_pb2.Sweep = await self.world.sweeps.GetSweep(sweep_pb2.GetSweepRequest(name=name))
        return sweep

    async def state(self, name: str) -> str:
        return str(sweep_pb2.Sweep.State.Name((await self.get(name)).state)).removeprefix("STATE_")

    async def look(self, name: str) -> None:
        """Let the loop look at a sweep once."""
        database = self.world.trainer.database
        record = await database.get(KIND, name)
        await database.wake(KIND, name, record.create_time)
        await self.world.sweeping.run_once()

    async def turn(self, name: str, at: int) -> str:
        """Wait for the turn of a recipe and return its job, which runs."""
        for _ in range(3):
            job: str = (await self.get(name)).members[at].job
            if job:
                await self.world.move(job, "RUNNING")
                return job
            await self.look(name)
        raise AssertionError(f"recipe {at + 1} of {name} does not get its turn")

    async def train(self, name: str, at: int, loss: float | None) -> None:
        """Have a member come to a validation loss, or fail."""
        job = await self.turn(name, at)
        if loss is None:
            await self.fail(job)
            return
        self.world.commit_result(job, best_step=2, validation=[{"step": 1, "loss": loss + 1}, {"step": 2, "loss": loss}])
        await self.world.move(job, "SUCCEEDED")

    async def fail(self, job: str) -> None:
        for attempt in (1, 2, 3):
            await self.world.move(job, "RUNNING")
            self.world.launcher.end(f"{job.rpartition('/')[2]}-{attempt}", 137)
            await self.world.move(job, "PENDING" if attempt < 3 else "FAILED")

    async def end(self, name: str, state: str) -> sweep_pb2.Sweep:
        for _ in range(5):
            if await self.state(name) == state:
                return await self.get(name)
            await self.look(name)
        raise AssertionError(f"{name} is {await self.state(name)}, not {state}")

    async def cancel(self, name: str) -> sweep_pb2.Sweep:
        sweep: sweep_pb2.Sweep = await self.world.sweeps.CancelSweep(sweep_pb2.CancelSweepRequest(name=name))
        return sweep


def rates() -> list[fine_tuning_job_pb2.Recipe]:
    return [fine_tuning_job_pb2.Recipe(learning_rate=rate) for rate in RATES]


@pytest.fixture
async def sweeps(tmp_path: Path) -> AsyncIterator[Sweeps]:
    async with trainer_world(tmp_path) as world:
        world.peers.validation = PART
        yield Sweeps(world)


async def test_recipes_are_tried_one_after_another_and_the_lowest_validation_loss_wins(sweeps: Sweeps) -> None:
    name = (await sweeps.create(suffix="reviews")).name
    for at, loss in enumerate((0.75, 0.25, 0.5)):
        await sweeps.turn(name, at)
        assert [bool(member.job) for member in (await sweeps.get(name)).members] == [before <= at for before in range(3)]
        await sweeps.train(name, at, loss)
    done = await sweeps.end(name, "SUCCEEDED")
    assert [(m.validation_loss, m.rank) for m in done.members] == [(0.75, 3), (0.25, 1), (0.5, 2)]
    assert [m.effective_recipe.learning_rate for m in done.members] == list(RATES)
    assert (done.winner, done.fine_tuned_model) == (done.members[1].job, "ft:tiny:default::m")
    assert done.HasField("end_time")
    job = await sweeps.world.get(done.winner)
    assert (job.sweep, job.validation_loss, job.suffix) == (name, 0.25, "reviews")


async def test_only_the_winner_is_proven_and_its_proof_is_waited_for(sweeps: Sweeps) -> None:
    sweeps.world.peers.proof_errors = [errors.Unavailable("starting")]
    name = (await sweeps.create()).name
    for at in range(3):
        await sweeps.train(name, at, 0.5 + at)
        assert len(sweeps.world.peers.proof_errors) == 1  # no member has asked
    assert len(sweeps.world.peers.registered) == 3
    proving = await sweeps.end(name, "PROVING")
    assert (proving.winner, proving.fine_tuned_model) == (proving.members[0].job, "")
    await sweeps.end(name, "SUCCEEDED")


async def test_a_winner_that_can_not_be_proven_gives_way_to_the_next_best(sweeps: Sweeps) -> None:
    sweeps.world.peers.proof_errors = [errors.WrongState("differs", reason="MODEL_QUARANTINED")]
    name = (await sweeps.create()).name
    for at, loss in enumerate((0.75, 0.25, 0.5)):
        await sweeps.train(name, at, loss)
    done = await sweeps.end(name, "SUCCEEDED")
    assert done.winner == done.members[2].job


async def test_a_member_that_fails_or_is_cancelled_does_not_lose_the_others(sweeps: Sweeps) -> None:
    name = (await sweeps.create()).name
    await sweeps.train(name, 0, None)
    job = await sweeps.turn(name, 1)
    await sweeps.world.jobs.CancelFineTuningJob(fine_tuning_job_pb2.CancelFineTuningJobRequest(name=job))
    await sweeps.world.move(job, "CANCELLED")
    await sweeps.train(name, 2, 0.5)
    done = await sweeps.end(name, "SUCCEEDED")
    states = [fine_tuning_job_pb2.FineTuningJob.State.Name(member.state) for member in done.members]
    assert states == ["STATE_FAILED", "STATE_CANCELLED", "STATE_SUCCEEDED"]
    assert "ended 3 times without a result" in done.members[0].error.message
    assert done.winner == done.members[2].job


async def test_a_sweep_of_which_nothing_comes_fails_and_says_why(sweeps: Sweeps) -> None:
    name = (await sweeps.create(*rates()[:2])).name
    await sweeps.train(name, 0, None)
    await sweeps.train(name, 1, None)
    failed = await sweeps.end(name, "FAILED")
    assert "None of the 2 recipes" in failed.error.message
    assert "ended 3 times" in failed.error.message


async def test_cancelling_a_sweep_cancels_the_job_that_runs_and_leaves_what_has_ended(sweeps: Sweeps) -> None:
    name = (await sweeps.create()).name
    await sweeps.train(name, 0, 0.5)
    job = await sweeps.turn(name, 1)
    assert (await sweeps.cancel(name)).state == sweep_pb2.Sweep.STATE_CANCELLING
    await sweeps.look(name)
    await sweeps.world.move(job, "CANCELLED")
    done = await sweeps.end(name, "CANCELLED")
    assert [bool(member.job) for member in done.members] == [True, True, False]
    assert (done.members[0].rank, done.winner) == (1, "")
    with pytest.raises(errors.WrongState):
        await sweeps.cancel(name)


@pytest.mark.parametrize("cancel_is_seen", ["before the job is made", "after the job is made"])
async def test_a_sweep_cancelled_while_it_makes_a_job_leaves_none_running(sweeps: Sweeps, cancel_is_seen: str) -> None:
    name = (await sweeps.create()).name
    trainer = sweeps.world.trainer
    before = await trainer.database.get(KIND, name)
    if cancel_is_seen == "before the job is made":
        await sweeps.cancel(name)
        await reconcile_sweep(trainer, before)  # a step that had begun before; what it wants to write is refused
    else:
        await reconcile_sweep(trainer, before)
        await sweeps.cancel(name)
    await sweeps.look(name)
    job = (await sweeps.world.jobs.ListFineTuningJobs(
        fine_tuning_job_pb2.ListFineTuningJobsRequest(parent="projects/default")
    )).fine_tuning_jobs[0]  # fmt: skip
    await sweeps.world.move(job.name, "CANCELLED")
    await sweeps.end(name, "CANCELLED")


async def test_a_sweep_survives_a_service_that_dies_at_any_step(sweeps: Sweeps, tmp_path: Path) -> None:
    name = (await sweeps.create(*rates()[:2])).name
    trainer = sweeps.world.trainer
    for at in range(2):
        await reconcile_sweep(trainer, await trainer.database.get(KIND, name))  # killed before it could write
        await sweeps.train(name, at, 0.5 - at / 4)
    await reconcile_sweep(trainer, await trainer.database.get(KIND, name))
    again = replace(trainer, database=SqlDatabase(f"sqlite:///{tmp_path}/t.db"))  # another process, the same file
    record = await again.database.get(KIND, name)
    change = await reconcile_sweep(again, record)
    await again.database.update(record, change.document, due_time=record.create_time, events=change.events)
    await again.database.close()
    done = await sweeps.end(name, "SUCCEEDED")
    listed = await sweeps.world.jobs.ListFineTuningJobs(fine_tuning_job_pb2.ListFineTuningJobsRequest(parent="projects/default"))
    assert sorted(job.name for job in listed.fine_tuning_jobs) == [member.job for member in done.members]


async def test_a_dataset_without_validation_rows_is_refused_with_the_fix(sweeps: Sweeps) -> None:
    sweeps.world.peers.validation = None
    with pytest.raises(errors.InvalidInput, match="validation fraction above 0") as caught:
        await sweeps.create()
    assert caught.value.reason == "VALIDATION_ROWS_MISSING"


async def test_every_mistake_of_a_request_is_told_at_once(sweeps: Sweeps) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await sweeps.create(fine_tuning_job_pb2.Recipe(rank=0), base_model="", dataset="", suffix="Not OK")
    assert {v.field for v in caught.value.violations} == {
        "sweep.base_model", "sweep.dataset", "sweep.suffix", "sweep.recipes[0].rank",
    }  # fmt: skip
    with pytest.raises(errors.NotFound):
        await sweeps.create(base_model="huge")
    with pytest.raises(errors.NotFound):
        await sweeps.create(dataset="projects/mallory/datasets/ds-1")


async def test_the_same_request_id_is_the_same_sweep_and_pages_follow_one_another(sweeps: Sweeps) -> None:
    asked = sweep_pb2.Sweep(base_model="tiny", dataset=DATASET, recipes=rates())
    request = sweep_pb2.CreateSweepRequest(parent="projects/default", sweep=asked, request_id="r-1")
    first, again = [await sweeps.world.sweeps.CreateSweep(request) for _ in range(2)]
    assert first.name == again.name
    second = await sweeps.create()
    page = await sweeps.world.sweeps.ListSweeps(sweep_pb2.ListSweepsRequest(parent="projects/default", page_size=1))
    rest = await sweeps.world.sweeps.ListSweeps(
        sweep_pb2.ListSweepsRequest(parent="projects/default", page_token=page.next_page_token)
    )
    assert [s.name for s in (*page.sweeps, *rest.sweeps)] == [second.name, first.name]


async def test_watching_tells_every_event_once_and_closes_at_the_end(sweeps: Sweeps) -> None:
    name = (await sweeps.create(*rates()[:1])).name
    await sweeps.train(name, 0, 0.5)
    await sweeps.end(name, "SUCCEEDED")
    sequences, types, last = [], [], sweep_pb2.Sweep()
    async for response in sweeps.world.sweeps.WatchSweep(sweep_pb2.WatchSweepRequest(name=name), timeout_s=20):
        sequences += [event.sequence for event in response.events]
        types += [event.type for event in response.events]
        last = response.sweep
    assert sequences == list(range(1, len(sequences) + 1))
    assert types == ["STATE_CHANGED", "MEMBER_BEGUN", "MEMBER_ENDED", "STATE_CHANGED", "STATE_CHANGED"]
    assert last.state == sweep_pb2.Sweep.STATE_SUCCEEDED
