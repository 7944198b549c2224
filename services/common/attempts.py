"""An attempt: one launch of a worker, with the token that lets it report.

The token is random and kept as its hash. A report names the number of its first event, as the worker counts, so one
that is sent again after a lost answer is recorded once.
"""

import hashlib
import hmac
from collections.abc import Sequence

from services.common.errors import NotFound, Unauthenticated
from services.common.ports.database import Database, Document, NewEvent, Record
from services.common.store_access import NOTHING, Grant, granted

KIND = "attempt"
EXIT_INVALID_INPUT = 64  # what was asked for can't work; the worker has said why
EXITS_STOPPED = (75, 143)  # told to leave: with what it had saved, or before it had begun


def name_of(resource: str, number: int) -> str:
    """Return the name of an attempt's record."""
    return f"{resource}/attempts/{number}"


def document_of(token: str, grant: Grant = NOTHING) -> Document:
    """Return the record of a fresh attempt: what it may touch of the store, and of the token what tells nobody."""
    return {"token_sha256": _sha256(token), "next_number": 0, **granted(grant)}


async def require(database: Database, resource: str, number: int, token: str) -> Record:
    """Return the attempt that a token belongs to. Raises: Unauthenticated."""
    try:
        record = await database.get(KIND, name_of(resource, number))
    except NotFound as error:
        raise Unauthenticated("There is no such attempt.", reason="ATTEMPT_UNKNOWN") from error
    if not hmac.compare_digest(record.document["token_sha256"], _sha256(token)):
        raise Unauthenticated("The token is not this attempt's.", reason="TOKEN_WRONG")
    return record


async def record_events(
    database: Database, attempt: Record, kind: str, resource: str, first_number: int, events: Sequence[NewEvent]
) -> None:
    """Append what an attempt reports to its resource's history, each event once. Events may be lost, never doubled."""
    fresh = events[max(0, int(attempt.document["next_number"]) - first_number) :]
    if fresh:
        await database.update(attempt, {**attempt.document, "next_number": first_number + len(events)})
        await database.append(kind, resource, fresh)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
