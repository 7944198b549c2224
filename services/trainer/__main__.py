"""The trainer program: `python -m services.trainer` (with `--check`: import everything and leave)."""

import functools
import sys
from dataclasses import dataclass

from afina.v1 import (
    fine_tuning_job_pb2,
    fine_tuning_job_pb2_grpc,
    store_access_pb2,
    store_access_pb2_grpc,
    sweep_pb2,
    sweep_pb2_grpc,
    token_count_pb2,
    token_count_pb2_grpc,
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
from services.common.transport.worker_reports import WorkerRpc
from services.trainer import job, sweep, token_count
from services.trainer.attempts import reconcile_job
from services.trainer.clients import GrpcPeers
from services.trainer.rpc import FineTuningJobRpc, store_access_rpc
from services.trainer.sweep_rpc import SweepRpc
from services.trainer.sweeps import reconcile_sweep
from services.trainer.token_count_rpc import TokenCountRpc
from services.trainer.token_counts import reconcile_count
from services.trainer.use_cases import Trainer, report_progress
from services.trainer.worker_environment import RECOMMENDED


@dataclass(frozen=True)
class Settings:
    """What the trainer needs to know."""

    object_store: str = setting("OBJECT_STORE", "file:///folder or s3://bucket/prefix, where artifacts are")
    database: str = setting("DATABASE", "sqlite:///file or postgresql://…?schema=NAME, this program's own")
    launcher: str = setting("LAUNCHER", "process:///folder, where workers run")
    cache: str = setting("AFINA_CACHE", "a folder for bases fetched by digest")
    service_token: str = setting(*SERVICE_TOKEN_SETTING, secret=True)
    address: str = setting("TRAINER_ADDRESS", "host:port to serve on", default="127.0.0.1:50052")
    metrics_address: str = setting("TRAINER_METRICS_ADDRESS", "host:port for /metrics and probes", default="127.0.0.1:9052")
    gateway_address: str = setting("GATEWAY_ADDRESS", "where the gateway says whose a key is", default="127.0.0.1:50055")
    dataset_address: str = setting("DATASET_ADDRESS", "where dataset answers", default="127.0.0.1:50051")
    inference_address: str = setting("INFERENCE_ADDRESS", "where inference answers", default="127.0.0.1:50054")
    evaluator_address: str = setting("EVALUATOR_ADDRESS", "where evaluator answers", default="127.0.0.1:50053")
    lease_s: float = setting("LEASE_S", "seconds that a claim on a job lasts", default=60.0)
    worker_silence_s: float = setting(
        "WORKER_SILENCE_S", "seconds without news after which a worker is stopped and followed by the next", default=3600.0
    )
    checkpoint_interval_s: float = setting("CHECKPOINT_INTERVAL_S", "most training that a crash costs, in seconds", default=30.0)


async def run(settings: Settings, program: Program) -> None:
    """Wire the program together and serve until it is stopped."""
    trainer = Trainer(
        database=program.database(choose.database(settings.database)),
        store=program.store(choose.object_store(settings.object_store)),
        launcher=program.launcher(choose.launcher(settings.launcher)),
        peers=GrpcPeers(settings.dataset_address, settings.inference_address, settings.evaluator_address),
        worker_environment={
            **RECOMMENDED,
            "AFINA_CACHE": settings.cache,
            "AFINA_REPORT_TO": settings.address,
            "AFINA_CHECKPOINT_INTERVAL_S": str(settings.checkpoint_interval_s),
        },
        silence_limit_s=settings.worker_silence_s,
    )
    server = GrpcServer(
        settings.address,
        [
            registration(fine_tuning_job_pb2_grpc, fine_tuning_job_pb2, "FineTuningJobService", FineTuningJobRpc(trainer)),
            registration(sweep_pb2_grpc, sweep_pb2, "SweepService", SweepRpc(trainer)),
            registration(token_count_pb2_grpc, token_count_pb2, "TokenCountService", TokenCountRpc(trainer)),
            registration(worker_pb2_grpc, worker_pb2, "WorkerService", WorkerRpc(functools.partial(report_progress, trainer))),
            registration(store_access_pb2_grpc, store_access_pb2, "StoreAccessService", store_access_rpc(trainer)),
        ],
        program.metrics,
        Authentication(settings.service_token, GatewayKeys(settings.gateway_address)),
    )
    steps = {job.KIND: reconcile_job, token_count.KIND: reconcile_count, sweep.KIND: reconcile_sweep}
    loops = [
        Reconciler(trainer.database, kind, functools.partial(step, trainer), lease_s=settings.lease_s, metrics=program.metrics)
        for kind, step in steps.items()
    ]
    await program.serve(server, reconcilers=loops, probes=settings.metrics_address)
    await trainer.database.close()


if __name__ == "__main__":
    if "--check" not in sys.argv:
        main("trainer", Settings, run)
