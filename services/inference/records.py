"""Records: how this program reads and writes its own in the database."""

from collections.abc import Callable, Sequence
from datetime import datetime

from services.common.errors import Conflict
from services.common.ports.database import Database, Document, Record
from services.inference import model
from services.inference.model import Model

PAGE = 1000
MAX_TRIES = 20


async def change(database: Database, kind: str, name: str, edit: Callable[[Document], Document], due: datetime | None) -> Record:
    """Read, edit and write a record, again where somebody else wrote in between. Raises: NotFound, Conflict."""
    for _ in range(MAX_TRIES):
        record = await database.get(kind, name)
        try:
            return await database.update(record, edit(record.document), due_time=due)
        except Conflict:
            continue
    raise Conflict(f"{name} changes too often; repeat.", metadata={"name": name})


async def every(database: Database, kind: str, parent: str = "") -> Sequence[Record]:
    """Return all records of a kind under a parent, oldest first, however many there are."""
    records: list[Record] = []
    after: int | None = None
    while True:
        page = await database.list(kind, parent, after=after, limit=PAGE, newest_first=False)
        records += page
        if len(page) < PAGE:
            return records
        after = page[-1].sequence


async def is_used(database: Database, digest: str) -> bool:
    """Whether any model, or any base, is served by the whole weights of this digest."""
    return any(Model.from_document(record.document).served_digest == digest for record in await every(database, model.KIND))
