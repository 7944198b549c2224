"""Inference as its clients see it: real gRPC, real SQLite and files; model servers and evaluations answer as told."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
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

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.launcher import Workload
from services.common.ports.manifest import put_folder
from services.common.reconcile import Reconciler
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import registration
from services.inference.clients import GrpcEvaluations
from services.inference.endpoint import KIND as ENDPOINT_KIND
from services.inference.endpoint import Endpoint
from services.inference.fleet import reconcile_placement, reconcile_server
from services.inference.gate import Gate
from services.inference.inference import Inference
from services.inference.routes import RouteTable
from services.inference.rpc import CatalogueRpc, EndpointRpc, ModelRpc
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Server
from tests.builders import eventually, serving
from tests.fakes import ScriptedLauncher, ScriptedModelServer
from tests.unit.inference import adapters

PARENT = "projects/default"
SUITE = f"{PARENT}/suites/reviews"
EVALUATION = f"{PARENT}/evaluations/eval-1"
ENDPOINT = f"{PARENT}/endpoints/support"
PROMPTS = ("zero-shot", "few-shot", "label-scored")


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
        return suite_pb2.Suite(name=request.name, digest=self.suite_digest, prompts=prompts, part=self.suite_part)


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
    loops: list[Reconciler] = field(default_factory=list)

    def put_base(self, name: str = "base", **files: bytes) -> str:
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
            (folder / path).write_bytes(data)
        manifest = put_folder(self.store, "bases", folder, "base", {})
        key = f"manifests/bases/{manifest.digest}.json"
        self.store.commit(key, manifest.to_json())
        return key

    def put_adapter(self, base_references: float = -3.0, rank: int = 2, tensors: Any = None, **changes: Any) -> str:
        """Put an adapter's folder into the store, as a job would, and return the key of its manifest."""
        self.seed += 1
        folder = self.folder / f"adapter-{self.seed}"
        adapters.write(folder, tensors or adapters.tensors(rank), adapters.config(r=rank, seed=self.seed, **changes))
        probe = {"prefix_token_ids": [1, 2, 3], "token_ids": [7], "adapter_logprobs": [-1.0], "base_logprobs": [base_references]}
        chat = {"messages": [{"role": "user", "content": "hi"}], "prompt_token_ids": [1, 2, 3], "probes": [probe]}
        (folder / "golden.json").write_text(json.dumps({"base_digest": self.base_digest, "chats": [chat] * 8}))
        data = {"job": f"job-{self.seed}", "base": {"digest": self.base_digest}, "recipe": {"rank": rank}, "metrics": [1, 2]}
        key = f"jobs/job-{self.seed}/manifest.json"
        manifest = put_folder(self.store, f"jobs/job-{self.seed}/files", folder, "adapter", data)
        self.store.commit(key, manifest.to_json())
        return key

    async def add_base(self, manifest_key: str = "", entry_id: str = "tiny", **fields: Any) -> catalogue_pb2.CatalogueEntry:
        entry = catalogue_pb2.CatalogueEntry(manifest_key=manifest_key or self.put_base(), **fields)
        request = catalogue_pb2.CreateCatalogueEntryRequest(catalogue_entry_id=entry_id, catalogue_entry=entry)
        created: catalogue_pb2.CatalogueEntry = await self.catalogue.CreateCatalogueEntry(request)
        self.base_digest = created.digest
        return created

    async def add_adapter(self, manifest_key: str = "", parent: str = PARENT, suffix: str = "") -> model_pb2.Model:
        request = model_pb2.CreateModelRequest(parent=parent, manifest_key=manifest_key or self.put_adapter(), suffix=suffix)
        created: model_pb2.Model = await self.models.CreateModel(request)
        return created

    async def get(self, name: str, parent: str = "") -> model_pb2.Model:
        found: model_pb2.Model = await self.models.GetModel(model_pb2.GetModelRequest(name=name, parent=parent))
        return found

    async def ensure(self, name: str, timeout_s: float = 20) -> model_pb2.EnsureServedResponse:
        request = model_pb2.EnsureServedRequest(name=name)
        response: model_pb2.EnsureServedResponse = await self.models.EnsureServed(request, timeout_s=timeout_s)
        return response

    async def routes(self) -> dict[str, model_pb2.Route]:
        async for response in self.models.WatchRoutes(model_pb2.WatchRoutesRequest(), timeout_s=20):
            return {route.public_id: route for route in response.routes}
        raise AssertionError("the stream ended")

    async def server(self) -> Server:
        (record,) = await self.inference.database.list(SERVER_KIND, "")
        return Server.from_document(record.document)

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

    async def promote(self, model: str, etag: str = "") -> endpoint_pb2.Endpoint:
        request = endpoint_pb2.PromoteEndpointRequest(name=ENDPOINT, model=model, evaluation=EVALUATION, etag=etag)
        promoted: endpoint_pb2.Endpoint = await self.endpoints.PromoteEndpoint(request)
        return promoted

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
        environment = {"API_KEY": server.api_key, "RANK": str(server.max_rank)}
        return Workload(server.key, "server", ("serve", str(folder)), environment)

    def connect(url: str, api_key: str) -> ScriptedModelServer:
        if url not in world["servers"]:
            world["servers"][url] = ScriptedModelServer(world["base_digest"](), world["answers"], world["refused"])
            world["servers"][url].is_running = world["boots"]
        return world["servers"][url]  # type: ignore[no-any-return]

    return Inference(
        database=database,
        store=world["store"],
        launcher=world["launcher"],
        evaluations=GrpcEvaluations(evaluator_address),
        cache=tmp_path / "cache",
        workload=describe,
        connect=connect,
        routes=RouteTable(database),
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    evaluator = ScriptedEvaluator()
    made: World
    parts: dict[str, Any] = {
        "servers": {},
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


async def test_a_base_is_found_by_its_id_by_an_alias_and_by_its_models_name(world: World) -> None:
    entry = await world.add_base(aliases=["gpt-4o-mini"])
    assert (entry.name, entry.max_length, entry.model) == ("catalogueEntries/tiny", 512, f"models/{entry.digest[:24]}")
    for name in ("catalogueEntries/tiny", "catalogueEntries/gpt-4o-mini"):
        assert (await world.catalogue.GetCatalogueEntry(catalogue_pb2.GetCatalogueEntryRequest(name=name))) == entry
    for name in (entry.model, "tiny", "gpt-4o-mini"):
        found = await world.get(name)
        assert (found.kind, found.public_id, found.digest) == (model_pb2.Model.KIND_BASE, "tiny", entry.digest)


async def test_adding_a_base_twice_is_once_and_its_names_are_nobody_elses(world: World) -> None:
    key = world.put_base()
    first = await world.add_base(key, aliases=["gpt-4o-mini"])
    assert await world.add_base(key, aliases=["gpt-4o-mini"]) == first
    other = world.put_base("other")
    with pytest.raises(errors.AlreadyExists):
        await world.add_base(other, "tiny")
    with pytest.raises(errors.AlreadyExists) as taken:
        await world.add_base(other, "other", aliases=["gpt-4o-mini"])
    assert taken.value.metadata == {"id": "gpt-4o-mini", "holder": "catalogueEntries/tiny"}
    listed = await world.catalogue.ListCatalogueEntries(catalogue_pb2.ListCatalogueEntriesRequest())
    assert [entry.name for entry in listed.catalogue_entries] == ["catalogueEntries/tiny"]


async def test_a_base_that_could_run_code_is_refused_with_every_violation(world: World) -> None:
    key = world.put_base(pytorch_model__bin=b"x", modeling__py=b"x")
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_base(key)
    assert {violation.field for violation in refused.value.violations} == {"pytorch_model.bin", "modeling.py"}
    with pytest.raises(errors.NotFound):
        await world.add_base("manifests/bases/none.json")


async def test_a_base_with_truncated_weights_is_refused(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_base(world.put_base(model__safetensors=b"short"))
    assert refused.value.reason == "SAFETENSORS_INVALID"


async def test_an_adapter_is_registered_once_however_often_and_found_by_its_public_id(world: World) -> None:
    await world.add_base()
    key = world.put_adapter()
    first = await world.add_adapter(key)
    assert await world.add_adapter(key, suffix="late") == first
    assert first.public_id == f"ft:tiny:default::{first.digest[:24]}"
    assert (first.kind, first.base) == (model_pb2.Model.KIND_ADAPTER, f"models/{world.base_digest[:24]}")
    assert first.provenance["job"] == "job-1"
    assert "metrics" not in first.provenance.fields
    assert await world.get(first.public_id, PARENT) == first
    assert world.store.read(f"manifests/adapters/{first.digest}.json") == world.store.read(key)


async def test_an_adapter_published_at_a_step_says_so_in_its_name_and_can_be_served(world: World) -> None:
    await world.add_base()
    request = model_pb2.CreateModelRequest(parent=PARENT, manifest_key=world.put_adapter(), suffix="reviews", step=40)
    checkpoint = await world.models.CreateModel(request)
    assert checkpoint.public_id == f"ft:tiny:default:reviews:{checkpoint.digest[:24]}:ckpt-step-40"
    assert await world.get(checkpoint.public_id, PARENT) == checkpoint
    for other in (":ckpt-step-41", "", ":ckpt-step-x", ":ckpt-step-40:more"):
        with pytest.raises((errors.NotFound, errors.InvalidInput)):
            await world.get(checkpoint.public_id.replace(":ckpt-step-40", other), PARENT)
    assert checkpoint.public_id in await world.routes()
    with pytest.raises(errors.InvalidInput):
        await world.models.CreateModel(model_pb2.CreateModelRequest(parent=PARENT, manifest_key=request.manifest_key, step=-1))


async def test_an_adapter_is_not_found_from_another_project(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter(suffix="reviews")
    with pytest.raises(errors.NotFound):
        await world.get(adapter.public_id, "projects/other")
    with pytest.raises(errors.NotFound):
        await world.get(adapter.public_id.replace(":reviews:", ":other:"), PARENT)


async def test_a_broken_adapter_is_refused_with_every_violation_and_leaves_nothing(world: World) -> None:
    await world.add_base()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    broken = {**adapters.tensors(), name: ("F32", np.full((2, 8), np.nan, np.float32))}
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(world.put_adapter(tensors=broken, use_dora=True))
    assert [violation.reason for violation in refused.value.violations] == ["FEATURE_UNSUPPORTED", "NOT_FINITE"]
    assert list(world.store.list("manifests/adapters/")) == []


async def test_an_adapter_of_a_base_that_is_not_here_or_without_its_bytes_is_refused(world: World) -> None:
    await world.add_base()
    good, world.base_digest = world.base_digest, "c" * 64
    with pytest.raises(errors.NotFound) as missing:
        await world.add_adapter()
    assert missing.value.reason == "BASE_NOT_FOUND"
    world.base_digest = good
    key = world.put_adapter()
    (world.folder / "objects" / next(world.store.list("jobs/job-2/files/"))).unlink()
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(key)
    assert refused.value.reason == "ARTIFACT_NOT_FOUND"


async def test_a_model_is_served_by_a_server_that_is_launched_for_it_and_proves_it(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    served = await world.ensure(adapter.name)
    (replica,) = served.replicas
    server = await world.server()
    assert (replica.url, replica.served_name, replica.api_key) == (server.url, adapter.digest, server.api_key)
    assert len(world.launcher.manifests) == 1
    assert world.launcher.environment(server.key)["API_KEY"] == replica.api_key
    assert world.servers[server.url].loads == [adapter.digest]
    assert served.model.proof["golden_count"] == 8
    assert served.model.proof["mean_difference"] == 0
    assert served.model.proof["base_difference"] == 2


async def test_two_models_and_many_callers_share_one_server_and_one_load_each(world: World) -> None:
    entry = await world.add_base()
    adapters_ = [await world.add_adapter() for _ in range(2)]
    names = [entry.model, *(adapter.name for adapter in adapters_)] * 3
    answers = await asyncio.gather(*(world.ensure(name) for name in names))
    assert {replica.url for answer in answers for replica in answer.replicas} == {(await world.server()).url}
    (server,) = world.servers.values()
    assert sorted(server.loads) == sorted(adapter.digest for adapter in adapters_)


async def test_while_nothing_is_proven_the_caller_hears_so_before_its_deadline(world: World) -> None:
    entry = await world.add_base()
    world.parts["boots"] = False
    with pytest.raises(errors.Unavailable) as early:
        await world.ensure(entry.model, timeout_s=1.5)
    assert early.value.reason == "MODEL_NOT_READY"
    assert early.value.metadata["retry_after_s"] == "5"
    world.parts["boots"] = True
    world.servers[(await world.server()).url].is_running = True
    assert (await world.ensure(entry.model)).replicas
    with pytest.raises(errors.NotFound):
        await world.ensure("projects/default/models/none")


async def test_a_model_that_answers_as_its_base_is_quarantined_and_leaves_the_routes(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    world.answers[adapter.digest] = -3.0
    with pytest.raises(errors.WrongState) as refused:
        await world.ensure(adapter.name)
    assert refused.value.reason == "MODEL_QUARANTINED"
    found = await world.get(adapter.name)
    assert found.state == model_pb2.Model.STATE_QUARANTINED
    assert "LOGPROBS_DIFFER" in found.quarantine_reason
    assert found.proof["mean_difference"] == 2
    await eventually(lambda: _absent(world, adapter.public_id))


async def _absent(world: World, public_id: str) -> bool:
    return public_id not in await world.routes()


async def test_a_model_that_a_healthy_engine_refuses_three_times_is_quarantined(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    world.refused.add(adapter.digest)
    with pytest.raises(errors.WrongState):
        await world.ensure(adapter.name)
    assert "SERVER_REFUSED" in (await world.get(adapter.name)).quarantine_reason
    (server,) = world.servers.values()
    assert server.refusals == [adapter.digest] * 3


async def test_after_a_crash_the_server_is_launched_again_and_every_model_is_proven_again(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.ensure(adapter.name)
    before = await world.server()
    world.crash(before)
    await eventually(lambda: _is_generation(world, 2))
    served = await world.ensure(adapter.name)
    after = await world.server()
    assert (after.generation, after.failures) == (2, 1)
    assert served.replicas[0].url == after.url != before.url
    assert served.replicas[0].api_key != before.api_key
    assert world.servers[after.url].loads == [adapter.digest]


async def _is_generation(world: World, generation: int) -> bool:
    return (await world.server()).generation == generation


async def test_a_model_that_fails_its_proof_after_a_restart_is_quarantined(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.ensure(adapter.name)
    world.answers[adapter.digest] = -3.0
    world.crash(await world.server())
    await eventually(lambda: _is_quarantined(world, adapter.name))


async def _is_quarantined(world: World, name: str) -> bool:
    return (await world.get(name)).state == model_pb2.Model.STATE_QUARANTINED


async def test_a_quarantined_model_is_not_loaded_again_by_the_next_generation(world: World) -> None:
    await world.add_base()
    good, bad = await world.add_adapter(), await world.add_adapter()
    world.answers[bad.digest] = -3.0
    with pytest.raises(errors.WrongState):
        await world.ensure(bad.name)
    del world.answers[bad.digest]
    await world.ensure(good.name)
    world.crash(await world.server())
    await eventually(lambda: _is_generation(world, 2))
    await world.ensure(good.name)
    records = await world.inference.database.list(PLACEMENT_KIND, "")
    states = {record.document["model"]: record.document["state"] for record in records}
    assert states == {good.name: "PROVEN", bad.name: "REFUSED"}
    assert world.servers[(await world.server()).url].loads == [good.digest]


async def test_a_stranger_on_the_servers_port_is_not_taken_for_it(world: World) -> None:
    entry = await world.add_base()
    world.base_digest = "f" * 64  # what answers is another base's server
    asking = asyncio.ensure_future(world.ensure(entry.model))
    await eventually(lambda: _has_restarted(world))
    world.base_digest = entry.digest
    assert (await asking).replicas[0].served_name == entry.digest


async def _has_restarted(world: World) -> bool:
    records = await world.inference.database.list(SERVER_KIND, "")
    return any(Server.from_document(record.document).generation > 1 for record in records)


async def test_a_server_that_no_longer_answers_is_stopped_and_launched_again(world: World) -> None:
    entry = await world.add_base()
    await world.ensure(entry.model)
    hung = await world.server()
    world.servers[hung.url].is_running = False
    await eventually(lambda: _is_generation(world, 2))
    assert hung.key in world.launcher.stopped


async def test_an_adapter_of_a_higher_rank_gets_a_server_that_takes_it(world: World) -> None:
    await world.add_base()
    small, large = await world.add_adapter(), await world.add_adapter(world.put_adapter(rank=20))
    await world.ensure(small.name)
    first = await world.server()
    await world.ensure(large.name)
    await world.ensure(small.name)
    second = await world.server()
    assert [world.launcher.environment(server.key)["RANK"] for server in (first, second)] == ["16", "32"]
    assert sorted(world.servers[second.url].loads) == sorted([small.digest, large.digest])


async def test_another_program_over_the_same_database_finds_the_server_and_the_proof(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    first = await world.ensure(adapter.name)
    table = RouteTable(SqlDatabase(f"sqlite:///{world.folder}/i.db"))
    async for routes in table.watch():
        replicas = {route.public_id: route.replicas for route in routes}[adapter.public_id]
        assert [replica.url for replica in replicas] == [first.replicas[0].url]
        break


async def test_routes_come_whole_at_once_and_again_after_every_change(world: World) -> None:
    await world.add_base(aliases=["gpt-4o-mini"])
    stream = world.models.WatchRoutes(model_pb2.WatchRoutesRequest(), timeout_s=30)
    seen: list[dict[str, model_pb2.Route]] = []

    async def until(public_id: str, replica_count: int) -> model_pb2.Route:
        async for response in stream:
            seen.append({route.public_id: route for route in response.routes})
            route = seen[-1].get(public_id)
            if route is not None and len(route.replicas) == replica_count:
                return route
        raise AssertionError(seen)

    assert (await until("gpt-4o-mini", 0)).model == (await until_same(world, "tiny")).model
    adapter = await world.add_adapter()
    route = await until(adapter.public_id, 0)
    assert (route.project, route.kind, route.digest) == ("default", "adapter", adapter.digest)
    serving_task = asyncio.ensure_future(world.ensure(adapter.name))
    route = await until(adapter.public_id, 1)
    await serving_task
    assert route.replicas[0].served_name == adapter.digest
    assert seen[-1]["tiny"].replicas[0].served_name == world.base_digest


async def until_same(world: World, public_id: str) -> model_pb2.Route:
    return (await world.routes())[public_id]


async def test_models_are_listed_newest_first_in_pages_with_the_bases(world: World) -> None:
    entry = await world.add_base()
    mine = [(await world.add_adapter()).name for _ in range(3)]
    await world.add_adapter(world.put_adapter(), parent="projects/other")
    pages, token = [], ""
    while True:
        request = model_pb2.ListModelsRequest(parent=PARENT, page_size=2, page_token=token)
        page = await world.models.ListModels(request)
        pages.append([model.name for model in page.models])
        token = page.next_page_token
        if not token:
            break
    assert pages[:2] == [[mine[2], mine[1]], [mine[0], entry.model]]
    assert [name for page in pages[2:] for name in page] == []


async def test_an_endpoint_gets_its_gates_defaults_and_every_mistake_is_named(world: World) -> None:
    created = await world.add_endpoint()
    assert (created.gate.significance_level, created.gate.min_effect, created.gate.min_item_count) == (0.05, 0, 50)
    assert created.model == ""
    with pytest.raises(errors.AlreadyExists):
        await world.add_endpoint()
    gate = endpoint_pb2.Gate(significance_level=0.6, min_effect=1.5, min_item_count=-1, suite="projects/other/suites/x")
    request = endpoint_pb2.CreateEndpointRequest(parent=PARENT, endpoint_id="A b", endpoint=endpoint_pb2.Endpoint(gate=gate))
    with pytest.raises(errors.InvalidInput) as refused:
        await world.endpoints.CreateEndpoint(request)
    assert len(refused.value.violations) == 5


async def test_an_endpoint_cannot_take_a_bases_name(world: World) -> None:
    await world.add_base(aliases=["support"])
    with pytest.raises(errors.AlreadyExists):
        await world.add_endpoint()


async def test_a_better_model_is_promoted_and_the_endpoint_remembers_why(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    created = await world.add_endpoint(suite=SUITE)
    await world.evaluate(adapter, entry.model)
    promoted = await world.promote(adapter.name, created.etag)
    assert (promoted.model, promoted.digest) == (adapter.name, adapter.digest)
    (promotion,) = promoted.promotions
    assert (promotion.previous_model, promotion.evaluation) == ("", EVALUATION)
    assert "40 times" in promotion.verdict
    route = (await world.routes())["support"]
    assert (route.kind, route.project, route.model, len(route.replicas)) == ("endpoint", "default", adapter.name, 1)
    assert await world.promote(adapter.name) == promoted
    with pytest.raises(errors.Conflict):
        await world.promote(adapter.name, created.etag)


async def test_the_next_champion_is_the_model_that_the_endpoint_points_to(world: World) -> None:
    entry = await world.add_base()
    first, second = await world.add_adapter(), await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(first, entry.model)
    await world.promote(first.name)
    await world.evaluate(second, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(second.name)
    assert refused.value.reason == "WRONG_CHAMPION"
    await world.evaluate(second, first.name)
    promoted = await world.promote(second.name)
    assert [promotion.model for promotion in promoted.promotions] == [first.name, second.name]
    assert promoted.promotions[1].previous_model == first.name


async def test_a_model_that_is_not_better_or_not_surely_better_is_refused_with_the_number_of_items(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(adapter, entry.model, better=5, worse=9)
    with pytest.raises(errors.WrongState) as worse:
        await world.promote(adapter.name)
    assert worse.value.reason == "NOT_BETTER"
    await world.evaluate(adapter, entry.model, better=20, worse=10, items=100)
    with pytest.raises(errors.WrongState) as thin:
        await world.promote(adapter.name)
    assert thin.value.reason == "INSUFFICIENT_EVIDENCE"
    assert thin.value.metadata["items_needed"] == "234"  # see the gate's unit test
    assert (await world.endpoints.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=ENDPOINT))).model == ""


async def test_evidence_that_is_unfinished_stale_or_of_another_suite_is_refused(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint(suite=SUITE)

    async def reason() -> str:
        with pytest.raises(errors.WrongState) as refused:
            await world.promote(adapter.name)
        await world.evaluate(adapter, entry.model)
        return refused.value.reason

    await world.evaluate(adapter, entry.model)
    world.evaluator.evaluation.state = evaluation_pb2.Evaluation.STATE_RUNNING
    assert await reason() == "EVALUATION_UNFINISHED"
    world.evaluator.evaluation.suite = f"{PARENT}/suites/easier"
    assert await reason() == "WRONG_SUITE"
    world.evaluator.evaluation.suite_digest = "f" * 64
    assert await reason() == "EVALUATION_STALE"
    for subject in range(2):
        world.evaluator.evaluation.subjects[subject].digest = "f" * 64
        assert await reason() == "EVALUATION_STALE"
    world.evaluator.evaluation.comparisons[0].champion = "models/other"
    assert await reason() == "WRONG_CHAMPION"
    assert (await world.promote(adapter.name)).model == adapter.name


async def test_rows_that_chose_a_checkpoint_are_no_evidence(world: World) -> None:
    entry = await world.add_base()
    candidate = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(candidate, entry.model)
    world.evaluator.suite_part = suite_pb2.Suite.PART_VALIDATION
    with pytest.raises(errors.WrongState) as caught:
        await world.promote(candidate.name)
    assert caught.value.reason == "ROWS_NOT_HELD_OUT"


async def test_a_champion_that_was_not_asked_in_all_of_the_suites_ways_is_no_champion_to_beat(world: World) -> None:
    entry = await world.add_base()
    first, second = await world.add_adapter(), await world.add_adapter()
    await world.add_endpoint()
    for candidate, champion in ((first, entry.model), (second, first.name)):
        await world.evaluate(candidate, champion)
        world.evaluator.evaluation.subjects[0].prompts[:] = ["zero-shot"]
        with pytest.raises(errors.WrongState) as refused:
            await world.promote(candidate.name)
        assert refused.value.reason == "CHAMPION_WEAKENED"
        for words in (champion, "few-shot, label-scored", "leave its prompts out"):
            assert words in refused.value.message
        world.evaluator.evaluation.subjects[0].prompts[:] = []  # none means all
        assert (await world.promote(candidate.name)).model == candidate.name


async def test_a_quarantined_or_indistinguishable_model_is_never_promoted(world: World) -> None:
    entry = await world.add_base()
    await world.add_endpoint()
    bad = await world.add_adapter()
    world.answers[bad.digest] = -3.0
    await world.evaluate(bad, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(bad.name)
    assert refused.value.reason == "MODEL_QUARANTINED"
    same = await world.add_adapter(world.put_adapter(base_references=-1.01))
    await world.evaluate(same, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(same.name)
    assert refused.value.reason == "MODEL_INDISTINGUISHABLE"
    assert (await world.ensure(same.name)).replicas


async def test_model_and_evaluation_of_another_project_are_refused(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter(parent="projects/other")
    await world.add_endpoint()
    with pytest.raises(errors.InvalidInput):
        await world.promote(adapter.name)


async def test_a_model_in_use_is_kept_and_one_that_is_not_is_deleted_with_its_place(world: World) -> None:
    entry = await world.add_base()
    used, spare = await world.add_adapter(), await world.add_adapter()
    await world.ensure(spare.name)
    await world.add_endpoint()
    await world.evaluate(used, entry.model)
    await world.promote(used.name)
    with pytest.raises(errors.WrongState) as refused:
        await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=used.name))
    assert refused.value.reason == "MODEL_IN_USE"
    await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=spare.name))
    with pytest.raises(errors.NotFound):
        await world.get(spare.name)
    assert len(await world.inference.database.list(PLACEMENT_KIND, "")) == 1


async def test_a_model_in_use_is_kept_however_many_endpoints_have_come_since(world: World) -> None:
    entry = await world.add_base()
    used = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(used, entry.model)
    await world.promote(used.name)
    for number in range(1000):
        other = Endpoint(f"{PARENT}/endpoints/other-{number}", Gate())
        await world.inference.database.create(ENDPOINT_KIND, other.name, other.to_document())
    with pytest.raises(errors.WrongState, match=ENDPOINT):
        await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=used.name))


async def test_an_adapter_of_another_base_whose_digest_begins_alike_is_refused(world: World) -> None:
    await world.add_base()
    digest = world.base_digest
    world.base_digest = digest[:32] + digest[:31:-1]
    key = world.put_adapter()
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(key)
    assert ("base.digest", "WRONG_BASE") in {(violation.field, violation.reason) for violation in refused.value.violations}
