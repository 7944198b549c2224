"""boto3's client as the store uses it, and who signs its requests: the client itself, or somebody who holds the keys.

A workload has no keys. Its client builds each request as ever, checksums, conditions and retries included, and just before
it is sent asks for the URL that makes exactly this request possible: verb, key, condition and checksum are under the
signature, and a request that is repeated is signed again. So whatever is true of the store is true of the signed one.

When changing this: what a workload sends and what is signed for it must have the same `x-amz-` headers, so both are built
from the same parameters, below; and no verb may write over what is there.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore
from botocore.config import Config

from services.common.errors import PermissionDenied
from services.common.ports.object_store import StoreRequest, StoreVerb

MARK = "commit"  # the metadata that tell whose commit an object is
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPERATIONS = {
    StoreVerb.GET: "GetObject",
    StoreVerb.HEAD: "HeadObject",
    StoreVerb.PUT: "PutObject",
    StoreVerb.LIST: "ListObjectsV2",
    StoreVerb.DELETE: "DeleteObject",
    StoreVerb.BEGIN_UPLOAD: "CreateMultipartUpload",
    StoreVerb.PUT_PART: "UploadPart",
    StoreVerb.END_UPLOAD: "CompleteMultipartUpload",
    StoreVerb.DROP_UPLOAD: "AbortMultipartUpload",
}
VERBS = {operation: verb for verb, operation in OPERATIONS.items()}
_ASKED = "afina-parameters"  # where a request's context keeps them


def presign(client: Any, bucket: str, path: str, request: StoreRequest, lifetime_s: int) -> str:
    """Return the URL of one request, for so long."""
    method = botocore.xform_name(OPERATIONS[request.verb])
    return str(client.generate_presigned_url(method, Params=_parameters(bucket, path, request), ExpiresIn=lifetime_s))


def sign_elsewhere(client: Any, prefix: str, signer: Callable[[StoreRequest], str]) -> None:
    """Have each request of a client go to the URL that `signer` returns for it; keys are told without the store's prefix."""

    def keep(params: Mapping[str, Any], context: dict[str, Any], **_: Any) -> None:
        context[_ASKED] = dict(params)

    def sign(request: Any, operation_name: str, **_: Any) -> None:
        request.url = signer(_request(operation_name, request.context[_ASKED], prefix))

    client.meta.events.register("before-parameter-build.s3", keep)
    client.meta.events.register("before-sign.s3", sign)


def _parameters(bucket: str, path: str, request: StoreRequest) -> dict[str, Any]:
    """Return boto3's parameters of a request."""
    given: dict[str, Any] = {"Bucket": bucket, "Prefix" if request.verb is StoreVerb.LIST else "Key": path}
    if request.verb in (StoreVerb.PUT, StoreVerb.END_UPLOAD):
        given["IfNoneMatch"] = "*"
    if request.verb is StoreVerb.PUT:
        given |= {"ChecksumSHA256": request.sha256, **({"Metadata": {MARK: request.mark}} if request.mark else {})}
    if request.verb is StoreVerb.BEGIN_UPLOAD:
        given["ChecksumAlgorithm"] = "CRC32"
    if request.verb is StoreVerb.LIST and request.after:
        given["ContinuationToken"] = request.after
    if request.upload_id:
        given["UploadId"] = request.upload_id
    if request.verb is StoreVerb.PUT_PART:
        given |= {"PartNumber": request.part_number, "ChecksumCRC32": request.crc32}
    return given


def _request(operation: str, given: Mapping[str, Any], prefix: str) -> StoreRequest:
    """Return the request that parameters describe: `_parameters` the other way round. Raises: PermissionDenied."""
    if operation not in VERBS:
        raise PermissionDenied(f"Nobody signs {operation} for a workload.", reason="STORE_VERB_DENIED")
    return StoreRequest(
        VERBS[operation],
        str(given.get("Key", given.get("Prefix", ""))).removeprefix(prefix),
        upload_id=str(given.get("UploadId", "")),
        part_number=int(given.get("PartNumber", 0)),
        sha256=str(given.get("ChecksumSHA256", "")),
        crc32=str(given.get("ChecksumCRC32", "")),
        mark=str(given.get("Metadata", {}).get(MARK, "")),
        after=str(given.get("ContinuationToken", "")),
    )


def connect(
    environ: Mapping[str, str], attempts: int, connect_timeout_s: float, read_timeout_s: float, *, is_signing: bool
) -> Any:
    """Return boto3's client. Checksums are sent as headers that a server without them passes over, not as trailers."""
    endpoint = next(
        (environ[name] for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if name in environ), ""
    )
    any_region = "us-east-1" if endpoint or not is_signing else None
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or any_region
    config = Config(
        signature_version="s3v4" if is_signing else botocore.UNSIGNED,
        s3={"addressing_style": "path"} if endpoint else {},
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        max_pool_connections=32,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies={} if urlsplit(endpoint).hostname in LOOPBACK else None,
    )
    session = boto3.session.Session(
        aws_access_key_id=environ.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=environ.get("AWS_SESSION_TOKEN"),
        region_name=region,
    )
    return session.client("s3", endpoint_url=endpoint or None, config=config, verify=environ.get("AWS_CA_BUNDLE"))
