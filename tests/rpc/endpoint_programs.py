"""Two replicas of inference, and gateways, as real programs over an endpoint with two models; engine and evaluator are scripted.

What jobs and engines would have written – models, a server, their proofs – is put into inference's database before it begins,
with nothing due, so that its loops leave it alone; the engine is an HTTP server of the test's that echoes, knowing models by
digest.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from afina.v1 import (
    endpoint_pb2,
    endpoint_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    suite_pb2,
    suite_pb2_grpc,
)

from services.common.backends.database.sql import SqlDatabase
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import registration
from services.inference import endpoint, model
from services.inference.endpoint import Endpoint
from services.inference.gate import Gate
from services.inference.model import Model
from services.inference.servers import ENGINE_RANKS, PLACEMENT_KIND, SERVER_KIND, Placement, Server, placement_name, server_name
from tests.builders import eventually, serving
from tests.fakes_upstream import ScriptedUpstream
from tests.programs import Programs, running_programs
from tests.rpc.inference_world import DATASET, ENDPOINT, EVALUATION, PROMPTS, SUITE, ScriptedEvaluator, digest_of

BASE_DIGEST = "b" * 64
BASE = model.base_name(BASE_DIGEST)
OLD, NEW = (model.own_name("default", digit * 64) for digit in "15")
DIGESTS = {OLD: "1" * 64, NEW: "5" * 64, BASE: BASE_DIGEST}


class Wire:
    """Passes TCP on to an address, until it is cut."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._is_cut = False
        self._ends: set[asyncio.StreamWriter] = set()
        self.address = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Wire"]:
        """Listen on a loopback port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        """Break every connection, and let none come about."""
        self._is_cut = True
        for end in self._ends:
            end.close()

    def mend(self) -> None:
        """Let connections come about again."""
        self._is_cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        self._ends.add(writer)
        with contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(self._host, int(self._port))
            self._ends.add(server_writer)
            await asyncio.gather(self._pass_on(reader, server_writer), self._pass_on(server_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@dataclass
class Gateway:
    """One gateway's program, a client of its HTTP API, and its wire to inference."""

    programs: Programs
    client: openai.AsyncOpenAI
    wire: Wire

    @property
    def pid(self) -> int:
        return self.programs.pid("gateway")

    async def ask(self, timeout_s: float = 20.0) -> str:
        """Ask the endpoint and return the digest that answered, as far as the fingerprint tells it."""
        messages: Any = [{"role": "user", "content": "hi"}]
        answer = await self.client.chat.completions.create(model="support", messages=messages, timeout=timeout_s)
        return str(answer.system_fingerprint).removeprefix("fp_")[:1]

    async def answers(self) -> str:
        """Wait until the endpoint is answered at all, and return by which digest."""

        async def ask() -> str:
            with contextlib.suppress(openai.APIError):
                return await self.ask()
            return ""

        return str(await eventually(ask, timeout_s=30))


@dataclass
class Installation:
    """The programs, their parts, and what a test does with them. Calls go to the first replica of inference."""

    replicas: list[Programs]
    gateways: list[Gateway]
    endpoints: Client
    engine: ScriptedUpstream

    async def endpoint(self) -> endpoint_pb2.Endpoint:
        found: endpoint_pb2.Endpoint = await self.endpoints.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=ENDPOINT))
        return found

    async def models(self) -> tuple[str, str]:
        """Return the model that the endpoint points to, and the other one."""
        return (OLD, NEW) if (await self.endpoint()).model == OLD else (NEW, OLD)

    async def promote(self, candidate: str, timeout_s: float = 30.0) -> endpoint_pb2.Endpoint:
        request = endpoint_pb2.PromoteEndpointRequest(name=ENDPOINT, model=candidate, evaluation=EVALUATION)
        promoted: endpoint_pb2.Endpoint = await self.endpoints.PromoteEndpoint(request, timeout_s=timeout_s)
        return promoted


