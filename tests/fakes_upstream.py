"""A model server and an inference program that do what a test says, and a gateway in front of them on real sockets."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import openai
import orjson
from afina.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    file_pb2_grpc,
    fine_tuning_job_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    upload_pb2_grpc,
)
from aiohttp import web
from google.protobuf import empty_pb2, timestamp_pb2

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import NotFound, Unavailable
from services.common.metrics import Metrics
from services.common.names import project_of
from services.common.transport.authentication import Authentication
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import GrpcServer, registration
from services.common.transport.http_server import HttpServer
from services.gateway.app import Gateway, Limits, make_app
from services.gateway.generation_rpc import GenerationRpc
from services.gateway.routing import Routes
from services.gateway.rpc import ApiKeyRpc
from services.gateway.upstream import Upstream
from services.gateway.usage import Usage
from services.gateway.use_cases import Keys, create_key, principal_of
from tests.builders import SERVICE_TOKEN, eventually

DEAD_ADDRESS = "127.0.0.1:1"  # nothing listens there


class ScriptedUpstream:
    """Answers like vLLM: echoes the last message word by word, and knows models by their served names alone.

    `script` holds what the next requests get instead: a status, "drop" (the connection is cut), "cut" (a stream ends in
    its middle), "fail" (a stream tells of an error in its middle), "impostor" (the answer names another model), or fields
    of the choice: a stream has them in its first chunk.
    """

    def __init__(self, *served_names: str, api_key: str = "upstream-key") -> None:
        self.served_names, self.api_key = set(served_names), api_key
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: list[int | str | dict[str, Any]] = []
        self.gate = asyncio.Event()  # an answer waits here after its first word
        self.gate.set()
        self.cancelled = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["ScriptedUpstream"]:
        """Serve on a loopback port."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def replica(self, served_name: str) -> model_pb2.Replica:
        """Return this server as a replica of a model."""
        return model_pb2.Replica(url=self.url, served_name=served_name, api_key=self.api_key)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        scripted = self.script.pop(0) if self.script else ""
        if scripted == "drop":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if isinstance(scripted, int):
            return _error(scripted, f"scripted for {body['model']}")
        if request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return _error(401, "Unauthorized")
        if body["model"] not in self.served_names:
            return _error(404, f"The model `{body['model']}` does not exist.")
        words = _words(body)
        if "too-long" in words:
            return _error(400, f"This model's maximum context length is 2048 tokens. {body['model']}", "messages")
        try:
            return await (self._stream if body.get("stream") else self._whole)(request, body, words, scripted)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _whole(
        self, _: web.Request, body: dict[str, Any], words: list[str], scripted: str | dict[str, Any]
    ) -> web.Response:
        await self.gate.wait()
        text = " ".join(words)
        usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
        model = "somebody-else" if scripted == "impostor" else body["model"]
        answer: dict[str, Any] = {"id": "cmpl-1", "created": 1, "model": model, "usage": usage, "system_fingerprint": None}
        if "messages" in body:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            choice |= scripted if isinstance(scripted, dict) else {}
            answer |= {"object": "chat.completion", "choices": [choice]}
        else:
            top = {f"token_id:{token}": -0.5 * number for number, token in enumerate(body.get("logprob_token_ids", []))}
            logprobs = {"tokens": ["token_id:1"], "token_logprobs": [-0.5], "top_logprobs": [top], "text_offset": [0]}
            choice = {"index": 0, "text": text, "logprobs": logprobs if top else None, "finish_reason": "stop"}
            answer |= {"object": "text_completion", "choices": [choice]}
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    async def _stream(
        self, request: web.Request, body: dict[str, Any], words: list[str], scripted: str | dict[str, Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, word in enumerate(words):
            choice = {"index": 0, "delta": {"role": "assistant", "content": word + " "}, "finish_reason": None}
            choice |= scripted if isinstance(scripted, dict) and number == 0 else {}
            event = _chunk(body, [choice])
            await response.write(event[:20])  # in two pieces, as a network may cut it
            await response.write(event[20:])
            if number == 0:
                await self.gate.wait()
                if scripted == "cut":
                    assert request.transport is not None
                    request.transport.close()
                    return response
                if scripted == "fail":
                    await response.write(b'data: {"error": {"message": "engine died", "code": 500}}\n\n')
                    break
        if body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
            await response.write(_chunk(body, [], usage=usage))
        await response.write(b"data: [DONE]\n\n")
        return response


class ScriptedInference(model_pb2_grpc.ModelServiceServicer, catalogue_pb2_grpc.CatalogueServiceServicer):
    """An inference program whose routes and replicas are what the test sets."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], model_pb2.Route] = {}
        self.models: dict[str, model_pb2.Model] = {}
        self.replicas: dict[str, list[model_pb2.Replica]] = {}  # what EnsureServed gives; none: UNAVAILABLE
        self.entries: dict[str, catalogue_pb2.CatalogueEntry] = {}
        self.ensured: list[str] = []
        self.deleted: list[str] = []
        self.may_ensure = asyncio.Event()
        self.may_ensure.set()
        self.watchers = 0
        self.address = DEAD_ADDRESS
        self._changed = asyncio.Event()

    def put(self, public_id: str, model: str, digest: str, *replicas: model_pb2.Replica, **fields: str) -> None:
        """Add or replace a route, and what EnsureServed gives for its model."""
        route = model_pb2.Route(public_id=public_id, model=model, digest=digest, replicas=replicas, create_time=_now(), **fields)
        self.routes[route.project, public_id] = route
        self.changed()

    def changed(self) -> None:
        """Send the table to whoever watches."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def WatchRoutes(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[model_pb2.WatchRoutesResponse]:
        self.watchers += 1
        try:
            while True:
                changed = self._changed
                yield model_pb2.WatchRoutesResponse(routes=self.routes.values())
                await changed.wait()
        finally:
            self.watchers -= 1

    async def AcknowledgeRoutes(
        self, request: model_pb2.AcknowledgeRoutesRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.AcknowledgeRoutesResponse:
        return model_pb2.AcknowledgeRoutesResponse(believed_s=60)

    async def EnsureServed(
        self, request: model_pb2.EnsureServedRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.EnsureServedResponse:
        self.ensured.append(request.name)
        await self.may_ensure.wait()
        if not self.replicas.get(request.name):
            raise Unavailable(f"{request.name} is not served yet.")
        model = self.models.get(request.name, model_pb2.Model(name=request.name))
        return model_pb2.EnsureServedResponse(model=model, replicas=self.replicas[request.name])

    async def GetModel(self, request: model_pb2.GetModelRequest, context: grpc.aio.ServicerContext) -> model_pb2.Model:
        for model in self.models.values():
            if model.public_id == request.name and (project_of(model.name) if "projects/" in model.name else "") in (
                "",
                project_of(request.parent),
            ):
                return model
        raise NotFound(f"There is no model {request.name}.")

    async def CreateModel(self, request: model_pb2.CreateModelRequest, context: grpc.aio.ServicerContext) -> model_pb2.Model:
        project, number = project_of(request.parent), len(self.models)
        step = f":ckpt-step-{request.step}" if request.step else ""
        public_id = f"ft:base:{project}:{request.suffix}:{number}{step}"
        name = f"{request.parent}/models/m{number}"
        model = model_pb2.Model(name=name, kind=model_pb2.Model.KIND_ADAPTER, digest="ad" * 32, public_id=public_id)
        self.models[name] = model
        return model

    async def DeleteModel(self, request: model_pb2.DeleteModelRequest, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        self.deleted.append(request.name)
        self.routes = {key: route for key, route in self.routes.items() if route.model != request.name}
        self.changed()
        return empty_pb2.Empty()

    async def GetCatalogueEntry(
        self, request: catalogue_pb2.GetCatalogueEntryRequest, context: grpc.aio.ServicerContext
    ) -> catalogue_pb2.CatalogueEntry:
        if request.name not in self.entries:
            raise NotFound(f"There is no {request.name}.", metadata={"name": request.name})
        return self.entries[request.name]

    @contextlib.asynccontextmanager
    async def running(self, address: str = "127.0.0.1:0") -> AsyncIterator["ScriptedInference"]:
        """Serve over gRPC; `address` says where."""
        server = GrpcServer(
            address,
            [
                registration(model_pb2_grpc, model_pb2, "ModelService", self),
                registration(catalogue_pb2_grpc, catalogue_pb2, "CatalogueService", self),
            ],
        )
        await server.start()
        try:
            self.address = f"127.0.0.1:{server.port}"
            yield self
        finally:
            await server.stop(0)


@dataclass
class RunningGateway:
    """A gateway that serves, with a key that may do everything for the project default."""

    url: str
    secret: str
    keys: Keys
    routes: Routes
    grpc_address: str
    metrics: Metrics
    api_keys: Client = field(init=False)
    generation: Client = field(init=False)
    _clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.api_keys = Client(api_key_pb2_grpc.ApiKeyServiceStub, self.grpc_address, retry=False)
        self.generation = Client(generation_pb2_grpc.GenerationServiceStub, self.grpc_address, retry=False, token="")

    def counted(self) -> str:
        """Return what /metrics tells."""
        return self.metrics.exposition().decode()

    def client(self, secret: str = "") -> openai.AsyncOpenAI:
        """Return the SDK, for this gateway and a key, without retries of its own."""
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=secret or self.secret, max_retries=0)
        self._clients.append(client)
        return client

    async def knows(self, public_id: str) -> None:
        """Wait until a name is in the table of routes."""
        await eventually(lambda: self.routes.are_known)
        await eventually(lambda: public_id in [route.public_id for route in self.routes.list("default")])

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            await client.close()
        await self.api_keys.close()
        await self.generation.close()


@contextlib.asynccontextmanager
async def running_gateway(
    folder: Path,
    inference: str = DEAD_ADDRESS,
    *,
    dataset: str = DEAD_ADDRESS,
    trainer: str = DEAD_ADDRESS,
    limits: Limits | None = None,
    ensure_timeout_s: float = 10.0,
    idle_timeout_s: float = 10.0,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[RunningGateway]:
    """Run a gateway on ephemeral ports with its own SQLite file."""
    keys = Keys(SqlDatabase(f"sqlite:///{folder}/gateway.db"), clock=clock)
    models = Client(model_pb2_grpc.ModelServiceStub, inference, retry=False)
    routes = Routes(models, ensure_timeout_s=ensure_timeout_s)
    upstream = Upstream(routes, idle_timeout_s=idle_timeout_s, answer_timeout_s=idle_timeout_s)
    files = Client(file_pb2_grpc.FileServiceStub, dataset, retry=False)
    uploads = Client(upload_pb2_grpc.UploadServiceStub, dataset, retry=False)
    jobs = Client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, trainer, retry=False)
    metrics = Metrics()
    usage = Usage(metrics.registry)
    gateway = Gateway(keys, routes, upstream, files, jobs, models, uploads, limits or Limits(), usage)
    http = HttpServer("127.0.0.1:0", make_app(gateway), grace_s=2)
    http.bind()
    generating = GenerationRpc(gateway.generation, gateway.limits.max_body_bytes)
    server = GrpcServer(
        "127.0.0.1:0",
        [
            registration(api_key_pb2_grpc, api_key_pb2, "ApiKeyService", ApiKeyRpc(keys)),
            registration(generation_pb2_grpc, generation_pb2, "GenerationService", generating),
        ],
        authentication=Authentication(SERVICE_TOKEN, functools.partial(principal_of, keys)),
    )
    await server.start()
    _, secret = await create_key(keys, "projects/default", "tests", None)
    tasks = [asyncio.ensure_future(http.run()), asyncio.ensure_future(routes.watch())]
    running = RunningGateway(f"http://127.0.0.1:{http.port}", secret, keys, routes, f"127.0.0.1:{server.port}", metrics)
    try:
        yield running
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop(0)
        closing: list[Any] = [running, models, files, jobs, uploads, upstream, keys.database]
        for client in closing:
            await client.close()


def _chunk(body: dict[str, Any], choices: list[Any], **fields: Any) -> bytes:
    chunk = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "choices": choices}
    return b"data: " + orjson.dumps({**chunk, **fields}) + b"\n\n"


def _words(body: dict[str, Any]) -> list[str]:
    if "messages" in body:
        return str(body["messages"][-1]["content"]).split()
    return str(body["prompt"]).split() if isinstance(body["prompt"], str) else ["word"]


def _error(status: int, message: str, param: str | None = None) -> web.Response:
    error = {"error": {"message": message, "type": "Error", "param": param, "code": status}}
    return web.Response(status=status, body=orjson.dumps(error), content_type="application/json")


def _now() -> timestamp_pb2.Timestamp:
    now = timestamp_pb2.Timestamp()
    now.FromDatetime(datetime.now(UTC))
    return now
