"""The trainer as its clients see it: real gRPC, real SQLite and files; the workers end on cue."""

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import fine_tuning_job_pb2_grpc, resources_pb2, worker_pb2, worker_pb2_grpc

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.manifest import Manifest, put_folder
from services.common.reconcile import Reconciler
from services.common.transport import wire
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import registration
from services.trainer.attempts import reconcile_job
from services.trainer.job import KIND
from services.trainer.rpc import TOKEN_KEY, FineTuningJobRpc, WorkerRpc
from services.trainer.use_cases import Trainer
from tests.builders import serving
from tests.fakes import ScriptedLauncher

FILE = "projects/default/files/file-1"
DATASET = "projects/default/datasets/ds-1"


@dataclass
class ScriptedPeers:
    """dataset and inference, as told."""

    base_manifest_key: str
    file_error: errors.AfinaError | None = None
    proof_errors: list[errors.AfinaError] = field(default_factory=list)
    registered: list[tuple[str, str, str]] = field(default_factory=list)

    async def finalize(self, file: str, split: Mapping[str, Any], validation_file: str) -> str:
        if self.file_error:
            raise self.file_error
        return DATASET

    async def dataset(self, name: str) -> dict[str, Any]:
        part = {"key": "datasets/x", "size_bytes": 1, "sha256": "0" * 64, "row_count": 800}
        return {
            "name": name,
            "digest": "d" * 64,
            "train": part,
            "validation": None,
            "test": None,
            "row_count": 800,
            "warnings": [],
        }

    async def file_exists(self, name: str) -> None:
        if name != FILE:
            raise errors.NotFound(f"There is no {name}.")

    async def base(self, public_id: str) -> dict[str, Any]:
        if public_id != "tiny":
            raise errors.NotFound(f"There is no base {public_id}.")
        return {"manifest_key": self.base_manifest_key, "digest": "b" * 64, "name": "models/b", "public_id": "tiny"}

    async def register(self, project: str, manifest_key: str, suffix: str) -> tuple[str, str]:
        self.registered.append((project, manifest_key, suffix))
        return "projects/default/models/m", "ft:tiny:default::m"

    async def prove(self, model: str) -> dict[str, Any]:
        if self.proof_errors:
            raise self.proof_errors.pop(0)
        return {"mean_difference": 0.05}


@dataclass
class World:
    jobs: Client
    workers: Client
    trainer: Trainer
    launcher: ScriptedLauncher
    peers: ScriptedPeers
    store: LocalObjectStore
    loop: Reconciler

    async def create(self, **fields: Any) -> pb.FineTuningJob:
        job = pb.FineTuningJob(**{"base_model": "tiny", "training_file": FILE, **fields})
        request = pb.CreateFineTuningJobRequest(parent="projects/default", fine_tuning_job=job)
        created: pb.FineTuningJob = await self.jobs.CreateFineTuningJob(request)
        return created

    async def get(self, name: str) -> pb.FineTuningJob:
        job: pb.FineTuningJob = await self.jobs.GetFineTuningJob(pb.GetFineTuningJobRequest(name=name))
        return job

    async def state(self, name: str) -> str:
        return str(pb.FineTuningJob.State.Name((await self.get(name)).state)).removeprefix("STATE_")

    async def move(self, name: str, state: str) -> None:
        """Let the loop run until a job has a state."""
        for _ in range(30):
            if await self.state(name) == state:
                return
            record = await self.trainer.database.get(KIND, name)
            if record.due_time is not None:
                await self.trainer.database.wake(KIND, name, record.create_time)
            await self.loop.run_once()
        raise AssertionError(f"{name} is {await self.state(name)}, not {state}")

    def commit_result(self, name: str) -> None:
        job_id = name.rpartition("/")[2]
        self.store.commit(f"jobs/{job_id}/manifest.json", Manifest("adapter", (), {}).to_json())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = LocalObjectStore(tmp_path / "objects")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"hidden_size": 576, "architectures": ["LlamaForCausalLM"]}))
    store.commit("manifests/bases/b.json", put_folder(store, "bases", base, "base", {}).to_json())
    launcher, peers = ScriptedLauncher(), ScriptedPeers("manifests/bases/b.json")
    trainer = Trainer(SqlDatabase(f"sqlite:///{tmp_path}/t.db"), store, launcher, peers, {"EXTRA": "1"})
    registrations = [
        registration(fine_tuning_job_pb2_grpc, pb, "FineTuningJobService", FineTuningJobRpc(trainer)),
        registration(worker_pb2_grpc, worker_pb2, "WorkerService", WorkerRpc(trainer)),
    ]
    loop = Reconciler(trainer.database, KIND, functools.partial(reconcile_job, trainer))
    async with serving(*registrations) as address, contextlib.AsyncExitStack() as stack:
        jobs = Client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, address)
        workers = Client(worker_pb2_grpc.WorkerServiceStub, address)
        stack.push_async_callback(jobs.close)
        stack.push_async_callback(workers.close)
        stack.push_async_callback(trainer.database.close)
        yield World(jobs, workers, trainer, launcher, peers, store, loop)


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


async def report(world: World, name: str, token: str, first: int, *steps: int, attempt: int = 1) -> bool:
    events = [
        resources_pb2.Event(type="STEP", message="s", data=wire.struct({"step": s, "total_steps": 50, "train_loss": 0.5}))
        for s in steps
    ]
    request = worker_pb2.ReportProgressRequest(name=name, attempt=attempt, first_number=first, events=events)
    response = await world.workers.ReportProgress(request, metadata=((TOKEN_KEY, token),))
    return bool(response.stop_requested)


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
