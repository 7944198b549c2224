"""An Upload: a File that comes in parts, until they are put together.

PENDING → COMPLETED (its File exists) | CANCELLED (given up) | EXPIRED (an hour went by). Only PENDING takes parts. Each
part is a record of its own, so that parts which come at once don't wait for one another; their bytes lie under a prefix
that belongs to the upload, and go when it has ended.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from services.common.errors import InvalidInput, Violation, WrongState
from services.common.names import parse
from services.dataset import file

KIND = "upload"
PART_KIND = "uploadPart"
NAME = "projects/{project}/uploads/{upload}"
PENDING, COMPLETED, CANCELLED, EXPIRED = "PENDING", "COMPLETED", "CANCELLED", "EXPIRED"

# Source: OpenAI's API reference, Uploads: at most 8 GB, 64 MB a part (the SDK sends 64 MiB), an hour.
MAX_UPLOAD_BYTES = 8 << 30
MAX_PART_BYTES = 64 << 20
LIFETIME = timedelta(hours=1)
MAX_PARTS = 10_000
MAX_MIME_TYPE_CHARACTERS = 255
_ENDINGS = {
    COMPLETED: "is completed already; open another one for another file",
    CANCELLED: "was cancelled; open another one",
    EXPIRED: "has expired, an hour after it was opened; open another one",
}


@dataclass(frozen=True)
class Upload:
    """What is to come. `completed_by` is the digest of the parts that made its `file`; `expire_time` is ISO 8601 UTC."""

    display_name: str
    purpose: str
    mime_type: str
    size_bytes: int
    expire_time: str
    state: str = PENDING
    file: str = ""
    completed_by: str = ""

    def as_of(self, now: datetime) -> "Upload":
        """Return it as it stands at a time: what was not completed in time has expired, whoever has noted it."""
        has_expired = self.state == PENDING and now >= datetime.fromisoformat(self.expire_time)
        return replace(self, state=EXPIRED) if has_expired else self

    def check_pending(self, name: str) -> None:
        """Refuse what only a pending upload takes. Raises: WrongState."""
        if self.state != PENDING:
            reason = f"UPLOAD_{self.state}"
            raise WrongState(f"The upload {name.rpartition('/')[2]} {_ENDINGS[self.state]}.", reason=reason)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Upload":
        """Read it back."""
        return cls(**document)


def opened(display_name: str, purpose: str, mime_type: str, size_bytes: int, max_bytes: int, now: datetime) -> Upload:
    """Return a fresh upload. Raises: InvalidInput with every mistake."""
    violations = file.metadata_violations(display_name, purpose)
    largest = min(MAX_UPLOAD_BYTES, max_bytes)
    if not 1 <= size_bytes <= largest:
        told = f"bytes is {size_bytes:,}; a file has 1 to {largest:,} here"
        advice = ". Whoever runs this can raise MAX_FILE_BYTES." if largest < size_bytes <= MAX_UPLOAD_BYTES else "."
        violations.append(Violation("upload.size_bytes", "OUT_OF_BOUNDS", told + advice))
    if len(mime_type) > MAX_MIME_TYPE_CHARACTERS or not mime_type.isprintable():
        told = f"mime_type has {len(mime_type)} characters; write up to {MAX_MIME_TYPE_CHARACTERS} that can be printed."
        violations.append(Violation("upload.mime_type", "MIME_TYPE_INVALID", told))
    if violations:
        told = " ".join(violation.description for violation in violations)
        raise InvalidInput(f"The upload can't be opened: {told}", reason="UPLOAD_INVALID", violations=violations)
    return Upload(display_name, purpose, mime_type, size_bytes, (now.astimezone(UTC) + LIFETIME).isoformat())


def check_parts(part_ids: Sequence[str], md5: str) -> None:
    """Check what an upload is to be completed with. Raises: InvalidInput with every mistake."""
    violations = []
    twice = [part for part, count in Counter(part_ids).items() if count > 1]
    if not 1 <= len(part_ids) <= MAX_PARTS:
        told = f"part_ids names {len(part_ids)} parts; name 1 to {MAX_PARTS:,}, in the order of their bytes."
        violations.append(Violation("part_ids", "OUT_OF_BOUNDS", told))
    if twice:
        violations.append(
            Violation("part_ids", "PART_TWICE", f"part_ids names {', '.join(twice[:5])[:200]} twice; once is right.")
        )
    if md5 and (len(md5) != 32 or set(md5.lower()) - set("0123456789abcdef")):
        violations.append(Violation("md5", "MD5_INVALID", f"md5 is {md5[:40]!r}; write 32 hex digits, or leave it out."))
    if violations:
        told = " ".join(violation.description for violation in violations)
        raise InvalidInput(f"The upload can't be completed: {told}", reason="PARTS_INVALID", violations=violations)


def parts_digest(part_ids: Sequence[str]) -> str:
    """Return what tells one order of parts from another."""
    return hashlib.sha256("\n".join(part_ids).encode()).hexdigest()


def parts_prefix(name: str) -> str:
    """Return where the bytes of an upload's parts lie."""
    named = parse(NAME, name)
    return f"uploads/{named['project']}/{named['upload']}"
