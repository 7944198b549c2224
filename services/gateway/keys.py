"""API keys: what a client shows, what of it is kept, and for how long one look at the database is believed.

Only the SHA-256 of a secret is stored: a secret has 256 random bits, so there is nothing to guess and nothing to salt.
A second record, named by that hash, leads to the key in one look. It is written first and deleted first: what a crash
leaves behind is a key whose secret nobody was told, or one that is still listed and no longer works.
"""

import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

KIND = "apiKey"
HASH_KIND = "apiKeyHash"
NAME = "projects/{project}/apiKeys/{key}"
DEFAULT_PROJECT = "default"
MAX_DISPLAY_NAME_CHARACTERS = 128
MAX_TTL_S = 10 * 366 * 86400
# A key revoked by another replica of the gateway is refused here after this long; by this one, at once.
BELIEVED_S = 1.0
MAX_BELIEVED = 4096

_SECRET = re.compile(r"afina-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored, without its secret. `expire_time` is ISO 8601 UTC, empty for never."""

    name: str
    project: str
    display_name: str = ""
    expire_time: str = ""
    inference_only: bool = False
    secret_sha256: str = ""

    def has_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return bool(self.expire_time) and now >= datetime.fromisoformat(self.expire_time)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ApiKey":
        """Read it back."""
        return cls(**document)


def new_secret() -> str:
    """Return a fresh secret: `afina-` and 43 characters that hold 256 random bits."""
    return f"afina-{secrets.token_urlsafe(32)}"


def is_secret(text: str) -> bool:
    """Whether a text can be a secret at all."""
    return _SECRET.fullmatch(text) is not None


def secret_of(authorization: str) -> str:
    """Return the secret in `Bearer afina-...`, as a header or metadata carries it; empty where there is none."""
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def sha256_of(secret: str) -> str:
    """How a secret is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Believed:
    """What the database said of the last keys that were shown, for a second each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
        self.revocations = 0  # so far; an answer that was asked for before one of them may be what it was before

    def get(self, secret_sha256: str) -> tuple[bool, ApiKey | None]:
        """Return whether there is an answer, and the answer: a key, or None for a hash that no key has."""
        until, key = self._known.get(secret_sha256, (0.0, None))
        return self._clock() < until, key

    def put(self, secret_sha256: str, key: ApiKey | None, revocations: int) -> None:
        """Believe an answer for a while, unless a key was revoked since it was asked for; the oldest are forgotten first."""
        if revocations != self.revocations:
            return
        self._known[secret_sha256] = (self._clock() + BELIEVED_S, key)
        self._known.move_to_end(secret_sha256)
        while len(self._known) > MAX_BELIEVED:
            self._known.popitem(last=False)

    def forget(self, secret_sha256: str) -> None:
        """Ask the database next time, since a key was revoked."""
        self.revocations += 1
        self._known.pop(secret_sha256, None)
