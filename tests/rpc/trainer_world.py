"""A trainer for tests: real gRPC, real SQLite and files; workers end on cue, other programs answer as told."""

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import (
    fine_tuning_job_pb2_grpc,
    resources_pb2,
    store_access_pb2,
    store_access_pb2_grpc,
    sweep_pb2,
    sweep_pb2_grpc,
    token_count_pb2,
    token_count_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.database import Record
from services.common.ports.manifest import Manifest, put_folder
from services.common.ports.object_store import ObjectStore
from services.common.reconcile import Reconciler
from services.common.transport import wire
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import registration
from services.common.transport.worker_reports import TOKEN_KEY, WorkerRpc
from services.trainer import sweep, token_count
from services.trainer.attempts import reconcile_job
from services.trainer.job import KIND
from services.trainer.rpc import FineTuningJobRpc, store_access_rpc
from services.trainer.sweep_rpc import SweepRpc
from services.trainer.sweeps import reconcile_sweep
from services.trainer.token_count_rpc import TokenCountRpc
from services.trainer.token_counts import reconcile_count
from services.trainer.use_cases import Trainer, report_progress
from tests.builders import serving
from tests.fakes import ScriptedLauncher, scripted_count

FILE = "projects/default/files/file-1"
DATASET = "projects/default/datasets/ds-1"
SUITE = "projects/default/suites/mine"
HELD_OUT = {"key": "datasets/t", "size_bytes": 1, "sha256": "0" * 64, "row_count": 80}


@dataclass
class ScriptedPeers:
    """dataset, inference and evaluator, as told."""

    base_manifest_key: str
    file_error: errors.AfinaError | None = None
    proof_errors: list[errors.AfinaError] = field(default_factory=list)
    registered: list[tuple[str, str, str]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    refused_steps: set[int] = field(default_factory=set)
    results: dict[str, bytes] = field(default_factory=dict)
    validation: dict[str, Any] | None = None
    test: dict[str, Any] | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)  # by request id: what was asked, and how it stands
    suite_error: errors.AfinaError | None = None
    away: set[str] = field(default_factory=set)  # verbs of programs that are away
    answer: str = "BETTER"
    judged: list[tuple[str, str]] = field(default_factory=list)

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
            "validation": self.validation,
            "test": self.test,
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

    async def register(self, project: str, manifest_key: str, suffix: str, step: int = 0) -> tuple[str, str]:
        if step in self.refused_steps:
            raise errors.InvalidInput("Its weights are not finite.", reason="ADAPTER_NOT_FINITE")
        self.registered.append((project, manifest_key, suffix))
        if step:
            self.steps.append(step)
            return f"projects/default/models/m{step}", f"ft:tiny:default::m{step}:ckpt-step-{step}"
        return "projects/default/models/m", "ft:tiny:default::m"

    async def keep_results(self, project: str, display_name: str, content: bytes, request_id: str) -> str:
        self.results[request_id] = content
        return f"projects/{project}/files/file-{len(self.results)}"

    async def prove(self, model: str) -> dict[str, Any]:
        if self.proof_errors:
            raise self.proof_errors.pop(0)
        return {"mean_difference": 0.05}

    async def suite(self, name: str) -> None:
        if name != SUITE:
            raise errors.NotFound(f"There is no {name}.")

    async def default_suite(self, project: str, dataset: str) -> str:
        self._require("default_suite")
        if self.suite_error:
            raise self.suite_error
        return f"projects/{project}/suites/default-{dataset.rpartition('/')[2]}"

    async def begin_evaluation(
        self, project: str, suite: str, subjects: Mapping[str, Sequence[str]], request_id: str
    ) -> dict[str, Any]:
        self._require("begin_evaluation")
        name = f"projects/{project}/evaluations/eval-{len(self.evaluations) + 1}"
        asked = {"name": name, "suite": suite, "subjects": dict(subjects), "state": "RUNNING", "error": ""}
        begun = self.evaluations.setdefault(request_id, asked)
        return {"name": begun["name"], "question_count": 160}

    async def evaluation(self, name: str) -> dict[str, Any]:
        self._require("evaluation")
        (found,) = [one for one in self.evaluations.values() if one["name"] == name]
        return {"state": found["state"], "has_ended": found["state"] != "RUNNING", "error": found["error"]}

    async def judge(self, model: str, evaluation: str) -> dict[str, Any]:
        self._require("judge")
        self.judged.append((model, evaluation))
        needed = 320 if self.answer == "INSUFFICIENT_EVIDENCE" else 0
        return {
            "answer": self.answer, "sentence": f"{self.answer.capitalize()}: on 80 items 20 to 5.",
            "evaluation": evaluation, "item_count": 80,
            "effect": 0.1875, "p_value": 0.004, "items_needed": needed, "champion": "models/b",
            "create_time": "2026-11-24T12:00:00+00:00",
        }  # fmt: skip

    def end_evaluations(self, state: str = "SUCCEEDED", error: str = "") -> None:
        """Let every evaluation end."""
        for evaluation in self.evaluations.values():
            evaluation |= {"state": state, "error": error}

    def _require(self, verb: str) -> None:
        if verb in self.away:
            raise errors.Unavailable("Nothing answers.", reason="UNREACHABLE")


@dataclass
class World:
    jobs: Client
    workers: Client
    trainer: Trainer
    launcher: ScriptedLauncher
    peers: ScriptedPeers
    store: ObjectStore
    loop: Reconciler
    counts: Client
    counting: Reconciler
    sweeps: Client
    sweeping: Reconciler

    async def create(self, **fields: Any) -> pb.FineTuningJob:
        job = pb.FineTuningJob(**{"base_model": "tiny", "training_file": FILE, **fields})
        request = pb.CreateFineTuningJobRequest(parent="projects/default", fine_tuning_job=job)
        created: pb.FineTuningJob = await self.jobs.CreateFineTuningJob(request)
        return created

    async def get(self, name: str) -> pb.FineTuningJob:
        job: pb.FineTuningJob = await self.jobs.GetFineTuningJob(pb.GetFineTuningJobRequest(name=name))
        return job

    async def record(self, name: str) -> Record:
        return await self.trainer.database.get(KIND, name)

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
            await self.count()
        raise AssertionError(f"{name} is {await self.state(name)}, not {state}")

    async def step(self, name: str) -> None:
        """Look at a job once, whenever it is due."""
        record = await self.trainer.database.get(KIND, name)
        if record.due_time is not None:
            await self.trainer.database.wake(KIND, name, record.create_time)
            await self.loop.run_once()

    async def events(self, name: str) -> list[Any]:
        request = pb.ListFineTuningJobEventsRequest(name=name, page_size=1000)
        return list((await self.jobs.ListFineTuningJobEvents(request)).events)

    async def train(self, name: str) -> None:
        """Let a job succeed."""
        await self.move(name, "RUNNING")
        self.commit_result(name)
        await self.move(name, "SUCCEEDED")

    async def count(self) -> None:
        """Let every count be looked at once."""
        for record in await self.trainer.database.list(token_count.KIND, ""):
            if record.due_time is not None:
                await self.trainer.database.wake(token_count.KIND, record.name, record.create_time)
        while await self.counting.run_once():
            pass

    async def pause(self, name: str) -> pb.FineTuningJob:
        job: pb.FineTuningJob = await self.jobs.PauseFineTuningJob(pb.PauseFineTuningJobRequest(name=name))
        return job

    async def resume(self, name: str) -> pb.FineTuningJob:
        job: pb.FineTuningJob = await self.jobs.ResumeFineTuningJob(pb.ResumeFineTuningJobRequest(name=name))
        return job

    def commit_result(self, name: str, **data: Any) -> None:
        job_id = name.rpartition("/")[2]
        self.store.commit(f"jobs/{job_id}/manifest.json", Manifest("adapter", (), data).to_json())


@contextlib.asynccontextmanager
async def trainer_world(tmp_path: Path, store: ObjectStore | None = None) -> AsyncIterator[World]:
    """Serve the trainer from a folder, with its objects there or in another store."""
    store = store or LocalObjectStore(tmp_path / "objects")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"hidden_size": 576, "architectures": ["LlamaForCausalLM"]}))
    store.commit("manifests/bases/b.json", put_folder(store, "bases", base, "base", {}).to_json())
    launcher, peers = ScriptedLauncher(), ScriptedPeers("manifests/bases/b.json")
    launcher.run_errand = scripted_count(store)
    environment = {"EXTRA": "1"}
    trainer = Trainer(SqlDatabase(f"sqlite:///{tmp_path}/t.db"), store, launcher, peers, environment)
    registrations = [
        registration(fine_tuning_job_pb2_grpc, pb, "FineTuningJobService", FineTuningJobRpc(trainer)),
        registration(sweep_pb2_grpc, sweep_pb2, "SweepService", SweepRpc(trainer)),
        registration(token_count_pb2_grpc, token_count_pb2, "TokenCountService", TokenCountRpc(trainer)),
        registration(worker_pb2_grpc, worker_pb2, "WorkerService", WorkerRpc(functools.partial(report_progress, trainer))),
        registration(store_access_pb2_grpc, store_access_pb2, "StoreAccessService", store_access_rpc(trainer)),
    ]
    loop = Reconciler(trainer.database, KIND, functools.partial(reconcile_job, trainer))
    counting = Reconciler(trainer.database, token_count.KIND, functools.partial(reconcile_count, trainer))
    sweeping = Reconciler(trainer.database, sweep.KIND, functools.partial(reconcile_sweep, trainer))
    async with serving(*registrations) as address, contextlib.AsyncExitStack() as stack:
        environment["AFINA_REPORT_TO"] = address
        jobs = Client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, address)
        workers = Client(worker_pb2_grpc.WorkerServiceStub, address)
        counts = Client(token_count_pb2_grpc.TokenCountServiceStub, address)
        stack.push_async_callback(jobs.close)
        stack.push_async_callback(counts.close)
        sweeps = Client(sweep_pb2_grpc.SweepServiceStub, address)
        stack.push_async_callback(sweeps.close)
        stack.push_async_callback(workers.close)
        stack.push_async_callback(trainer.database.close)
        yield World(jobs, workers, trainer, launcher, peers, store, loop, counts, counting, sweeps, sweeping)


async def report(world: World, name: str, token: str, first: int, *steps: int, attempt: int = 1) -> bool:
    events = [
        resources_pb2.Event(type="STEP", message="s", data=wire.struct({"step": s, "total_steps": 50, "train_loss": 0.5}))
        for s in steps
    ]
    request = worker_pb2.ReportProgressRequest(name=name, attempt=attempt, first_number=first, events=events)
    response = await world.workers.ReportProgress(request, metadata=((TOKEN_KEY, token),))
    return bool(response.stop_requested)
