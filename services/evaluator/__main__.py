"""The evaluator program: `python -m services.evaluator` (with `--check`: import everything and leave)."""

import functools
import sys
from dataclasses import dataclass

from afina.v1 import (
    evaluation_pb2,
    evaluation_pb2_grpc,
    store_access_pb2,
    store_access_pb2_grpc,
    suite_pb2,
    suite_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)

from services.common.backends import choose
from services.common.program import Program, main
from services.common.reconcile import Reconciler
from services.common.settings import setting
from services.common.transport.authentication import SERVICE_TOKEN_SETTING, Authentication
from services.common.transport.gateway_keys import GatewayKeys
from services.common.transport.grpc_server import GrpcServer, registration
from services.common.transport.store_access_rpc import StoreAccessRpc
from services.common.transport.worker_reports import WorkerRpc
from services.evaluator.attempts import reconcile_evaluation
from services.evaluator.clients import Peers
from services.evaluator.evaluation import KIND
from services.evaluator.rpc import EvaluationRpc, SuiteRpc
from services.evaluator.use_cases import Evaluator, report_progress, store_grant


@dataclass(frozen=True)
class Settings:
    """What the evaluator needs to know."""

    object_store: str = setting("OBJECT_STORE", "file:///folder or s3://bucket/prefix, where artifacts are")
    database: str = setting("DATABASE", "sqlite:///file or postgresql://…?schema=NAME, this program's own")
    launcher: str = setting("LAUNCHER", "process:///folder, where workers run")
    cache: str = setting("AFINA_CACHE", "a folder for tokenizers fetched by digest")
    service_token: str = setting(*SERVICE_TOKEN_SETTING, secret=True)
    address: str = setting("EVALUATOR_ADDRESS", "host:port to serve on", default="127.0.0.1:50053")
    metrics_address: str = setting("EVALUATOR_METRICS_ADDRESS", "host:port for /metrics and probes", default="127.0.0.1:9053")
    dataset_address: str = setting("DATASET_ADDRESS", "where dataset answers", default="127.0.0.1:50051")
    inference_address: str = setting("INFERENCE_ADDRESS", "where inference answers", default="127.0.0.1:50054")
    gateway_address: str = setting("GATEWAY_ADDRESS", "where the gateway issues and knows keys", default="127.0.0.1:50055")
    gateway_url: str = setting("GATEWAY_URL", "root of the gateway's HTTP API", default="http://127.0.0.1:8080")
    parallel_questions: int = setting("PARALLEL_QUESTIONS", "questions of an evaluation in flight at a time", default=16)
    lease_s: float = setting("LEASE_S", "seconds that a claim on an evaluation lasts", default=60.0)
    worker_silence_s: float = setting(
        "WORKER_SILENCE_S", "seconds without news after which a worker is stopped and followed by the next", default=3600.0
    )


async def run(settings: Settings, program: Program) -> None:
    """Wire the program together and serve until it is stopped."""
    evaluator = Evaluator(
        database=program.database(choose.database(settings.database)),
        store=program.store(choose.object_store(settings.object_store)),
        launcher=program.launcher(choose.launcher(settings.launcher)),
        peers=Peers(settings.dataset_address, settings.inference_address, settings.gateway_address),
        worker_environment={
            "AFINA_CACHE": settings.cache,
            "AFINA_REPORT_TO": settings.address,
            "GATEWAY_URL": settings.gateway_url,
            "PARALLEL_QUESTIONS": str(settings.parallel_questions),
        },
        silence_limit_s=settings.worker_silence_s,
    )
    grants = functools.partial(store_grant, evaluator)
    server = GrpcServer(
        settings.address,
        [
            registration(suite_pb2_grpc, suite_pb2, "SuiteService", SuiteRpc(evaluator)),
            registration(evaluation_pb2_grpc, evaluation_pb2, "EvaluationService", EvaluationRpc(evaluator)),
            registration(worker_pb2_grpc, worker_pb2, "WorkerService", WorkerRpc(functools.partial(report_progress, evaluator))),
            registration(store_access_pb2_grpc, store_access_pb2, "StoreAccessService", StoreAccessRpc(evaluator.store, grants)),
        ],
        program.metrics,
        Authentication(settings.service_token, GatewayKeys(settings.gateway_address)),
    )
    step = functools.partial(reconcile_evaluation, evaluator)
    evaluations = Reconciler(evaluator.database, KIND, step, lease_s=settings.lease_s, metrics=program.metrics)
    await program.serve(server, reconcilers=[evaluations], probes=settings.metrics_address)
    await evaluator.peers.close()
    await evaluator.database.close()


if __name__ == "__main__":
    if "--check" not in sys.argv:
        main("evaluator", Settings, run)
