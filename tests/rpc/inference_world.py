"""The world of inference's tests: real gRPC, real SQLite and files; model servers and evaluations answer as told."""

import asyncio
import contextlib
import functools
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from afina.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    suite_pb2,
    suite_pb2_grpc,
)
from google.protobuf import field_mask_pb2

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.launcher import Workload
from services.common.ports.manifest import put_folder
from services.common.reconcile import Reconciler
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import registration
from services.inference.clients import GrpcEvaluations
from services.inference.fleet import reconcile_placement, reconcile_server
from services.inference.inference import Inference
from services.inference.routes import RouteTable
from services.inference.rpc import CatalogueRpc, EndpointRpc, ModelRpc
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Server
from tests.builders import serving
from tests.fakes import ScriptedLauncher, ScriptedModelServer
from tests.unit.inference import adapters

PARENT = "projects/default"
SUITE = f"{PARENT}/suites/reviews"
DATASET = f"{PARENT}/datasets/ds-reviews"
EVALUATION = f"{PARENT}/evaluations/eval-1"
ENDPOINT = f"{PARENT}/endpoints/support"
PROMPTS = ("zero-shot", "few-shot", "label-scored")


def digest_of(dataset: str) -> str:
    """Return the digest of a dataset that is not there, another for every name."""
    return hashlib.sha256(dataset.encode()).hexdigest()


