"""Fixtures that tests of several kinds ask for."""

import os

import grpc.aio

from tests.builders import SERVICE_TOKEN
from tests.servers import postgres_server, s3_server

os.environ["AFINA_SERVICE_TOKEN"] = SERVICE_TOKEN  # what servers of the tests ask for, their clients show, and programs inherit

__all__ = ["postgres_server", "s3_server"]

# gRPC ends its polling thread with the last channel or server, and joins it for as long as it takes, on the event loop
# whose work that thread may wait for: a test hung so until its limit, once in many runs. Held here, it lives to the end.
# Source: grpc, _cygrpc/aio/completion_queue.pyx.pxi, PollerCompletionQueue.shutdown.
grpc.aio.init_grpc_aio()
