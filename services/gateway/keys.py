"""API keys: what a client shows, and what of it is kept.

Only the SHA-256 of a secret is stored: a secret has 256 random bits, so there is nothing to guess and nothing to salt.
A second record, named by that hash, leads to the key in one look. It is written first and deleted first: what a crash
leaves behind is a key whose secret nobody was told, or one that is still listed and no longer works.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from services.common import scopes
from services.common.principal import Principal

KIND = "apiKey"
HASH_KIND = "apiKeyHash"
NAME = "projects/{project}/apiKeys/{key}"
DEFAULT_PROJECT = "default"
MAX_DISPLAY_NAME_CHARACTERS = 128
MAX_TTL_S = 10 * 366 * 86400

_SECRET = re.compile(r"afina-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored, without its secret. `expire_time` is ISO 8601 UTC, empty for never."""

    name: str
    project: str
    display_name: str = ""
    expire_time: str = ""
    secret_sha256: str = ""
    scopes: tuple[str, ...] = ()

    def has_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return bool(self.expire_time) and now >= datetime.fromisoformat(self.expire_time)

    def principal(self) -> Principal:
        """Return who acts with it."""
        return Principal(self.name, self.project, frozenset(self.scopes))

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ApiKey":
        """Read it back; before there were scopes, a key could do everything, or only ask models."""
        fields = dict(document)
        earlier = ("inference",) if fields.pop("inference_only", False) else scopes.SCOPES
        return cls(scopes=scopes.whole(fields.pop("scopes", earlier)), **fields)


def new_secret() -> str:
    """Return a fresh secret: `afina-` and 43 characters that hold 256 random bits."""
    return f"afina-{secrets.token_urlsafe(32)}"


def is_secret(text: str) -> bool:
    """Whether a text can be a secret at all."""
    return _SECRET.fullmatch(text) is not None


def sha256_of(secret: str) -> str:
    """How a secret is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()
