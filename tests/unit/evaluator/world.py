"""An evaluator over real gRPC, real SQLite and files, with its peers over gRPC, and what tests ask of it."""

import contextlib
import functools
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from afina.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    evaluation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    resources_pb2,
    store_access_pb2,
    store_access_pb2_grpc,
    suite_pb2,
    suite_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from afina.v1 import evaluation_pb2 as pb
from google.protobuf import empty_pb2

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.launcher import Launcher
from services.common.ports.manifest import Manifest, ManifestFile, put_folder
from services.common.ports.object_store import ObjectStore
from services.common.reconcile import Reconciler
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import registration
from services.common.transport.store_access_rpc import StoreAccessRpc
from services.common.transport.worker_reports import WorkerRpc
from services.evaluator.attempts import reconcile_evaluation
from services.evaluator.clients import Peers
from services.evaluator.evaluation import KIND
from services.evaluator.rpc import EvaluationRpc, SuiteRpc
from services.evaluator.use_cases import Evaluator, report_progress, store_grant
from tests.builders import chat, jsonl, serving
from tests.fakes import ScriptedLauncher
from tests.unit.evaluator.scripted_gateway import save_tokenizer

PARENT = "projects/default"
DATASET = f"{PARENT}/datasets/ds-1"
BASE, TUNED = "models/tiny", f"{PARENT}/models/tuned"
LABELS = ["negative", "neutral", "positive"]


@dataclass
class ScriptedDatasets(dataset_pb2_grpc.DatasetServiceServicer):
    """The dataset program, with what it was given."""

    datasets: dict[str, dataset_pb2.Dataset] = field(default_factory=dict)
    overlaps: dict[tuple[str, ...], list[int]] = field(default_factory=dict)  # by the datasets compared: the rows found
    is_comparing: bool = False

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context: grpc.aio.ServicerContext) -> dataset_pb2.Dataset:
        if request.name not in self.datasets:
            raise errors.NotFound(f"There is no {request.name}.")
        return self.datasets[request.name]

    async def CompareDatasets(
        self, request: dataset_pb2.CompareDatasetsRequest, context: grpc.aio.ServicerContext
    ) -> dataset_pb2.CompareDatasetsResponse:
        if self.is_comparing:
            raise errors.Unavailable("It is compared; ask again.")
        if missing := [name for name in request.others if name not in self.datasets]:
            raise errors.NotFound(f"There is no {missing[0]}.")
        rows = self.overlaps.get((request.name, *request.others), [])
        count = self.datasets[request.name].test.row_count
        return dataset_pb2.CompareDatasetsResponse(row_count=count, overlap_count=len(rows), rows=rows)


@dataclass
class ScriptedModels(model_pb2_grpc.ModelServiceServicer):
    """The inference program, with what it was given."""

    models: dict[str, model_pb2.Model] = field(default_factory=dict)

    async def GetModel(self, request: model_pb2.GetModelRequest, context: grpc.aio.ServicerContext) -> model_pb2.Model:
        for model in self.models.values():
            if request.name in (model.name, model.public_id):
                return model
        raise errors.NotFound(f"There is no {request.name}.")