class ScriptedEvaluator(evaluation_pb2_grpc.EvaluationServiceServicer, suite_pb2_grpc.SuiteServiceServicer):
    """The evaluator, as told."""

    def __init__(self) -> None:
        self.evaluation = evaluation_pb2.Evaluation(name=EVALUATION)
        self.suite_digest = "e" * 64
        self.suite_part = suite_pb2.Suite.PART_TEST

    async def GetEvaluation(
        self, request: evaluation_pb2.GetEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.Evaluation:
        if request.name != self.evaluation.name:
            raise errors.NotFound(f"There is no {request.name}.")
        return self.evaluation

    async def GetSuite(self, request: suite_pb2.GetSuiteRequest, context: grpc.aio.ServicerContext) -> suite_pb2.Suite:
        prompts = [suite_pb2.Prompt(id=prompt) for prompt in PROMPTS]
        return suite_pb2.Suite(
            name=request.name,
            digest=self.suite_digest,
            prompts=prompts,
            part=self.suite_part,
            dataset=DATASET,
            dataset_digest=digest_of(DATASET),
        )


@dataclass
class World:
    models: Client
    catalogue: Client
    endpoints: Client
    evaluator: ScriptedEvaluator
    inference: Inference
    launcher: ScriptedLauncher
    store: LocalObjectStore
    folder: Path
    servers: dict[str, ScriptedModelServer]
    answers: dict[str, float]
    refused: set[str]
    parts: dict[str, Any]
    base_digest: str = ""
    seed: int = 0
    address: str = ""
    loops: list[Reconciler] = field(default_factory=list)

    def put_base(self, name: str = "base", kind: str = "base", told: Any = None, **files: bytes) -> str:
        """Put a base's folder into the store and return the key of its manifest."""
        folder = self.folder / name
        folder.mkdir()
        weights = {f"{module}.weight": ("F32", np.zeros(shape, np.float32)) for module, shape in adapters.MODULES.items()}
        config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512, "name": name}
        contents = {
            "model.safetensors": adapters.safetensors(weights),
            "config.json": json.dumps(config).encode(),
            "tokenizer.json": b"{}",
            "tokenizer_config.json": b"{}",
            "chat_template.jinja": b"x",
            **{path.replace("__", "."): data for path, data in files.items()},
        }
        for path, data in contents.items():
            if data:
                (folder / path).write_bytes(data)
        manifest = put_folder(self.store, "bases", folder, kind, told or {})
        key = f"manifests/bases/{manifest.digest}.json"
        self.store.commit(key, manifest.to_json())
        return key

    def put_adapter(
        self,
        base_references: float = -3.0,
        rank: int = 2,
        tensors: Any = None,
        lengths: Any = (3,) * 8,
        dataset: str = DATASET,
        job: str = "",
        parent: str = PARENT,
        **changes: Any,
    ) -> str:
        """Put an adapter's folder into the store, as a job would, and return the key of its manifest.

        Units: `lengths` of golden prefixes in tokens.
        """
        self.seed += 1
        folder = self.folder / f"adapter-{self.seed}"
        adapters.write(folder, tensors or adapters.tensors(rank), adapters.config(r=rank, seed=self.seed, **changes))
        probe = {"token_ids": [7], "adapter_logprobs": [-1.0], "base_logprobs": [base_references]}
        chats = [
            {
                "messages": [{"role": "user", "content": "hi"}],
                "prompt_token_ids": [1, 2, 3],
                "probes": [{**probe, "prefix_token_ids": [1] * length}],
            }
            for length in lengths
        ]
        (folder / "golden.json").write_text(json.dumps({"base_digest": self.base_digest, "chats": chats}))
        job = job or f"job-{self.seed}"
        data = {
            "job": f"{parent}/fineTuningJobs/{job}",
            "base": {"digest": self.base_digest},
            "recipe": {"rank": rank},
            "metrics": [1, 2],
        }
        data |= {"dataset": {"name": dataset, "digest": digest_of(dataset)}} if dataset else {}
        key = f"jobs/{job}/manifest.json"
        manifest = put_folder(self.store, f"jobs/{job}/files", folder, "adapter", data)
        self.store.commit(key, manifest.to_json())
        return key

    async def add_base(self, manifest_key: str = "", entry_id: str = "tiny", **fields: Any) -> catalogue_pb2.CatalogueEntry:
        entry = catalogue_pb2.CatalogueEntry(manifest_key=manifest_key or self.put_base(), **fields)
        request = catalogue_pb2.CreateCatalogueEntryRequest(catalogue_entry_id=entry_id, catalogue_entry=entry)
        created: catalogue_pb2.CatalogueEntry = await self.catalogue.CreateCatalogueEntry(request)
        self.base_digest = created.digest
        return created

    def put_full(self, base: str = "", golden: Any = None, **files: bytes) -> str:
        """Put full weights into the store, as an import would, and return the key of their manifest."""
        self.seed += 1
        extra = {} if golden is None else {"golden__json": json.dumps(golden).encode()}
        told: dict[str, Any] = (
            {"base": {"digest": base}, "dataset": {"name": DATASET, "digest": digest_of(DATASET)}} if base else {}
        )
        return self.put_base(f"full-{self.seed}", "full", told, **extra, **files)

    async def update(self, mask: str, etag: str = "", **fields: Any) -> catalogue_pb2.CatalogueEntry:
        """Write the fields of a mask, comma-separated, of catalogueEntries/tiny."""
        entry = catalogue_pb2.CatalogueEntry(**{"name": "catalogueEntries/tiny", "etag": etag, **fields})
        request = catalogue_pb2.UpdateCatalogueEntryRequest(
            catalogue_entry=entry, update_mask=field_mask_pb2.FieldMask(paths=mask.split(",") if mask else [])
        )
        updated: catalogue_pb2.CatalogueEntry = await self.catalogue.UpdateCatalogueEntry(request)
        return updated

    async def delete_entry(self, entry_id: str = "tiny") -> None:
        await self.catalogue.DeleteCatalogueEntry(catalogue_pb2.DeleteCatalogueEntryRequest(name=f"catalogueEntries/{entry_id}"))

    async def add_adapter(self, manifest_key: str = "", parent: str = PARENT, suffix: str = "") -> model_pb2.Model:
        request = model_pb2.CreateModelRequest(
            parent=parent, manifest_key=manifest_key or self.put_adapter(parent=parent), suffix=suffix
        )
        created: model_pb2.Model = await self.models.CreateModel(request)
        return created

    async def get(self, name: str, parent: str = "") -> model_pb2.Model:
        found: model_pb2.Model = await self.models.GetModel(model_pb2.GetModelRequest(name=name, parent=parent))
        return found

    async def ensure(self, name: str, timeout_s: float = 20) -> model_pb2.EnsureServedResponse:
        request = model_pb2.EnsureServedRequest(name=name)
        response: model_pb2.EnsureServedResponse = await self.models.EnsureServed(request, timeout_s=timeout_s)
        return response

    async def prove(self, name: str, timeout_s: float = 20) -> model_pb2.Model:
        proven: model_pb2.Model = await self.models.ProveModel(model_pb2.ProveModelRequest(name=name), timeout_s=timeout_s)
        return proven

    async def routes(self) -> dict[str, model_pb2.Route]:
        async for response in self.models.WatchRoutes(model_pb2.WatchRoutesRequest(), timeout_s=20):
            return {route.public_id: route for route in response.routes}
        raise AssertionError("the stream ended")

    async def server(self, digest: str = "") -> Server:
        """Return the one server, or that of some weights."""
        records = await self.inference.database.list(SERVER_KIND, "")
        (found,) = [s for s in (Server.from_document(r.document) for r in records) if digest in ("", s.digest)]
        return found

    def crash(self, server: Server) -> None:
        """Kill a model server from outside."""
        self.launcher.end(server.key, 137)
        self.servers[server.url].is_running = False

    async def evaluate(
        self, candidate: model_pb2.Model, champion: str, better: int = 40, worse: int = 5, items: int = 200
    ) -> None:
        """Have the evaluator tell of a finished evaluation of two models."""
        comparison = evaluation_pb2.Comparison(
            champion=champion,
            champion_prompt="few-shot",
            candidate=candidate.name,
            candidate_prompt="zero-shot",
            item_count=items,
            candidate_only_count=better,
            champion_only_count=worse,
        )
        self.evaluator.evaluation = evaluation_pb2.Evaluation(
            name=EVALUATION,
            state=evaluation_pb2.Evaluation.STATE_SUCCEEDED,
            suite=SUITE,
            suite_digest=self.evaluator.suite_digest,
            subjects=[
                evaluation_pb2.Subject(model=champion, digest=(await self.get(champion)).digest, prompts=PROMPTS),
                evaluation_pb2.Subject(model=candidate.name, digest=candidate.digest, prompts=PROMPTS[:1]),
            ],
            comparisons=[comparison],
        )

    async def add_endpoint(self, **gate: Any) -> endpoint_pb2.Endpoint:
        request = endpoint_pb2.CreateEndpointRequest(
            parent=PARENT, endpoint_id="support", endpoint=endpoint_pb2.Endpoint(gate=endpoint_pb2.Gate(**gate))
        )
        created: endpoint_pb2.Endpoint = await self.endpoints.CreateEndpoint(request)
        return created

    async def promote(self, model: str, etag: str = "", evaluation: str = EVALUATION, **why: str) -> endpoint_pb2.Endpoint:
        request = endpoint_pb2.PromoteEndpointRequest(name=ENDPOINT, model=model, evaluation=evaluation, etag=etag, **why)
        promoted: endpoint_pb2.Endpoint = await self.endpoints.PromoteEndpoint(request)
        return promoted

    async def rollback(self, model: str = "", reason: str = "it is rude", etag: str = "") -> endpoint_pb2.Endpoint:
        request = endpoint_pb2.RollbackEndpointRequest(name=ENDPOINT, model=model, reason=reason, etag=etag)
        rolled: endpoint_pb2.Endpoint = await self.endpoints.RollbackEndpoint(request)
        return rolled

    async def history(self) -> list[endpoint_pb2.Promotion]:
        """Return every change of the endpoint, in pages of two."""
        found: list[endpoint_pb2.Promotion] = []
        request = endpoint_pb2.ListPromotionsRequest(parent=ENDPOINT, page_size=2)
        while True:
            page = await self.endpoints.ListPromotions(request)
            found += page.promotions
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def run(self) -> None:
        """Look at everything again and again, so that no test waits for an interval."""
        while True:
            for loop, kind in zip(self.loops, (SERVER_KIND, PLACEMENT_KIND), strict=True):
                for record in await self.inference.database.list(kind, ""):
                    with contextlib.suppress(errors.NotFound):
                        await self.inference.database.wake(kind, record.name, datetime.now(UTC))
                while await loop.run_once():
                    await asyncio.sleep(0)
                    break
            await asyncio.sleep(0.01)


