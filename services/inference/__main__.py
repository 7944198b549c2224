"""The inference program: `python -m services.inference` (with `--check`: import everything and leave)."""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from afina.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    store_access_pb2,
    store_access_pb2_grpc,
)

from services.common.backends import choose
from services.common.backends.model_server.vllm import ServerPlan, VllmServer, workload
from services.common.ports.launcher import Workload
from services.common.ports.object_store import ObjectStore
from services.common.program import Program, main
from services.common.reconcile import Reconciler
from services.common.settings import setting
from services.common.store_access import environment
from services.common.transport.authentication import SERVICE_TOKEN_SETTING, Authentication
from services.common.transport.gateway_keys import GatewayKeys
from services.common.transport.grpc_server import GrpcServer, registration
from services.common.transport.store_access_rpc import StoreAccessRpc
from services.inference.chat_template import write_template
from services.inference.clients import GrpcEvaluations
from services.inference.fleet import reconcile_placement, reconcile_server
from services.inference.inference import Inference
from services.inference.routes import RouteTable
from services.inference.rpc import CatalogueRpc, EndpointRpc, ModelRpc
from services.inference.server_access import ServerAccess
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Server
from services.inference.watchers import BELIEVED_S


@dataclass(frozen=True)
class Settings:
    """What inference needs to know."""

    object_store: str = setting("OBJECT_STORE", "file:///folder or s3://bucket/prefix, where artifacts are")
    database: str = setting("DATABASE", "sqlite:///file or postgresql://…?schema=NAME, this program's own")
    launcher: str = setting("LAUNCHER", "process:///folder, where model servers run")
    cache: str = setting("AFINA_CACHE", "a folder for bases and adapters fetched by digest")
    service_token: str = setting(*SERVICE_TOKEN_SETTING, secret=True)
    address: str = setting("INFERENCE_ADDRESS", "host:port to serve on", default="127.0.0.1:50054")
    metrics_address: str = setting("INFERENCE_METRICS_ADDRESS", "host:port for /metrics and probes", default="127.0.0.1:9054")
    gateway_address: str = setting("GATEWAY_ADDRESS", "where the gateway says whose a key is", default="127.0.0.1:50055")
    evaluator_address: str = setting("EVALUATOR_ADDRESS", "where evaluator answers", default="127.0.0.1:50053")
    accelerator: str = setting("AFINA_ACCELERATOR", "cpu or cuda: what model servers run on", default="cpu")
    kv_cache_gib: int = setting("KV_CACHE_GIB", "memory for a server's prompts and answers, on a CPU", default=1)
    max_servers: int = setting("MAX_SERVERS", "model servers at once; 0 means 4 on a CPU and 1 on a GPU", default=0)
    routes_believed_s: float = setting(
        "ROUTES_BELIEVED_S", "how long a gateway answers for endpoints without hearing from inference", default=BELIEVED_S
    )
    lease_s: float = setting("LEASE_S", "seconds that a claim on a server lasts", default=60.0)


MAX_SERVERS = {"cpu": 4, "cuda": 1}  # on a GPU the first server takes most of its memory


def describe(settings: Settings, store: ObjectStore, server: Server, folder: Path) -> Workload:
    """Say how a server is started."""
    return workload(
        ServerPlan(
            key=server.key,
            base_folder=str(folder),
            base_digest=server.digest,
            port=server.port,
            api_key=server.api_key,
            object_store=environment(store, settings.address, server.name, server.generation)["OBJECT_STORE"],
            cache=settings.cache,
            max_length=server.max_length,
            max_rank=server.max_rank,
            accelerator=settings.accelerator,
            kv_cache_gib=settings.kv_cache_gib,
            chat_template=str(write_template(Path(settings.cache), server.chat_template)) if server.chat_template else "",
            tool_call_parser=server.tool_call_parser,
        )
    )


async def run(settings: Settings, program: Program) -> None:
    """Wire the program together and serve until it is stopped. Model servers go on without it."""
    database, store = (
        program.database(choose.database(settings.database)),
        program.store(choose.object_store(settings.object_store)),
    )
    evaluations = GrpcEvaluations(settings.evaluator_address)
    async with aiohttp.ClientSession() as session:
        inference = Inference(
            database=database,
            store=store,
            launcher=program.launcher(choose.launcher(settings.launcher)),
            evaluations=evaluations,
            cache=Path(settings.cache),
            workload=functools.partial(describe, settings, store),
            connect=lambda url, api_key: VllmServer(url, api_key, session),
            routes=RouteTable(database, believed_s=settings.routes_believed_s),
            max_servers=settings.max_servers or MAX_SERVERS[settings.accelerator],
        )
        access = ServerAccess(inference)
        server = GrpcServer(
            settings.address,
            [
                registration(model_pb2_grpc, model_pb2, "ModelService", ModelRpc(inference)),
                registration(catalogue_pb2_grpc, catalogue_pb2, "CatalogueService", CatalogueRpc(inference)),
                registration(endpoint_pb2_grpc, endpoint_pb2, "EndpointService", EndpointRpc(inference)),
                registration(store_access_pb2_grpc, store_access_pb2, "StoreAccessService", StoreAccessRpc(store, access.grant)),
            ],
            program.metrics,
            Authentication(settings.service_token, GatewayKeys(settings.gateway_address)),
        )
        servers = Reconciler(
            database,
            SERVER_KIND,
            functools.partial(reconcile_server, inference),
            lease_s=settings.lease_s,
            metrics=program.metrics,
        )
        placements = Reconciler(
            database,
            PLACEMENT_KIND,
            functools.partial(reconcile_placement, inference),
            lease_s=settings.lease_s,
            metrics=program.metrics,
        )
        loops = (inference.routes.run, inference.routes.watchers.run)
        await program.serve(server, *loops, reconcilers=[servers, placements], probes=settings.metrics_address)
        await inference.background.close()
    await evaluations.close()
    await database.close()


if __name__ == "__main__":
    if "--check" not in sys.argv:
        main("inference", Settings, run)
