"""Pausing and resuming jobs, as the trainer's clients see it; the workers end on cue."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb

from services.common import errors
from services.common.ports.launcher import Observation, WorkloadState
from services.trainer.job import KIND
from tests.rpc.trainer_world import World, report, trainer_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trainer_world(tmp_path) as running:
        yield running


async def test_a_paused_job_rests_with_its_checkpoint_until_it_is_resumed(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    key = job.name.rpartition("/")[2]
    token = world.launcher.environment(f"{key}-1")["AFINA_ATTEMPT_TOKEN"]
    assert (await world.pause(job.name)).state == pb.FineTuningJob.STATE_PAUSING
    assert await report(world, job.name, token, 0, 1) is True
    assert world.launcher.stopped == []  # it is asked, and has the time that a checkpoint takes
    world.launcher.end(f"{key}-1", 75)
    await world.move(job.name, "PAUSED")
    assert (await world.pause(job.name)).state == pb.FineTuningJob.STATE_PAUSED
    assert not (await world.get(job.name)).HasField("end_time")
    assert await world.loop.run_once() is False
    assert (await world.resume(job.name)).state == pb.FineTuningJob.STATE_PENDING
    await world.move(job.name, "RUNNING")
    assert (await world.get(job.name)).attempt == 2
    world.commit_result(job.name)
    await world.move(job.name, "SUCCEEDED")


async def test_pauses_and_attempts_that_were_told_to_leave_are_no_crashes(world: World) -> None:
    job = await world.create()
    key = job.name.rpartition("/")[2]
    for attempt in range(1, 6):
        await world.move(job.name, "RUNNING")
        if attempt % 2:
            await world.pause(job.name)
            world.launcher.end(f"{key}-{attempt}", 75)
            await world.move(job.name, "PAUSED")
            await world.resume(job.name)
        else:
            world.launcher.end(f"{key}-{attempt}", 75)  # as when its node is taken away
            await world.move(job.name, "PENDING")
    for attempt in (6, 7, 8):
        await world.move(job.name, "RUNNING")
        world.launcher.end(f"{key}-{attempt}", 137)
        await world.move(job.name, "PENDING" if attempt < 8 else "FAILED")


async def test_a_job_is_paused_before_it_runs_too_and_goes_on_where_it_was(world: World) -> None:
    job = await world.create()
    await world.pause(job.name)
    await world.move(job.name, "PAUSED")
    assert world.launcher.manifests == {}
    assert (await world.resume(job.name)).state == pb.FineTuningJob.STATE_VALIDATING
    await world.move(job.name, "PENDING")
    await world.loop.run_once()
    key = f"{job.name.rpartition('/')[2]}-1"
    world.launcher.observations[key] = Observation(WorkloadState.PENDING, position=2)
    await world.pause(job.name)
    await world.move(job.name, "PAUSED")
    assert world.launcher.stopped == [key]
    await world.resume(job.name)
    await world.move(job.name, "RUNNING")
    assert (await world.get(job.name)).attempt == 2


async def test_a_job_resumed_while_it_pauses_keeps_its_worker_or_gets_the_next_one(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    await world.pause(job.name)
    await world.resume(job.name)
    await world.move(job.name, "RUNNING")
    assert (await world.get(job.name)).attempt == 1
    world.launcher.end(f"{job.name.rpartition('/')[2]}-1", 75)  # it had been told before
    await world.move(job.name, "PENDING")
    await world.move(job.name, "RUNNING")
    assert (await world.get(job.name)).attempt == 2


async def test_a_worker_that_finishes_while_its_job_pauses_has_finished(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    await world.pause(job.name)
    world.commit_result(job.name)
    await world.move(job.name, "SUCCEEDED")


async def test_a_worker_that_does_not_leave_in_time_is_stopped(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    await world.pause(job.name)
    record = await world.trainer.database.get(KIND, job.name)
    long_ago = {**record.document, "pause_time": "2026-01-01T00:00:00+00:00"}
    await world.trainer.database.update(record, long_ago, due_time=record.create_time)
    await world.move(job.name, "PAUSED")
    assert world.launcher.stopped == [f"{job.name.rpartition('/')[2]}-1"]


async def test_what_can_not_be_paused_or_resumed_is_refused(world: World) -> None:
    job = await world.create()
    with pytest.raises(errors.WrongState):
        await world.resume(job.name)
    await world.move(job.name, "RUNNING")
    await world.pause(job.name)
    world.launcher.end(f"{job.name.rpartition('/')[2]}-1", 75)
    await world.move(job.name, "PAUSED")
    await world.jobs.CancelFineTuningJob(pb.CancelFineTuningJobRequest(name=job.name))
    for verb in (world.pause, world.resume):
        with pytest.raises(errors.WrongState):
            await verb(job.name)
    await world.move(job.name, "CANCELLED")
    for verb in (world.pause, world.resume):
        with pytest.raises(errors.WrongState):
            await verb(job.name)
    with pytest.raises(errors.NotFound):
        await world.pause("projects/default/fineTuningJobs/ftjob-none")
