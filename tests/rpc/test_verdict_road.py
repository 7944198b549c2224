"""From an upload to a verdict and a promotion, through the four real services; workers and model server are scripted."""

import contextlib
import functools
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from afina.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    fine_tuning_job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    suite_pb2,
    suite_pb2_grpc,
)
from afina.v1 import fine_tuning_job_pb2 as pb

from services.common.backends.database.sql import SqlDatabase
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.reconcile import Reconciler
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import registration
from services.dataset.rpc import DatasetRpc, FileRpc
from services.dataset.use_cases import Library
from services.evaluator import evaluation
from services.evaluator.attempts import reconcile_evaluation
from services.evaluator.clients import Peers
from services.evaluator.rpc import EvaluationRpc, SuiteRpc
from services.evaluator.use_cases import Evaluator
from services.inference.clients import GrpcEvaluations
from services.inference.rpc import CatalogueRpc, EndpointRpc, ModelRpc
from services.trainer import job, token_count
from services.trainer.attempts import reconcile_job
from services.trainer.clients import GrpcPeers
from services.trainer.rpc import FineTuningJobRpc
from services.trainer.token_counts import reconcile_count
from services.trainer.use_cases import Trainer
from tests.builders import chat, eventually, jsonl, serving
from tests.fakes import ScriptedLauncher, scripted_count
from tests.rpc.dataset_world import messages
from tests.rpc.inference_world import PARENT, World, inference_world
from tests.unit.evaluator.world import ScriptedKeys

ROWS = jsonl(chat(f"Is number {n} even?", "yes" if n % 2 == 0 else "no") for n in range(600))
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512, "hidden_size": 64}).encode()


