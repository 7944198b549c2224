"""A workload's view of a bucket: `signed://host:port/NAME/attempts/N?store=s3://bucket/prefix&patience_s=1800`.

It has no keys. Each request is signed by the program at `host:port`, which launched it, with the token of its attempt; bytes
go to the bucket directly. While that program is away the request waits; it is asked again until it has answered, or for so
long that somebody should look. A refusal is final: the attempt has been replaced, or the key is none of its own.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
from afina.v1 import store_access_pb2 as pb
from afina.v1 import store_access_pb2_grpc

from services.common.backends.object_store.s3 import S3ObjectStore
from services.common.errors import InvalidInput, Unavailable
from services.common.ports.object_store import StoreRequest
from services.common.telemetry import carried
from services.common.transport.grpc_client import translate
from services.common.transport.progress import TOKEN_KEY
from services.common.transport.store_access_rpc import message_of

TOKEN_VARIABLE = "AFINA_ATTEMPT_TOKEN"
PATIENCE_S = 120.0  # where the URL says nothing: a service that is being installed anew is back by then
PATIENCE = re.compile(r"[0-9]{1,6}(\.[0-9]+)?")
CALL_TIMEOUT_S = 10.0
PAUSE_S = 1.0


class SignedObjectStore(S3ObjectStore):
    """The bucket, as one attempt may use it. Opens no connection before the first verb; threads may share it."""

    def __init__(self, url: str, environ: Mapping[str, str], **options: Any) -> None:
        parts, told = urlsplit(url), parse_qs(urlsplit(url).query)
        name, _, attempt = parts.path.strip("/").rpartition("/attempts/")
        store, patience_s = told.get("store", [""])[0], told.get("patience_s", [f"{PATIENCE_S:g}"])[0]
        is_known = PATIENCE.fullmatch(patience_s) is not None
        if not parts.netloc or not name or not attempt.isdecimal() or not store or not is_known:
            form = "signed://host:port/NAME/attempts/N?store=s3://bucket/prefix&patience_s=SECONDS"
            raise InvalidInput(f"{url} is not understood; use {form}.", reason="URL_INVALID")
        signer = Signer(parts.netloc, name, int(attempt), environ.get(TOKEN_VARIABLE, ""), float(patience_s))
        authority = {"AWS_CA_BUNDLE": environ.get("SSL_CERT_FILE", "")}  # which a workload inherits
        super().__init__(store, authority, signer=signer.sign, **options)


class Signer:
    """Asks for signatures, patiently. The connection is made on the first call and kept."""

    def __init__(
        self, address: str, name: str, attempt: int, token: str, patience_s: float, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._address, self._name, self._attempt = address, name, attempt
        self._token, self._patience_s, self._wait = token, patience_s, wait
        self._stub: store_access_pb2_grpc.StoreAccessServiceStub | None = None
        self._guard = threading.Lock()

    def sign(self, request: StoreRequest) -> str:
        """Return the URL of a request. Raises: Unauthenticated (revoked), PermissionDenied, InvalidInput, Unavailable (away)."""
        asked = pb.SignStoreRequestRequest(name=self._name, attempt=self._attempt, request=message_of(request))
        end_s = time.monotonic() + self._patience_s
        while True:
            metadata = ((TOKEN_KEY, self._token), *carried().items())
            try:
                return str(self._connected().SignStoreRequest(asked, timeout=CALL_TIMEOUT_S, metadata=metadata).url)
            except grpc.RpcError as failure:
                error = translate(failure, self._address)
                if not isinstance(error, Unavailable) or time.monotonic() > end_s:
                    raise error from failure
            self._wait(random.uniform(PAUSE_S / 2, PAUSE_S))

    def _connected(self) -> store_access_pb2_grpc.StoreAccessServiceStub:
        with self._guard:  # not in __init__: a program may still fork then
            if self._stub is None:
                options = [("grpc.max_reconnect_backoff_ms", 2000), ("grpc.enable_http_proxy", 0)]
                channel = grpc.insecure_channel(self._address, options=options)
                self._stub = store_access_pb2_grpc.StoreAccessServiceStub(channel)
            return self._stub
