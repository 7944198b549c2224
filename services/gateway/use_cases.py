"""What can be asked of the gateway about keys: one short function a verb."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.common import scopes
from services.common.believed import Believed
from services.common.errors import InvalidInput, NotFound, Unauthenticated, Violation
from services.common.names import last, new_id, parse, project_of
from services.common.ports.database import Database, Record
from services.common.principal import Principal, expired, unknown
from services.common.telemetry import log
from services.gateway import keys
from services.gateway.keys import ApiKey

_logger = logging.getLogger("afina.gateway")


@dataclass(frozen=True)
class Keys:
    """What the use cases of keys work with."""

    database: Database
    believed: Believed[ApiKey] = field(default_factory=Believed)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


async def create_key(
    context: Keys, parent: str, display_name: str, ttl_s: float | None, asked: Iterable[str] = (), secret: str = ""
) -> tuple[Record, str]:
    """Issue a key and return its record with the secret, which is nowhere else afterwards.

    Without scopes it may do whatever a key can be allowed. Raises: InvalidInput.
    """
    project = project_of(parent)
    parse("projects/{project}", parent)
    asked = tuple(asked)
    _check(display_name, ttl_s, asked)
    secret = secret or keys.new_secret()
    expire_time = "" if ttl_s is None else (context.clock() + timedelta(seconds=ttl_s)).isoformat()
    name = f"{parent}/apiKeys/{new_id('key')}"
    may = scopes.whole(asked) or scopes.SCOPES
    key = ApiKey(name, project, display_name, expire_time, keys.sha256_of(secret), may)
    await context.database.create(keys.HASH_KIND, key.secret_sha256, key.to_document())
    return await context.database.create(keys.KIND, name, key.to_document()), secret


async def list_keys(context: Keys, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return the keys of a project, newest first."""
    parse("projects/{project}", parent)
    return await context.database.list(keys.KIND, f"{parent}/apiKeys", after=after, limit=limit)


async def delete_key(context: Keys, name: str) -> None:
    """Revoke a key. This replica refuses it at once, others within `believed.BELIEVED_S`. Raises: NotFound."""
    parse(keys.NAME, name)
    record = await context.database.get(keys.KIND, name)
    secret_sha256 = record.document["secret_sha256"]
    with contextlib.suppress(NotFound):
        await context.database.delete(await context.database.get(keys.HASH_KIND, secret_sha256))
    context.believed.forget(secret_sha256)  # as soon as it is no key any more, whatever becomes of its listing
    await context.database.delete(record)


async def authenticate(context: Keys, secret: str) -> ApiKey:
    """Return the key that a client showed. Raises: Unauthenticated."""
    if not secret:
        raise Unauthenticated(
            "You didn't provide an API key. Send it in a header: Authorization: Bearer afina-...",
            reason="API_KEY_MISSING",
        )
    key = await _known(context, keys.sha256_of(secret)) if keys.is_secret(secret) else None
    if key is None:
        raise unknown(secret)
    if key.has_expired(context.clock()):
        raise expired(last(key.name), key.expire_time)
    return key


async def principal_of(context: Keys, secret: str) -> Principal:
    """Return who acts with a key. Raises: Unauthenticated."""
    return (await authenticate(context, secret)).principal()


async def verify_key(context: Keys, secret_sha256: str) -> Record:
    """Return the key whose secret has that hash, also one that has expired. Raises: NotFound."""
    try:
        return await context.database.get(keys.HASH_KIND, secret_sha256)
    except NotFound as error:
        raise NotFound("No key's secret has that hash.") from error


async def ensure_first_key(context: Keys, file: Path) -> None:
    """Where no key exists, make one for the default project and leave its secret in a file that only its owner can read.

    The file comes first: a gateway that dies in between leaves a file without a key, and the next start writes it anew.
    """
    if await context.database.list(keys.KIND, "", limit=1):
        if not await asyncio.to_thread(file.exists):
            log(_logger, logging.WARNING, "there are keys, but the file of the first one is gone", file=str(file))
        return
    secret = keys.new_secret()
    await asyncio.to_thread(_write_private, file, secret + "\n")
    parent = f"projects/{keys.DEFAULT_PROJECT}"
    record, _ = await create_key(context, parent, "first key", None, secret=secret)
    log(_logger, logging.INFO, "the first key was made", name=record.name, file=str(file))


async def _known(context: Keys, secret_sha256: str) -> ApiKey | None:
    is_known, key = context.believed.get(secret_sha256)
    if is_known:
        return key
    revocations = context.believed.revocations
    try:
        key = ApiKey.from_document((await context.database.get(keys.HASH_KIND, secret_sha256)).document)
    except NotFound:
        key = None
    context.believed.put(secret_sha256, key, revocations)
    return key


def _check(display_name: str, ttl_s: float | None, asked: Sequence[str]) -> None:
    violations = []
    for scope in asked:
        if scope not in scopes.SCOPES:
            told = f"{scope!r:.60} is no scope; there are {', '.join(scopes.SCOPES)}."
            violations.append(Violation("scopes", "SCOPE_UNKNOWN", told))
    if len(display_name) > keys.MAX_DISPLAY_NAME_CHARACTERS:
        told = f"display_name has {len(display_name)} characters; at most {keys.MAX_DISPLAY_NAME_CHARACTERS} are kept."
        violations.append(Violation("display_name", "TOO_LONG", told))
    if ttl_s is not None and not 0 < ttl_s <= keys.MAX_TTL_S:
        violations.append(Violation("ttl", "OUT_OF_BOUNDS", f"ttl is {ttl_s:g} s; choose more than 0 and at most ten years."))
    if violations:
        raise InvalidInput("The key can't be made: " + " ".join(v.description for v in violations), violations=violations)


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(file)