@dataclass
class Road:
    """The four services, and what moves them."""

    world: World
    trainer: Trainer
    evaluator: Evaluator
    loops: dict[str, Reconciler]
    files: Client
    datasets: Client
    jobs: Client
    evaluations: Client
    models: Client
    endpoints: Client

    def peers(self) -> GrpcPeers:
        """The trainer's way to ask."""
        assert isinstance(self.trainer.peers, GrpcPeers)
        return self.trainer.peers

    async def create(self, **fields: Any) -> pb.FineTuningJob:
        """Upload rows and start a job."""
        file = await self.files.CreateFile(messages(ROWS, "rows.jsonl"))
        asked = pb.FineTuningJob(base_model="tiny", training_file=file.name, **fields)
        request = pb.CreateFineTuningJobRequest(parent=PARENT, fine_tuning_job=asked)
        created: pb.FineTuningJob = await self.jobs.CreateFineTuningJob(request)
        return created

    async def commit_adapter(self, name: str) -> None:
        """Do what a worker does: publish an adapter, with its provenance."""
        found = await self.jobs.GetFineTuningJob(pb.GetFineTuningJobRequest(name=name))
        dataset = await self.datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=found.dataset))
        key = self.world.put_adapter(job=name.rpartition("/")[2])
        made = Manifest.from_json(self.world.store.read(key))
        data = {**made.data, "job": name, "metrics": [], "dataset": {"name": dataset.name, "digest": dataset.digest}}
        self.world.store.delete(key)
        self.world.store.commit(key, replace(made, data=data).to_json())

    async def commit_scores(self, found: pb.FineTuningJob, base: str) -> None:
        """Do what an evaluation's worker does: publish counts, here clear ones."""
        name = found.evaluation
        pair = {
            "champion": base, "champion_prompt": "zero-shot", "candidate": found.model, "candidate_prompt": "zero-shot",
            "item_count": 60, "candidate_only_count": 30, "champion_only_count": 2, "effect": 0.4667,
        }  # fmt: skip
        own = f"evaluations/{name.rpartition('/')[2]}"
        answers = ManifestFile("answers.jsonl", self.world.store.put(f"{own}/files", io.BytesIO(b"{}\n")))
        data = {"evaluation": name, "scores": [], "comparisons": [pair]}
        manifest = Manifest("evaluation", (answers,), data)
        for _ in range(3):  # until an attempt was launched
            await self.look(evaluation.KIND)
        self.world.store.commit(f"{own}/manifest.json", manifest.to_json())

    async def look(self, kind: str) -> None:
        """Look once at everything of a kind, whenever it is due."""
        database = self.evaluator.database if kind == evaluation.KIND else self.trainer.database
        for record in await database.list(kind, ""):
            if record.due_time is not None:
                await database.wake(kind, record.name, record.create_time)
        await self.loops[kind].run_once()

    async def until(self, name: str, is_as_wanted: Callable[[pb.FineTuningJob], Any]) -> pb.FineTuningJob:
        """Let every loop run until a job is as wanted."""

        async def look() -> pb.FineTuningJob | None:
            for kind in self.loops:
                await self.look(kind)
            found: pb.FineTuningJob = await self.jobs.GetFineTuningJob(pb.GetFineTuningJobRequest(name=name))
            return found if is_as_wanted(found) else None

        reached: pb.FineTuningJob = await eventually(look, timeout_s=60)
        return reached


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(inference_world(tmp_path))
        library = Library(SqlDatabase(f"sqlite:///{tmp_path}/d.db"), world.store)
        rows = await stack.enter_async_context(
            serving(
                registration(file_pb2_grpc, file_pb2, "FileService", FileRpc(library)),
                registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", DatasetRpc(library)),
                registration(api_key_pb2_grpc, api_key_pb2, "ApiKeyService", ScriptedKeys()),
            )
        )
        peers = Peers(rows, world.address, rows)
        evaluator = Evaluator(SqlDatabase(f"sqlite:///{tmp_path}/e.db"), world.store, ScriptedLauncher(), peers, {})
        questions = await stack.enter_async_context(
            serving(
                registration(suite_pb2_grpc, suite_pb2, "SuiteService", SuiteRpc(evaluator)),
                registration(evaluation_pb2_grpc, evaluation_pb2, "EvaluationService", EvaluationRpc(evaluator)),
            )
        )
        inference = replace(world.inference, evaluations=GrpcEvaluations(questions))  # the world's own reads a scripted evaluator
        models = await stack.enter_async_context(
            serving(
                registration(model_pb2_grpc, model_pb2, "ModelService", ModelRpc(inference)),
                registration(catalogue_pb2_grpc, catalogue_pb2, "CatalogueService", CatalogueRpc(inference)),
                registration(endpoint_pb2_grpc, endpoint_pb2, "EndpointService", EndpointRpc(inference)),
            )
        )
        launcher = ScriptedLauncher()
        launcher.run_errand = scripted_count(world.store)
        asked = GrpcPeers(rows, models, questions)
        trainer = Trainer(SqlDatabase(f"sqlite:///{tmp_path}/t.db"), world.store, launcher, asked, {})
        jobs = await stack.enter_async_context(
            serving(registration(fine_tuning_job_pb2_grpc, pb, "FineTuningJobService", FineTuningJobRpc(trainer)))
        )
        clients = {
            "files": Client(file_pb2_grpc.FileServiceStub, rows),
            "datasets": Client(dataset_pb2_grpc.DatasetServiceStub, rows),
            "jobs": Client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, jobs),
            "evaluations": Client(evaluation_pb2_grpc.EvaluationServiceStub, questions),
            "models": Client(model_pb2_grpc.ModelServiceStub, models),
            "endpoints": Client(endpoint_pb2_grpc.EndpointServiceStub, models),
        }
        loops = {
            job.KIND: Reconciler(trainer.database, job.KIND, functools.partial(reconcile_job, trainer)),
            token_count.KIND: Reconciler(trainer.database, token_count.KIND, functools.partial(reconcile_count, trainer)),
            evaluation.KIND: Reconciler(evaluator.database, evaluation.KIND, functools.partial(reconcile_evaluation, evaluator)),
        }
        for close in (library.database.close, evaluator.database.close, peers.close, trainer.database.close):
            stack.push_async_callback(close)
        for client in clients.values():
            stack.push_async_callback(client.close)
        yield Road(world, trainer, evaluator, loops, **clients)


