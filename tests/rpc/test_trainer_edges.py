"""The trainer where two things happen at once, or for very long."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb

from services.common import errors
from services.common.ports.launcher import LaunchManifest, WorkloadState
from services.trainer.attempts import reconcile_job
from services.trainer.job import KIND, MAX_CRASHES, MAX_IDLE_STOPS, Job
from services.trainer.proving import PROVE_LOOKS
from services.trainer.sweep import KIND as SWEEP_KIND
from services.trainer.sweep import Sweep
from services.trainer.use_cases import begin_job
from tests.rpc.trainer_world import World, trainer_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trainer_world(tmp_path) as world:
        yield world


@pytest.mark.parametrize("cancel_is_seen", ["before the launch", "after the launch"])
async def test_a_job_cancelled_while_it_is_launched_leaves_no_worker(world: World, cancel_is_seen: str) -> None:
    job = await world.create()
    await world.move(job.name, "PENDING")
    launch = world.launcher.launch

    async def cancelled_meanwhile(manifest: LaunchManifest) -> None:
        if cancel_is_seen == "after the launch":
            await launch(manifest)
        await world.jobs.CancelFineTuningJob(pb.CancelFineTuningJobRequest(name=job.name))
        await world.move(job.name, "CANCELLED")  # another loop saw the cancelled job first
        if cancel_is_seen == "before the launch":
            await launch(manifest)

    world.launcher.launch = cancelled_meanwhile  # type: ignore[method-assign]
    await world.loop.run_once()
    assert await world.state(job.name) == "CANCELLED"
    states = {observation.state for observation in world.launcher.observations.values()}
    assert states == {WorkloadState.FAILED}


@pytest.mark.parametrize("exit_code", [75, 143])
async def test_being_told_to_leave_any_number_of_times_fails_no_job(world: World, exit_code: int) -> None:
    job = await world.create()
    for attempt in range(1, 6):
        await world.move(job.name, "RUNNING")
        world.launcher.end(f"{job.name.rpartition('/')[2]}-{attempt}", exit_code)
        await world.move(job.name, "PENDING")


async def test_crashes_with_a_saved_step_between_fail_no_job(world: World) -> None:
    job = await world.create()
    job_id = job.name.rpartition("/")[2]
    for attempt in range(1, 2 * MAX_CRASHES + 1):
        await world.move(job.name, "RUNNING")
        if attempt % 2:
            world.store.commit(f"jobs/{job_id}/checkpoints/{attempt:08d}-{attempt:04d}.json", b"{}")
        world.launcher.end(f"{job_id}-{attempt}", 137)
        await world.move(job.name, "PENDING")
    await world.move(job.name, "RUNNING")
    world.launcher.end(f"{job_id}-{2 * MAX_CRASHES + 1}", 137)
    await world.move(job.name, "FAILED")  # the third since the last saved step


@pytest.mark.parametrize("saves", [True, False])
async def test_being_told_to_leave_for_ever_fails_a_job_that_gets_nowhere_and_no_other(world: World, saves: bool) -> None:
    job = await world.create()
    job_id = job.name.rpartition("/")[2]
    for attempt in range(1, MAX_IDLE_STOPS + 1):
        await world.move(job.name, "RUNNING")
        if saves:
            world.store.commit(f"jobs/{job_id}/checkpoints/{attempt:08d}-{attempt:04d}.json", b"{}")
        world.launcher.end(f"{job_id}-{attempt}", 75)
        await world.move(job.name, "PENDING" if saves or attempt < MAX_IDLE_STOPS else "FAILED")
    assert ("20 times in a row" in (await world.get(job.name)).error.message) is not saves


@pytest.mark.parametrize("reason", ["UNREACHABLE", "NO_ROOM"])
async def test_a_night_without_inference_or_without_a_place_for_a_server_does_not_lose_a_finished_training(
    world: World, reason: str
) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    world.commit_result(job.name)
    world.peers.proof_errors = [errors.Unavailable("nobody there", reason=reason)] * (PROVE_LOOKS + 5)
    await world.move(job.name, "PROVING")
    for _ in range(PROVE_LOOKS + 5):
        assert await world.state(job.name) == "PROVING"
        await world.trainer.database.wake("fineTuningJob", job.name, (await world.record(job.name)).create_time)
        await world.loop.run_once()
    await world.move(job.name, "SUCCEEDED")


async def test_a_model_that_no_server_can_load_fails_its_job_after_so_many_looks(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    world.commit_result(job.name)
    world.peers.proof_errors = [errors.Unavailable("starting")] * (PROVE_LOOKS + 5)
    for _ in range(PROVE_LOOKS // 25 + 1):  # `move` looks thirty times
        try:
            await world.move(job.name, "FAILED")
        except AssertionError:
            await asyncio.sleep(0)
    failed = await world.get(job.name)
    assert failed.state == pb.FineTuningJob.STATE_FAILED
    assert f"in {PROVE_LOOKS} looks" in failed.error.message


async def test_a_job_can_not_learn_from_another_projects_file(world: World) -> None:
    request = pb.CreateFineTuningJobRequest(
        parent="projects/mallory",
        fine_tuning_job=pb.FineTuningJob(base_model="tiny", training_file="projects/default/files/file-1"),
    )
    with pytest.raises(errors.NotFound):
        await world.jobs.CreateFineTuningJob(request)


async def test_an_unknown_schedule_is_a_violation_not_an_incident(world: World) -> None:
    recipe = pb.Recipe()
    recipe.schedule = 99  # type: ignore[assignment]
    with pytest.raises(errors.InvalidInput) as caught:
        await world.create(recipe=recipe)
    assert [violation.field for violation in caught.value.violations] == ["recipe.schedule"]


@pytest.mark.parametrize(("limit_s", "is_stopped"), [(60.0, True), (7200.0, False)])
async def test_a_worker_that_tells_nothing_new_for_too_long_is_stopped_and_followed_by_the_next(
    world: World, limit_s: float, is_stopped: bool
) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    clock = world.trainer.clock
    later = replace(world.trainer, silence_limit_s=limit_s, clock=lambda: clock() + timedelta(hours=1))
    await reconcile_job(later, await world.record(job.name))
    assert bool(world.launcher.stopped) is is_stopped
    if is_stopped:
        await world.move(job.name, "PENDING")
        assert (await world.get(job.name)).state == pb.FineTuningJob.STATE_PENDING


@pytest.mark.parametrize("state", ["CANCELLING", "CANCELLED"])
async def test_a_member_that_a_frozen_replica_creates_after_its_sweep_was_cancelled_runs_no_worker(
    world: World, state: str
) -> None:
    sweep = Sweep("projects/default/sweeps/sweep-1", "tiny", "projects/default/datasets/ds-1", [{}], state=state)
    await world.trainer.database.create(SWEEP_KIND, sweep.name, sweep.to_document())
    await begin_job(world.trainer, Job(sweep.job_name(0), "tiny", dataset=sweep.dataset, sweep=sweep.name))
    await world.move(sweep.job_name(0), "CANCELLED")
    assert not world.launcher.manifests
    assert (await world.trainer.database.get(KIND, sweep.job_name(0))).document["end_time"]


async def test_a_replica_that_froze_while_it_launched_leaves_the_worker_alone_that_another_one_adopted(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "PENDING")
    before = await world.record(job.name)
    await world.move(job.name, "RUNNING")
    await reconcile_job(world.trainer, before)  # a look that began earlier
    assert world.launcher.stopped == []
