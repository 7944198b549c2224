"""The trainer as its clients see it: real gRPC, real SQLite and files; the workers end on cue."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb

from services.common import errors
from services.trainer.attempts import reconcile_job
from services.trainer.job import KIND
from tests.rpc.trainer_world import DATASET, FILE, World, report, trainer_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trainer_world(tmp_path) as running:
        yield running


async def test_a_job_goes_from_file_to_proven_model(world: World) -> None:
    job = await world.create(suffix="reviews")
    assert await world.state(job.name) == "VALIDATING"
    await world.move(job.name, "RUNNING")
    assert (await world.get(job.name)).fine_tuned_model == ""
    world.commit_result(job.name)
    await world.move(job.name, "SUCCEEDED")
    done = await world.get(job.name)
    assert (done.dataset, done.model, done.fine_tuned_model) == (DATASET, "projects/default/models/m", "ft:tiny:default::m")
    assert world.peers.registered[0] == ("default", f"jobs/{job.name.rpartition('/')[2]}/manifest.json", "reviews")
    assert done.HasField("start_time")
    assert done.HasField("end_time")


async def test_what_nobody_gave_is_chosen_and_each_choice_is_an_event_with_its_rule(world: World) -> None:
    job = await world.create(recipe=pb.Recipe(rank=8))
    await world.move(job.name, "PENDING")
    recipe = (await world.get(job.name)).effective_recipe
    # 5e-4 x (2000 / 576)^0.781 = 1.32e-3, above the usual range, so its upper end.
    assert (recipe.rank, recipe.alpha, recipe.learning_rate, recipe.epochs, recipe.batch_size) == (8, 16.0, 1e-3, 1, 16)
    response = await world.jobs.ListFineTuningJobEvents(pb.ListFineTuningJobEventsRequest(name=job.name))
    chosen = {event.data["name"] for event in response.events if event.type == "HYPERPARAMETER"}
    assert "learning_rate" in chosen
    assert "rank" not in chosen
    rate = next(event for event in response.events if event.data and event.data.fields["name"].string_value == "learning_rate")
    assert "hidden size" in rate.message
    assert "Source: tinker-cookbook" in rate.message


async def test_a_multiplier_is_applied_to_the_automatic_rate_and_the_effective_one_is_recorded(world: World) -> None:
    job = await world.create(recipe=pb.Recipe(learning_rate_multiplier=0.5))
    await world.move(job.name, "PENDING")
    told = await world.get(job.name)
    assert told.recipe.learning_rate_multiplier == 0.5
    assert told.effective_recipe.learning_rate == pytest.approx(5e-4)


async def test_every_mistake_in_a_request_is_told_at_once(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await world.create(training_file="", suffix="Not OK", recipe=pb.Recipe(rank=0, epochs=99, learning_rate=float("nan")))
    fields = {violation.field for violation in caught.value.violations}
    assert fields == {
        "fine_tuning_job.training_file", "fine_tuning_job.suffix", "recipe.rank", "recipe.epochs", "recipe.learning_rate",
    }  # fmt: skip


async def test_an_unknown_base_or_file_is_not_found(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await world.create(base_model="huge")
    with pytest.raises(errors.NotFound):
        await world.create(training_file="projects/default/files/file-2")


async def test_bad_lines_fail_the_job_with_each_of_them(world: World) -> None:
    violations = [errors.Violation(f"line {n}", "JSON_INVALID", "broken") for n in (3, 7)]
    world.peers.file_error = errors.InvalidInput("2 lines are wrong.", reason="RECORDS_INVALID", violations=violations)
    job = await world.create()
    await world.move(job.name, "FAILED")
    failed = await world.get(job.name)
    assert failed.error.message == "2 lines are wrong."
    assert b"line 7" in failed.error.SerializeToString()


async def test_the_same_request_id_is_the_same_job(world: World) -> None:
    request = pb.CreateFineTuningJobRequest(
        parent="projects/default", fine_tuning_job=pb.FineTuningJob(base_model="tiny", training_file=FILE), request_id="r-1"
    )
    first = await world.jobs.CreateFineTuningJob(request)
    second = await world.jobs.CreateFineTuningJob(request)
    assert first.name == second.name


async def test_a_crashed_worker_is_launched_again_and_three_crashes_fail_the_job(world: World) -> None:
    job = await world.create()
    key = job.name.rpartition("/")[2]
    for attempt in (1, 2, 3):
        await world.move(job.name, "RUNNING")
        assert (await world.get(job.name)).attempt == attempt
        world.launcher.end(f"{key}-{attempt}", 137)
        await world.move(job.name, "PENDING" if attempt < 3 else "FAILED")
    assert (await world.get(job.name)).error.message.startswith("The worker ended 3 times")


async def test_a_worker_that_finished_while_the_service_was_away_has_finished(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    world.commit_result(job.name)
    world.launcher.end(f"{job.name.rpartition('/')[2]}-1", 137)  # killed after its result was committed
    await world.move(job.name, "SUCCEEDED")


async def test_a_worker_that_refuses_its_input_is_not_launched_again(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    job_id = job.name.rpartition("/")[2]
    told = {"reason": "ROWS_TOO_LONG", "message": "2 rows are too long.", "violations": []}
    world.store.commit(f"jobs/{job_id}/error-1.json", json.dumps(told).encode())
    world.launcher.end(f"{job_id}-1", 64)
    await world.move(job.name, "FAILED")
    assert (await world.get(job.name)).error.message == "2 rows are too long."
    assert len(world.launcher.manifests) == 1


async def test_a_launch_whose_service_died_before_it_could_say_so_is_adopted(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "PENDING")
    before = await world.trainer.database.get(KIND, job.name)
    await reconcile_job(world.trainer, before)  # launched, and never written: the service was killed here
    await world.move(job.name, "RUNNING")
    assert len(world.launcher.manifests) == 1
    assert (await world.get(job.name)).attempt == 1


async def test_a_cancelled_job_stops_its_worker_and_stays_cancelled(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    await world.jobs.CancelFineTuningJob(pb.CancelFineTuningJobRequest(name=job.name))
    await world.move(job.name, "CANCELLED")
    assert world.launcher.stopped == [f"{job.name.rpartition('/')[2]}-1"]
    with pytest.raises(errors.WrongState):
        await world.jobs.CancelFineTuningJob(pb.CancelFineTuningJobRequest(name=job.name))


async def test_a_model_that_is_not_proven_yet_is_waited_for_and_one_that_fails_its_proof_fails_the_job(world: World) -> None:
    world.peers.proof_errors = [errors.Unavailable("starting"), errors.WrongState("differs", reason="MODEL_QUARANTINED")]
    job = await world.create()
    await world.move(job.name, "RUNNING")
    world.commit_result(job.name)
    await world.move(job.name, "FAILED")
    failed = await world.get(job.name)
    assert (failed.error.message, failed.fine_tuned_model) == ("differs", "")


async def test_progress_is_recorded_once_however_often_it_is_reported(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    token = world.launcher.environment(f"{job.name.rpartition('/')[2]}-1")["AFINA_ATTEMPT_TOKEN"]
    await report(world, job.name, token, 0, 1, 2)
    await report(world, job.name, token, 0, 1, 2)
    await report(world, job.name, token, 1, 2, 3)
    response = await world.jobs.ListFineTuningJobEvents(pb.ListFineTuningJobEventsRequest(name=job.name))
    assert [int(e.data["step"]) for e in response.events if e.type == "STEP"] == [1, 2, 3]
    progress = (await world.get(job.name)).progress
    assert (progress.step, progress.total_steps, progress.train_loss) == (3, 50, 0.5)


async def test_a_worker_without_the_attempts_token_is_refused_and_so_is_an_attempt_that_is_over(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    key = job.name.rpartition("/")[2]
    old = world.launcher.environment(f"{key}-1")["AFINA_ATTEMPT_TOKEN"]
    for token, attempt in (("wrong", 1), ("", 1), (old, 2)):
        with pytest.raises(errors.Unauthenticated):
            await report(world, job.name, token, 0, 1, attempt=attempt)
    world.launcher.end(f"{key}-1", 1)
    await world.move(job.name, "PENDING")
    await world.move(job.name, "RUNNING")
    with pytest.raises(errors.Unauthenticated):
        await report(world, job.name, old, 0, 1)


async def test_a_worker_of_a_cancelled_job_is_told_to_stop(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    token = world.launcher.environment(f"{job.name.rpartition('/')[2]}-1")["AFINA_ATTEMPT_TOKEN"]
    assert await report(world, job.name, token, 0, 1) is False
    await world.jobs.CancelFineTuningJob(pb.CancelFineTuningJobRequest(name=job.name))
    assert await report(world, job.name, token, 1, 2) is True


async def test_the_database_never_holds_a_token(world: World, tmp_path: Path) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    token = world.launcher.environment(f"{job.name.rpartition('/')[2]}-1")["AFINA_ATTEMPT_TOKEN"]
    assert len(token) > 40
    assert all(token.encode() not in path.read_bytes() for path in tmp_path.glob("t.db*"))


async def test_watching_tells_every_event_once_and_closes_when_the_job_has_ended(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    await world.jobs.CancelFineTuningJob(pb.CancelFineTuningJobRequest(name=job.name))
    await world.move(job.name, "CANCELLED")
    sequences, states = [], []
    async for response in world.jobs.WatchFineTuningJob(pb.WatchFineTuningJobRequest(name=job.name), timeout_s=20):
        sequences += [event.sequence for event in response.events]
        states.append(response.fine_tuning_job.state)
    assert sequences == list(range(1, len(sequences) + 1))
    assert states[-1] == pb.FineTuningJob.STATE_CANCELLED


async def test_pages_of_jobs_follow_one_another(world: World) -> None:
    names = [(await world.create()).name for _ in range(3)]
    first = await world.jobs.ListFineTuningJobs(pb.ListFineTuningJobsRequest(parent="projects/default", page_size=2))
    second = await world.jobs.ListFineTuningJobs(
        pb.ListFineTuningJobsRequest(parent="projects/default", page_size=2, page_token=first.next_page_token)
    )
    assert [job.name for job in [*first.fine_tuning_jobs, *second.fine_tuning_jobs]] == names[::-1]
    assert second.next_page_token == ""
