"""The dataset program: `python -m services.dataset` (with `--check`: import everything and leave)."""

import functools
import sys
from dataclasses import dataclass

from afina.v1 import dataset_pb2, dataset_pb2_grpc, file_pb2, file_pb2_grpc, upload_pb2, upload_pb2_grpc

from services.common.backends import choose
from services.common.program import Program, main
from services.common.reconcile import Reconciler
from services.common.settings import setting
from services.common.transport.authentication import SERVICE_TOKEN_SETTING, Authentication
from services.common.transport.gateway_keys import GatewayKeys
from services.common.transport.grpc_server import GrpcServer, registration
from services.dataset.rpc import DatasetRpc, FileRpc
from services.dataset.upload import KIND as UPLOAD_KIND
from services.dataset.upload_rpc import UploadRpc
from services.dataset.uploading import Uploads, reconcile_upload
from services.dataset.use_cases import DEFAULT_MAX_FILE_BYTES, Library

CLEARING_IDLE_S = 5.0  # nobody waits for the parts of an ended upload to go


@dataclass(frozen=True)
class Settings:
    """What dataset needs to know."""

    object_store: str = setting("OBJECT_STORE", "file:///folder or s3://bucket/prefix, where artifacts are")
    database: str = setting("DATABASE", "sqlite:///file or postgresql://…?schema=NAME, this program's own")
    service_token: str = setting(*SERVICE_TOKEN_SETTING, secret=True)
    address: str = setting("DATASET_ADDRESS", "host:port to serve on", default="127.0.0.1:50051")
    metrics_address: str = setting("DATASET_METRICS_ADDRESS", "host:port for /metrics and probes", default="127.0.0.1:9051")
    gateway_address: str = setting("GATEWAY_ADDRESS", "where the gateway says whose a key is", default="127.0.0.1:50055")
    max_file_bytes: int = setting("MAX_FILE_BYTES", "bytes that an upload may have", default=DEFAULT_MAX_FILE_BYTES)


async def run(settings: Settings, program: Program) -> None:
    """Wire the program together and serve until it is stopped."""
    library = Library(
        database=program.database(choose.database(settings.database)),
        store=program.store(choose.object_store(settings.object_store)),
        max_file_bytes=settings.max_file_bytes,
    )
    uploads = Uploads(library)
    clearing = Reconciler(
        library.database,
        UPLOAD_KIND,
        functools.partial(reconcile_upload, uploads),
        idle_s=CLEARING_IDLE_S,
        metrics=program.metrics,
    )
    server = GrpcServer(
        settings.address,
        [
            registration(file_pb2_grpc, file_pb2, "FileService", FileRpc(library)),
            registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", DatasetRpc(library)),
            registration(upload_pb2_grpc, upload_pb2, "UploadService", UploadRpc(uploads)),
        ],
        program.metrics,
        Authentication(settings.service_token, GatewayKeys(settings.gateway_address)),
    )
    await program.serve(server, reconcilers=[clearing], probes=settings.metrics_address)
    await library.database.close()


if __name__ == "__main__":
    if "--check" not in sys.argv:
        main("dataset", Settings, run)