@dataclass
class ScriptedKeys(api_key_pb2_grpc.ApiKeyServiceServicer):
    """The gateway, which issues keys and forgets them."""

    live: dict[str, api_key_pb2.CreateApiKeyRequest] = field(default_factory=dict)
    issued: int = 0

    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> api_key_pb2.CreateApiKeyResponse:
        self.issued += 1
        name = f"{request.parent}/apiKeys/key-{self.issued}"
        self.live[name] = request
        return api_key_pb2.CreateApiKeyResponse(api_key=api_key_pb2.ApiKey(name=name), secret=f"afina-secret-{self.issued}")

    async def DeleteApiKey(self, request: api_key_pb2.DeleteApiKeyRequest, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        if self.live.pop(request.name, None) is None:
            raise errors.NotFound(f"There is no {request.name}.")
        return empty_pb2.Empty()


@dataclass
class World:
    suites: Client
    evaluations: Client
    workers: Client
    evaluator: Evaluator
    store: ObjectStore
    datasets: ScriptedDatasets
    models: ScriptedModels
    keys: ScriptedKeys
    loop: Reconciler

    @property
    def launcher(self) -> ScriptedLauncher:
        assert isinstance(self.evaluator.launcher, ScriptedLauncher)
        return self.evaluator.launcher

    async def suite(self, suite_id: str = "reviews", **fields: Any) -> suite_pb2.Suite:
        given = suite_pb2.Suite(**{"dataset": DATASET, "prompts": prompts(), **fields})
        created: suite_pb2.Suite = await self.suites.CreateSuite(
            suite_pb2.CreateSuiteRequest(parent=PARENT, suite=given, suite_id=suite_id)
        )
        return created

    async def create(self, *subjects: pb.Subject, request_id: str = "", suite: str = "") -> pb.Evaluation:
        given = pb.Evaluation(
            suite=suite or (await self.suite()).name,
            subjects=subjects or [pb.Subject(model=BASE), pb.Subject(model=TUNED, prompts=["zero-shot"])],
        )
        request = pb.CreateEvaluationRequest(parent=PARENT, evaluation=given, request_id=request_id)
        created: pb.Evaluation = await self.evaluations.CreateEvaluation(request)
        return created

    async def get(self, name: str) -> pb.Evaluation:
        found: pb.Evaluation = await self.evaluations.GetEvaluation(pb.GetEvaluationRequest(name=name))
        return found

    async def state(self, name: str) -> str:
        return str(pb.Evaluation.State.Name((await self.get(name)).state)).removeprefix("STATE_")

    async def step(self, name: str) -> None:
        """Look at an evaluation once, whenever it is due."""
        record = await self.evaluator.database.get(KIND, name)
        if record.due_time is not None:
            await self.evaluator.database.wake(KIND, name, record.create_time)
        await self.loop.run_once()

    async def move(self, name: str, state: str) -> None:
        """Let the loop run until an evaluation has a state."""
        for _ in range(30):
            if await self.state(name) == state:
                return
            await self.step(name)
        raise AssertionError(f"{name} is {await self.state(name)}, not {state}")

    def hold(self, part: str, given: list[dict[str, Any]], name: str = DATASET) -> None:
        """Give a part of a dataset other rows."""
        dataset = self.datasets.datasets.setdefault(name, dataset_pb2.Dataset(name=name, digest="f" * 64))
        getattr(dataset, part).CopyFrom(part_of(self.store, given))

    def environment(self, name: str, attempt: int = 1) -> dict[str, str]:
        return self.launcher.environment(f"{id_of(name)}-{attempt}")

    def commit_result(self, name: str) -> None:
        answers = self.store.put(f"evaluations/{id_of(name)}/files", io.BytesIO(b"{}\n"))
        score = {
            "model": BASE, "prompt": "zero-shot", "accuracy": 0.5, "accuracy_low": 0.2, "accuracy_high": 0.8, "exact_match": 0.25,
            "macro_f1": 0.4, "item_count": 6, "confusion": [1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1],
        }  # fmt: skip
        comparison = {
            "champion": BASE, "champion_prompt": "zero-shot", "candidate": TUNED, "candidate_prompt": "zero-shot",
            "item_count": 6, "candidate_only_count": 3, "champion_only_count": 0, "effect": 0.5, "effect_low": 0.1,
            "effect_high": 0.8, "p_value": 0.25,
        }  # fmt: skip
        data = {"evaluation": name, "scores": [score], "comparisons": [comparison]}
        manifest = Manifest("evaluation", (ManifestFile("answers.jsonl", answers),), data)
        self.store.commit(f"evaluations/{id_of(name)}/manifest.json", manifest.to_json())

    def give_up(self, name: str, attempt: int, exit_code: int, reason: str, message: str) -> None:
        violation = {"field": "test row 3", "reason": reason, "description": "Row 3."}
        told = {"reason": reason, "message": message, "metadata": {}, "violations": [violation], "violation_count": 70}
        self.store.commit(f"evaluations/{id_of(name)}/error-{attempt}.json", json.dumps(told).encode())
        self.launcher.end(f"{id_of(name)}-{attempt}", exit_code)


def prompts() -> list[suite_pb2.Prompt]:
    return [
        suite_pb2.Prompt(id="zero-shot", method=suite_pb2.Prompt.METHOD_GENERATE),
        suite_pb2.Prompt(id="few-shot", method=suite_pb2.Prompt.METHOD_GENERATE, shots=3),
        suite_pb2.Prompt(id="label-scored", method=suite_pb2.Prompt.METHOD_SCORE_LABELS),
    ]


def id_of(name: str) -> str:
    return name.rpartition("/")[2]


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Reviews whose number says their sentiment: 0, 3, 6 … are negative."""
    return [chat(f"classify item {n}", LABELS[n % 3]) for n in range(first, first + count)]


def part_of(store: ObjectStore, given: list[dict[str, Any]]) -> dataset_pb2.DatasetPart:
    """Return rows as one side of a dataset."""
    artifact = store.put("datasets", io.BytesIO(jsonl(given)))
    return dataset_pb2.DatasetPart(row_count=len(given), artifact=resources_pb2.Artifact(**vars(artifact)))


@contextlib.asynccontextmanager
async def opened(
    tmp_path: Path, launcher: Launcher, environment: dict[str, str], keys_address: str = "", store: ObjectStore | None = None
) -> AsyncIterator[World]:
    """An evaluator with its peers; `keys_address` is a gateway's that issues real keys, `store` another than the folder's."""
    store = store or LocalObjectStore(tmp_path / "objects")
    datasets, models, keys = ScriptedDatasets(), ScriptedModels(), ScriptedKeys()
    fill(store, datasets, models, tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        peer_address = await stack.enter_async_context(
            serving(
                registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", datasets),
                registration(model_pb2_grpc, model_pb2, "ModelService", models),
                registration(api_key_pb2_grpc, api_key_pb2, "ApiKeyService", keys),
            )
        )
        peers = Peers(peer_address, peer_address, keys_address or peer_address)
        evaluator = Evaluator(SqlDatabase(f"sqlite:///{tmp_path}/e.db"), store, launcher, peers, environment)
        address = await stack.enter_async_context(
            serving(
                registration(suite_pb2_grpc, suite_pb2, "SuiteService", SuiteRpc(evaluator)),
                registration(evaluation_pb2_grpc, pb, "EvaluationService", EvaluationRpc(evaluator)),
                registration(
                    worker_pb2_grpc, worker_pb2, "WorkerService", WorkerRpc(functools.partial(report_progress, evaluator))
                ),
                registration(
                    store_access_pb2_grpc,
                    store_access_pb2,
                    "StoreAccessService",
                    StoreAccessRpc(store, functools.partial(store_grant, evaluator)),
                ),
            )
        )
        environment["AFINA_REPORT_TO"] = address
        suites = Client(suite_pb2_grpc.SuiteServiceStub, address)
        evaluations = Client(evaluation_pb2_grpc.EvaluationServiceStub, address)
        workers = Client(worker_pb2_grpc.WorkerServiceStub, address)
        for close in (evaluator.database.close, peers.close, suites.close, evaluations.close, workers.close):
            stack.push_async_callback(close)
        loop = Reconciler(evaluator.database, KIND, functools.partial(reconcile_evaluation, evaluator))
        yield World(suites, evaluations, workers, evaluator, store, datasets, models, keys, loop)


def fill(store: ObjectStore, datasets: ScriptedDatasets, models: ScriptedModels, tmp_path: Path) -> None:
    # One training row more of "positive", which so is the majority.
    train = [*rows(0, 9), chat("classify item 11", "positive")]
    datasets.datasets[DATASET] = dataset_pb2.Dataset(
        name=DATASET,
        digest="d" * 64,
        train=part_of(store, train),
        test=part_of(store, rows(9, 6)),
        label_counts={"negative": 5, "neutral": 5, "positive": 6},
    )
    folder = save_tokenizer(tmp_path / "base")
    (folder / "model.safetensors").write_bytes(b"weights")
    manifest = put_folder(store, "bases", folder, "base", {})
    store.commit("manifests/bases/tiny.json", manifest.to_json())
    active = model_pb2.Model.STATE_ACTIVE
    models.models["base"] = model_pb2.Model(
        name=BASE, kind=model_pb2.Model.KIND_BASE, state=active, digest="b" * 64, public_id="tiny",
        manifest_key="manifests/bases/tiny.json",
    )  # fmt: skip
    models.models["tuned"] = model_pb2.Model(
        name=TUNED, kind=model_pb2.Model.KIND_ADAPTER, state=active, digest="a" * 64, public_id="ft:tiny:default::1", base=BASE,
        manifest_key="jobs/j/manifest.json",
    )  # fmt: skip