def make_inference(tmp_path: Path, world: dict[str, Any], evaluator_address: str) -> Inference:
    database = SqlDatabase(f"sqlite:///{tmp_path}/i.db")

    def describe(server: Server, folder: Path) -> Workload:
        if not world["is_stranger"]:
            world["digests"][server.url] = server.digest
        environment = {
            "API_KEY": server.api_key,
            "RANK": str(server.max_rank),
            "TEMPLATE": server.chat_template,
            "PARSER": server.tool_call_parser,
        }
        return Workload(server.key, "server", ("serve", str(folder)), environment)

    def connect(url: str, api_key: str) -> ScriptedModelServer:
        if url not in world["servers"]:
            served = world["digests"].get(url, world["base_digest"]())
            world["servers"][url] = ScriptedModelServer(served, world["answers"], world["refused"])
            world["servers"][url].is_running = world["boots"]
        return world["servers"][url]  # type: ignore[no-any-return]

    return Inference(
        database=database,
        store=world["store"],
        launcher=world["launcher"],
        evaluations=GrpcEvaluations(evaluator_address),
        cache=tmp_path / "cache",
        max_servers=2,
        clock=lambda: datetime.now(UTC) + world["passed"],
        workload=describe,
        connect=connect,
        routes=RouteTable(database),
    )


