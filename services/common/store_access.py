"""What an attempt may touch of the object store: its job's own keys, and the ones that it was told to read.

Where a store's URL alone opens it (`file://`), the operating system's user is the boundary and nothing here is asked. On
`s3://` a workload has no keys. It asks the program that launched it to sign each request (`SignStoreRequest`), with the token
of its attempt; what it may ask for is its grant, which was written into the attempt's record before the launch. So a later
attempt revokes it, the end of its job revokes it, and what was signed lives for a minute and makes one request possible.

What it writes can't be there yet: the signature carries the condition, so no attempt changes what another has committed.
What it may delete is told apart from what it may write: old checkpoints, but never a result.

Keys are compared as they are written, so only plain ones are taken: parts of letters, digits and `._-` that begin with a
letter, a digit or `_`. There is nothing to decode, to resolve or to fold in such a key.

When changing this: whatever a worker newly reads belongs into its grant, or it is refused on `s3://` and not on `file://`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from services.common.errors import InvalidInput, PermissionDenied
from services.common.ports.database import Document
from services.common.ports.manifest import Manifest
from services.common.ports.object_store import ObjectStore, StoreRequest, StoreVerb

WORKER_PATIENCE_S = 1800.0  # how long one waits for a signature: whoever signs may be frozen, or installed anew
LIFETIME_S = 60  # of a signature; a transfer that has begun goes on
SCHEME = "signed"
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
PLAIN = re.compile(rf"{_PART}(/{_PART})*")
WEIGHTS = (".safetensors", ".gguf", ".onnx")
READING = (StoreVerb.GET, StoreVerb.HEAD)


@dataclass(frozen=True)
class Grant:
    """What one attempt may do: read the keys of `reads`; read, list and write under `writes`; delete under `deletes`.

    Prefixes end in "/".
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()

    def require(self, request: StoreRequest) -> None:
        """Raises: InvalidInput (not a plain key), PermissionDenied (none of this attempt's)."""
        is_list = request.verb is StoreVerb.LIST
        key = request.key.removesuffix("/") if is_list else request.key
        if not PLAIN.fullmatch(key):
            raise InvalidInput(f"{request.key!r} is not a key that a workload may name.", reason="KEY_INVALID")
        prefixes = self.deletes if request.verb is StoreVerb.DELETE else self.writes
        if any(request.key.startswith(prefix) and (is_list or key + "/" != prefix) for prefix in prefixes):
            return
        if request.verb in READING and key in self.reads:
            return
        raise PermissionDenied(
            f"{request.verb} {request.key}: this attempt may touch its own job's keys and nothing else.",
            reason="STORE_KEY_DENIED",
            metadata={"key": request.key, "verb": str(request.verb)},
        )

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON, to be kept in the attempt's record."""
        return {"reads": list(self.reads), "writes": list(self.writes), "deletes": list(self.deletes)}

    @classmethod
    def of(cls, attempt: Document) -> "Grant":
        """Read it from an attempt's record; one without a grant may nothing."""
        told: Mapping[str, Any] = attempt.get("store_grant", {})
        return cls(**{name: tuple(keys) for name, keys in told.items()})


NOTHING = Grant()


def is_under(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a key is plain and under one of some prefixes that end in "/"."""
    return PLAIN.fullmatch(key) is not None and any(key.startswith(prefix) for prefix in prefixes)


def granted(grant: Grant) -> Document:
    """Return what an attempt's record holds of a grant."""
    return {"store_grant": grant.to_document()}


def keys_of(store: ObjectStore, manifest_keys: Iterable[str], *, with_weights: bool) -> tuple[str, ...]:
    """Return some manifests' keys and those of the files that they name. It waits for the store. Raises: ArtifactNotFound."""
    if not store.needs_signature:
        return ()
    keys = list(dict.fromkeys(manifest_keys))
    for manifest in [Manifest.from_json(store.read(key)) for key in keys]:
        keys += [f.artifact.key for f in manifest.files if with_weights or not f.path.endswith(WEIGHTS)]
    return tuple(dict.fromkeys(keys))


def environment(store: ObjectStore, signer: str, name: str, attempt: int, patience_s: float | None = None) -> dict[str, str]:
    """Return what opens the store in a workload's environment, beside the token of its attempt: no credentials.

    `signer` is the host:port of the program that launches it, `name` what it works for. It waits for so long where the signer
    is away; None is for what answers people, and gives up early.
    """
    if not store.needs_signature:
        return {"OBJECT_STORE": store.url}
    told = {"store": store.url} | ({} if patience_s is None else {"patience_s": f"{patience_s:g}"})
    return {"OBJECT_STORE": f"{SCHEME}://{signer}/{name}/attempts/{attempt}?{urlencode(told)}"}
