"""The gateway program: `python -m services.gateway` (with `--check`: import everything and leave)."""

import functools
import gc
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop
from afina.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    file_pb2_grpc,
    fine_tuning_job_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2_grpc,
    upload_pb2_grpc,
)

from services.common.backends import choose
from services.common.program import Program, main, until_done
from services.common.settings import setting
from services.common.transport.authentication import SERVICE_TOKEN_SETTING, Authentication
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import GrpcServer, registration
from services.common.transport.http_server import HttpServer
from services.gateway.app import Gateway, Limits, make_app
from services.gateway.generation_rpc import GenerationRpc
from services.gateway.keys import DEFAULT_PROJECT
from services.gateway.routing import Routes
from services.gateway.rpc import ApiKeyRpc
from services.gateway.upstream import Upstream
from services.gateway.usage import Usage
from services.gateway.use_cases import Keys, ensure_first_key, principal_of


@dataclass(frozen=True)
class Settings:
    """What the gateway needs to know."""

    database: str = setting("DATABASE", "sqlite:///file or postgresql://…?schema=NAME, this program's own")
    service_token: str = setting(*SERVICE_TOKEN_SETTING, secret=True)
    api_key_file: str = setting("API_KEY_FILE", "a file for the first key, which only its owner can read")
    http_address: str = setting("GATEWAY_HTTP_ADDRESS", "host:port for the OpenAI API", default="127.0.0.1:8080")
    address: str = setting("GATEWAY_ADDRESS", "host:port to serve gRPC on", default="127.0.0.1:50055")
    metrics_address: str = setting("GATEWAY_METRICS_ADDRESS", "host:port for /metrics and probes", default="127.0.0.1:9055")
    dataset_address: str = setting("DATASET_ADDRESS", "where dataset answers", default="127.0.0.1:50051")
    trainer_address: str = setting("TRAINER_ADDRESS", "where trainer answers", default="127.0.0.1:50052")
    inference_address: str = setting("INFERENCE_ADDRESS", "where inference answers", default="127.0.0.1:50054")
    ensure_served_timeout_s: float = setting("ENSURE_SERVED_TIMEOUT_S", "how long a request waits for a model", default=120.0)
    idle_timeout_s: float = setting("UPSTREAM_IDLE_TIMEOUT_S", "longest silence within a stream", default=300.0)
    answer_timeout_s: float = setting("UPSTREAM_ANSWER_TIMEOUT_S", "longest wait for an unstreamed answer", default=600.0)
    max_body_bytes: int = setting("MAX_BODY_BYTES", "largest JSON body", default=10 << 20)
    max_file_bytes: int = setting("MAX_FILE_BYTES", "largest upload", default=1 << 30)
    max_generations: int = setting("MAX_CONCURRENT_GENERATIONS", "answers under way at a time", default=512)
    body_timeout_s: float = setting("BODY_TIMEOUT_S", "longest wait for a request's JSON body", default=60.0)


async def run(settings: Settings, program: Program) -> None:
    """Wire the program together and serve until it is stopped."""
    keys = Keys(program.database(choose.database(settings.database)))
    models = Client(model_pb2_grpc.ModelServiceStub, settings.inference_address, retry=False)
    title = f"{socket.gethostname()} {settings.http_address}"
    routes = Routes(models, ensure_timeout_s=settings.ensure_served_timeout_s, title=title)
    program.readiness.needs("routes", functools.partial(_are_known, routes))
    upstream = Upstream(routes, idle_timeout_s=settings.idle_timeout_s, answer_timeout_s=settings.answer_timeout_s)
    gateway = Gateway(
        keys=keys,
        routes=routes,
        upstream=upstream,
        files=Client(file_pb2_grpc.FileServiceStub, settings.dataset_address),
        jobs=Client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, settings.trainer_address),
        models=models,
        usage=Usage(program.metrics.registry),
        uploads=Client(upload_pb2_grpc.UploadServiceStub, settings.dataset_address),
        limits=Limits(settings.max_body_bytes, settings.max_file_bytes, settings.max_generations, settings.body_timeout_s),
    )
    http = HttpServer(settings.http_address, make_app(gateway))
    http.bind()
    generating = GenerationRpc(gateway.generation, settings.max_body_bytes)
    server = GrpcServer(
        settings.address,
        [
            registration(api_key_pb2_grpc, api_key_pb2, "ApiKeyService", ApiKeyRpc(keys)),
            registration(generation_pb2_grpc, generation_pb2, "GenerationService", generating),
        ],
        program.metrics,
        Authentication(settings.service_token, functools.partial(principal_of, keys)),
    )
    first_key = functools.partial(ensure_first_key, keys, Path(settings.api_key_file))
    gc.collect()
    gc.freeze()  # what lives as long as the program: looking through it again would stop every answer for tens of milliseconds
    await program.serve(server, http.run, routes.watch, lambda: until_done(first_key), probes=settings.metrics_address)
    await routes.leave()
    await upstream.close()
    await keys.database.close()


async def _are_known(routes: Routes) -> None:
    """Raises: Unavailable (no table of routes has come yet)."""
    routes.list(DEFAULT_PROJECT)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        main("gateway", Settings, run, uvloop.run)
