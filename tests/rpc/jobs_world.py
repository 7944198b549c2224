"""A gateway with the real dataset and trainer services behind it; workers, model server and `inference` do what a test says."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
from afina.v1 import (
    catalogue_pb2,
    dataset_pb2,
    dataset_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    fine_tuning_job_pb2,
    fine_tuning_job_pb2_grpc,
    upload_pb2,
    upload_pb2_grpc,
)

from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.database import NewEvent
from services.common.ports.manifest import Manifest, put_folder
from services.common.reconcile import Reconciler
from services.common.transport.grpc_server import registration
from services.dataset.rpc import DatasetRpc, FileRpc
from services.dataset.upload_rpc import UploadRpc
from services.dataset.uploading import Uploads
from services.dataset.use_cases import Library
from services.gateway.app import Limits
from services.trainer import token_count
from services.trainer.attempts import reconcile_job
from services.trainer.clients import GrpcPeers
from services.trainer.job import KIND
from services.trainer.rpc import FineTuningJobRpc
from services.trainer.token_counts import reconcile_count
from services.trainer.use_cases import Trainer
from tests.builders import chat, eventually, free_port, jsonl, serving
from tests.fakes import ScriptedLauncher, scripted_count
from tests.fakes_upstream import RunningGateway, ScriptedInference, ScriptedUpstream, running_gateway

ADAPTER = "ad" * 32  # the digest that ScriptedInference gives what it registers
ROWS = jsonl(chat(f"Is number {n} even?", "yes" if n % 2 == 0 else "no") for n in range(60))

# What old code asks for; the operator's catalogue leads them to his base.
ALIASES = ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-3.5-turbo", "gpt-4", "davinci-002")
METRIC = {"step": 5, "train_loss": 0.5, "train_accuracy": 0.75, "validation_loss": 0.625, "validation_accuracy": 0.5}


@dataclass
class World:
    gateway: RunningGateway
    trainer: Trainer
    launcher: ScriptedLauncher
    inference: ScriptedInference
    upstream: ScriptedUpstream
    store: LocalObjectStore
    uploads: Uploads

    @property
    def client(self) -> openai.AsyncOpenAI:
        return self.gateway.client()

    async def upload(self, rows: bytes = ROWS, name: str = "rows.jsonl") -> str:
        return (await self.client.files.create(file=(name, rows), purpose="fine-tune")).id

    async def status(self, job_id: str, status: str) -> Any:
        async def look() -> Any:
            job = await self.client.fine_tuning.jobs.retrieve(job_id)
            return job if job.status == status else None

        return await eventually(look)

    async def train(self, job_id: str) -> None:
        """Do what a worker does: report a step, commit the result."""
        name = f"projects/default/fineTuningJobs/{job_id}"
        await eventually(lambda: f"{job_id}-1" in self.launcher.manifests)
        step = {"step": 4, "total_steps": 5, "epoch": 0.8, "train_loss": 0.5, "eta_s": 30.0, "trained_tokens": 1234}
        await self.trainer.database.append(KIND, name, [NewEvent("STEP", "Step 4 of 5.", data=step)])
        key = f"jobs/{job_id}/checkpoints-published/{{}}.json"
        published = [{"step": s, "manifest_key": key.format(s), "metrics": {**METRIC, "step": s}} for s in (2, 4, 5)]
        data = {"metrics": [METRIC], "published_checkpoints": published}
        self.store.commit(f"jobs/{job_id}/manifest.json", Manifest("adapter", (), data).to_json())

    async def serve_base(self, *names: str) -> None:
        """Do what inference does with a base and its aliases: give each name a route."""
        for name in names:
            self.inference.put(name, "models/b", ADAPTER, self.upstream.replica(ADAPTER), kind="base")
        await self.gateway.knows(names[-1])

    async def serve(self, public_id: str, model: str) -> None:
        """Do what inference does with a proven model: give it a route."""
        self.inference.put(public_id, model, ADAPTER, self.upstream.replica(ADAPTER), kind="adapter", project="default")
        await self.gateway.knows(public_id)


@contextlib.asynccontextmanager
async def jobs_world(tmp_path: Path, clock: Callable[[], datetime] | None = None) -> AsyncIterator[World]:
    """Run the dataset and trainer services and a gateway in a folder."""
    store, launcher = LocalObjectStore(tmp_path / "objects"), ScriptedLauncher()
    launcher.run_errand = scripted_count(store)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"hidden_size": 576, "architectures": ["LlamaForCausalLM"]}))
    store.commit("manifests/bases/b.json", put_folder(store, "bases", base, "base", {}).to_json())
    library = Library(SqlDatabase(f"sqlite:///{tmp_path}/dataset.db"), store)
    uploads = Uploads(library, clock or (lambda: datetime.now(UTC)))
    async with contextlib.AsyncExitStack() as stack:
        inference = await stack.enter_async_context(ScriptedInference().running())
        upstream = await stack.enter_async_context(ScriptedUpstream(ADAPTER).running())
        for alias in ("tiny", *ALIASES):
            inference.entries[f"catalogueEntries/{alias}"] = catalogue_pb2.CatalogueEntry(
                name="catalogueEntries/tiny", model="models/b", digest="b" * 64, manifest_key="manifests/bases/b.json"
            )
        dataset = await stack.enter_async_context(
            serving(
                registration(file_pb2_grpc, file_pb2, "FileService", FileRpc(library)),
                registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", DatasetRpc(library)),
                registration(upload_pb2_grpc, upload_pb2, "UploadService", UploadRpc(uploads)),
            )
        )
        database = SqlDatabase(f"sqlite:///{tmp_path}/trainer.db")
        trainer = Trainer(database, store, launcher, GrpcPeers(dataset, inference.address, f"127.0.0.1:{free_port()}"), {})
        service = registration(fine_tuning_job_pb2_grpc, fine_tuning_job_pb2, "FineTuningJobService", FineTuningJobRpc(trainer))
        address = await stack.enter_async_context(serving(service))
        loop = Reconciler(database, KIND, functools.partial(reconcile_job, trainer), idle_s=0.02)
        counting = Reconciler(database, token_count.KIND, functools.partial(reconcile_count, trainer), idle_s=0.02)
        for reconciler in (loop, counting):
            stack.callback(asyncio.ensure_future(reconciler.run()).cancel)
        limits = Limits(max_file_bytes=2 << 20)
        gateway = await stack.enter_async_context(
            running_gateway(tmp_path, inference.address, dataset=dataset, trainer=address, limits=limits)
        )
        yield World(gateway, trainer, launcher, inference, upstream, store, uploads)