@contextlib.asynccontextmanager
async def running_installation(folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Installation]:
    """Run two replicas of inference over one database, and a gateway beside each; either model is better than the other."""
    evaluator = ScriptedEvaluator()
    evaluator.evaluation = _evaluation()
    peers = (
        registration(evaluation_pb2_grpc, evaluation_pb2, "EvaluationService", evaluator),
        registration(suite_pb2_grpc, suite_pb2, "SuiteService", evaluator),
    )
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ScriptedUpstream(*DIGESTS.values()).running())
        given = {**environ, "EVALUATOR_ADDRESS": await stack.enter_async_context(serving(*peers))}
        databases = folder / "inference-1" / "home" / "databases"
        await _write(databases, engine)
        (folder / "inference-2" / "home").mkdir(parents=True)
        (folder / "inference-2" / "home" / "databases").symlink_to(databases)
        starting = [running_programs(folder / name, "inference", environ=given) for name in ("inference-1", "inference-2")]
        replicas = [await stack.enter_async_context(programs) for programs in starting]
        endpoints = Client(endpoint_pb2_grpc.EndpointServiceStub, replicas[0].address("inference"), retry=False)
        stack.push_async_callback(endpoints.close)
        gateways = [
            await stack.enter_async_context(_running_gateway(folder / f"gateway-{number}", beside.address("inference")))
            for number, beside in enumerate(replicas, start=1)
        ]
        yield Installation(replicas, gateways, endpoints, engine)


@contextlib.asynccontextmanager
async def _running_gateway(folder: Path, inference: str) -> AsyncIterator[Gateway]:
    async with Wire(inference).running() as wire:
        async with running_programs(folder, "gateway", environ={"INFERENCE_ADDRESS": wire.address}) as programs:
            key = str(await eventually(lambda: programs.home.api_key.exists() and programs.home.api_key.read_text().strip()))
            async with openai.AsyncOpenAI(base_url=f"{programs.home.gateway_url}/v1", api_key=key, max_retries=0) as client:
                gateway = Gateway(programs, client, wire)
                await gateway.answers()
                yield gateway


async def _write(databases: Path, engine: ScriptedUpstream) -> None:
    databases.mkdir(parents=True)
    database = SqlDatabase(f"sqlite:///{databases}/inference.db")
    base = Model(BASE, "BASE", BASE_DIGEST, "tiny", "k", 1, max_length=512, has_chat_template=True)
    server = Server(server_name(BASE_DIGEST), BASE, BASE_DIGEST, "k", 512, ENGINE_RANKS[0], state="ACTIVE")
    port = int(engine.url.rpartition(":")[2])
    running = Server(**{**server.to_document(), "port": port, "api_key": engine.api_key})
    await database.create(model.KIND, BASE, base.to_document())
    await database.create(SERVER_KIND, server.name, running.to_document())
    for name in (OLD, NEW):
        public_id = model.public_id("tiny", "default", "", name)
        own = Model(name, "ADAPTER", DIGESTS[name], public_id, "k", 1, base=BASE, base_digest=BASE_DIGEST, rank=2)
        proven = {
            "proof": {"is_distinguishable": True},
            "provenance": {"dataset": {"name": DATASET, "digest": digest_of(DATASET)}},
        }
        await database.create(model.KIND, name, {**own.to_document(), **proven})
        place = placement_name(server.name, name)
        placement = Placement(place, server.name, name, DIGESTS[name], BASE_DIGEST, "k", state="PROVEN", generation=1)
        await database.create(PLACEMENT_KIND, place, placement.to_document())
    pointing = Endpoint(ENDPOINT, Gate(), OLD, DIGESTS[OLD])
    await database.create(endpoint.KIND, ENDPOINT, pointing.to_document())
    await database.close()


def _evaluation() -> evaluation_pb2.Evaluation:
    """Return a finished evaluation in which each of the two models is better than the other: a test promotes to and fro."""
    numbers = evaluation_pb2.Comparison(item_count=200, candidate_only_count=40, champion_only_count=5)
    pairs = [evaluation_pb2.Comparison(champion=a, candidate=b) for a, b in ((OLD, NEW), (NEW, OLD))]
    for pair in pairs:
        pair.MergeFrom(numbers)
    asked = [evaluation_pb2.Subject(model=name, digest=DIGESTS[name], prompts=PROMPTS) for name in (OLD, NEW)]
    succeeded = evaluation_pb2.Evaluation.STATE_SUCCEEDED
    return evaluation_pb2.Evaluation(
        name=EVALUATION, state=succeeded, suite=SUITE, suite_digest="e" * 64, subjects=asked, comparisons=pairs
    )