@contextlib.asynccontextmanager
async def inference_world(tmp_path: Path) -> AsyncIterator[World]:
    """Serve inference over gRPC, its loops running all the time."""
    evaluator = ScriptedEvaluator()
    made: World
    parts: dict[str, Any] = {
        "servers": {},
        "digests": {},
        "is_stranger": False,
        "passed": timedelta(),
        "answers": {},
        "refused": set(),
        "boots": True,
        "store": LocalObjectStore(tmp_path / "objects"),
        "launcher": ScriptedLauncher(),
        "base_digest": lambda: made.base_digest,
    }
    peers = (
        registration(evaluation_pb2_grpc, evaluation_pb2, "EvaluationService", evaluator),
        registration(suite_pb2_grpc, suite_pb2, "SuiteService", evaluator),
    )
    async with contextlib.AsyncExitStack() as stack:
        inference = make_inference(tmp_path, parts, await stack.enter_async_context(serving(*peers)))
        registrations = (
            registration(model_pb2_grpc, model_pb2, "ModelService", ModelRpc(inference)),
            registration(catalogue_pb2_grpc, catalogue_pb2, "CatalogueService", CatalogueRpc(inference)),
            registration(endpoint_pb2_grpc, endpoint_pb2, "EndpointService", EndpointRpc(inference)),
        )
        address = await stack.enter_async_context(serving(*registrations))
        clients = (
            Client(model_pb2_grpc.ModelServiceStub, address, retry=False),
            Client(catalogue_pb2_grpc.CatalogueServiceStub, address),
            Client(endpoint_pb2_grpc.EndpointServiceStub, address, retry=False),
        )
        for close in (inference.database.close, inference.background.close, *(client.close for client in clients)):
            stack.push_async_callback(close)
        made = World(
            *clients,
            evaluator,
            inference,
            parts["launcher"],
            parts["store"],
            tmp_path,
            parts["servers"],
            parts["answers"],
            parts["refused"],
            parts,
            address=address,
        )
        made.loops = [
            Reconciler(inference.database, SERVER_KIND, functools.partial(reconcile_server, inference)),
            Reconciler(inference.database, PLACEMENT_KIND, functools.partial(reconcile_placement, inference)),
        ]
        tasks = [asyncio.ensure_future(made.run()), asyncio.ensure_future(inference.routes.run())]
        yield made
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