async def test_a_job_is_judged_on_rows_that_it_has_not_seen_and_its_model_is_promoted_by_that_evaluation(road: Road) -> None:
    entry = await road.world.add_base(road.world.put_base(config__json=CONFIG))
    created = await road.create()
    await road.until(created.name, lambda found: found.state == pb.FineTuningJob.STATE_RUNNING)
    await road.commit_adapter(created.name)
    begun = await road.until(created.name, lambda found: found.evaluation)
    assert (begun.state, begun.awaits_verdict) == (pb.FineTuningJob.STATE_SUCCEEDED, True)
    await road.commit_scores(begun, entry.model)
    judged = await road.until(created.name, lambda found: not found.awaits_verdict)
    assert judged.verdict.answer == model_pb2.Verdict.ANSWER_BETTER, judged
    assert (await road.models.GetModel(model_pb2.GetModelRequest(name=judged.model))).verdict == judged.verdict

    finished = await road.evaluations.GetEvaluation(evaluation_pb2.GetEvaluationRequest(name=judged.evaluation))
    assert finished.suite == f"{PARENT}/suites/default-{judged.dataset.rpartition('/')[2]}"
    findings = {one.model: one.finding for one in finished.held_out}
    assert findings == {
        entry.model: evaluation_pb2.HeldOut.FINDING_UNKNOWN,
        judged.model: evaluation_pb2.HeldOut.FINDING_SAME_SPLIT,
    }
    # Two labels: each model is asked 60 test rows, and 60 validation rows, which choose between its answers and the constant.
    assert finished.question_count == 2 * (60 + 60)

    endpoint = endpoint_pb2.CreateEndpointRequest(parent=PARENT, endpoint_id="support", endpoint=endpoint_pb2.Endpoint())
    await road.endpoints.CreateEndpoint(endpoint)
    promoted = await road.endpoints.PromoteEndpoint(
        endpoint_pb2.PromoteEndpointRequest(name=f"{PARENT}/endpoints/support", model=judged.model, evaluation=judged.evaluation)
    )
    assert promoted.model == judged.model


async def test_another_split_of_the_same_file_is_no_evidence(road: Road) -> None:
    """The model was trained on one split; it is asked the test rows of another, most of which it has seen."""
    entry = await road.world.add_base(road.world.put_base(config__json=CONFIG))
    created = await road.create(evaluation_settings=pb.JobEvaluation(is_disabled=True))
    await road.until(created.name, lambda found: found.state == pb.FineTuningJob.STATE_RUNNING)
    await road.commit_adapter(created.name)
    done = await road.until(created.name, lambda found: found.state == pb.FineTuningJob.STATE_SUCCEEDED)
    assert not done.evaluation
    split = dataset_pb2.Split(seed=7)
    other = await road.files.FinalizeFile(file_pb2.FinalizeFileRequest(name=done.training_file, split=split))
    suite = await road.peers().default_suite("default", other.name)
    begun = await road.peers().begin_evaluation("default", suite, {entry.model: [], done.model: []}, "by-hand")
    await road.look(evaluation.KIND)
    found = await road.evaluations.GetEvaluation(evaluation_pb2.GetEvaluationRequest(name=begun["name"]))
    (seen,) = [one for one in found.held_out if one.model == done.model]
    assert seen.finding == evaluation_pb2.HeldOut.FINDING_OVERLAPS
    assert seen.row_count == 60
    assert 40 < seen.overlap_count < 60  # nine of ten rows train or validate in the first split
    done.evaluation = begun["name"]
    await road.commit_scores(done, entry.model)
    await road.look(evaluation.KIND)
    judged = await road.models.JudgeModel(model_pb2.JudgeModelRequest(name=done.model, evaluation=begun["name"]))
    assert judged.verdict.answer == model_pb2.Verdict.ANSWER_INSUFFICIENT_EVIDENCE
    assert "trained" in judged.verdict.sentence
