"""What can be asked of dataset about uploads: one short function a verb, and the loop's step that clears up after them."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from services.common.errors import ArtifactNotFound, Conflict, InvalidInput, NotFound, OverLimit, Violation, WrongState
from services.common.names import new_id, parse
from services.common.ports.database import Record
from services.common.ports.object_store import CHUNK_BYTES, Artifact, ObjectStore
from services.common.reconcile import Change
from services.dataset import file, upload
from services.dataset.file import File
from services.dataset.spool import Spool, stream_of
from services.dataset.upload import Upload
from services.dataset.use_cases import UPLOADS_PREFIX, Library, delete_file

# A completion that began in time may still read the parts of an upload that expires under its hands.
CLEARING_DELAY = timedelta(minutes=15)


@dataclass(frozen=True)
class Uploads:
    """What the use cases of uploads work with."""

    library: Library
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


async def create_upload(
    uploads: Uploads, parent: str, display_name: str, purpose: str, mime_type: str, size_bytes: int
) -> Record:
    """Open an upload. Raises: InvalidInput (every mistake at once)."""
    parse("projects/{project}", parent)
    now = uploads.clock()
    fresh = upload.opened(display_name, purpose, mime_type, size_bytes, uploads.library.max_file_bytes, now)
    due_time = now + upload.LIFETIME + CLEARING_DELAY
    name = f"{parent}/uploads/{new_id('upload')}"
    return await uploads.library.database.create(upload.KIND, name, fresh.to_document(), due_time=due_time)


async def get_upload(uploads: Uploads, name: str) -> Record:
    """Return an upload, as it stands now. Raises: NotFound."""
    parse(upload.NAME, name)
    record = await uploads.library.database.get(upload.KIND, name)
    return replace(record, document=Upload.from_document(record.document).as_of(uploads.clock()).to_document())


async def add_part(uploads: Uploads, name: str, chunks: AsyncIterator[bytes]) -> Record:
    """Keep a part, in constant memory. Raises: NotFound, WrongState (no longer pending), InvalidInput, OverLimit."""
    library = uploads.library
    await _pending(uploads, name)
    with Spool() as spool:
        async for chunk in chunks:
            if spool.size_bytes + len(chunk) > upload.MAX_PART_BYTES:
                told = f"A part has at most {upload.MAX_PART_BYTES:,} bytes; send the rest as another one."
                raise OverLimit(told, reason="FILE_TOO_LARGE", metadata={"max_part_bytes": str(upload.MAX_PART_BYTES)})
            await asyncio.to_thread(spool.write, chunk)
        if not spool.size_bytes:
            nothing = Violation("chunk", "PART_EMPTY", "No bytes came; send the part's content.")
            raise InvalidInput("The part is empty; send its content.", reason="PART_EMPTY", violations=[nothing])
        artifact = await asyncio.to_thread(library.store.put, upload.parts_prefix(name), spool.rewound())
    part = await library.database.create(upload.PART_KIND, f"{name}/parts/{new_id('part')}", vars(artifact))
    try:
        await _pending(uploads, name)  # it may have ended while the bytes came, and been cleared up before they were there
    except WrongState:
        await _clear_again(uploads, name)
        raise
    return part


async def complete_upload(uploads: Uploads, name: str, part_ids: Sequence[str], md5: str = "") -> Record:
    """Put parts together as a File. Idempotent for the same parts.

    Raises: NotFound; WrongState (no longer pending); InvalidInput (every mistake at once; the upload stays pending).
    """
    upload.check_parts(part_ids, md5)
    completed_by = upload.parts_digest(part_ids)
    record = await get_upload(uploads, name)
    asked = Upload.from_document(record.document)
    if asked.completed_by == completed_by:
        return record
    asked.check_pending(name)
    parts = await _parts(uploads, name, asked, part_ids)
    library = uploads.library
    try:
        artifact = await asyncio.to_thread(library.store.put, UPLOADS_PREFIX, stream_of(_bytes(library.store, parts, md5)))
    except ArtifactNotFound:  # cancelled meanwhile, or completed by somebody else, and its parts are gone
        now = await get_upload(uploads, name)
        if Upload.from_document(now.document).completed_by == completed_by:
            return now
        await _pending(uploads, name)
        raise
    project = parse(upload.NAME, name)["project"]
    made = await library.database.create(
        file.KIND,
        f"projects/{project}/files/{new_id('file')}",
        File(asked.display_name, asked.purpose, artifact).to_document(),
        request_id=f"{name}:{artifact.sha256}",  # a completion that is repeated after a crash finds the File that it made
    )
    try:
        return await _end(uploads, name, upload.COMPLETED, made.name, completed_by)
    except WrongState:
        # Other parts with the same bytes make the same File; it goes only where the upload did not end with it.
        if Upload.from_document((await get_upload(uploads, name)).document).file != made.name:
            await delete_file(library, made.name)
        raise


async def cancel_upload(uploads: Uploads, name: str) -> Record:
    """Give an upload up. Raises: NotFound, WrongState (it has ended)."""
    await _pending(uploads, name)
    return await _end(uploads, name, upload.CANCELLED)


async def reconcile_upload(uploads: Uploads, record: Record) -> Change:
    """Delete the parts of an upload that has ended, and note that one has expired. Safe to repeat from any point."""
    ended = Upload.from_document(record.document).as_of(uploads.clock())
    if ended.state == upload.PENDING:
        left = datetime.fromisoformat(ended.expire_time) + CLEARING_DELAY - uploads.clock()
        return Change(record.document, left.total_seconds())
    library, prefix = uploads.library, upload.parts_prefix(record.name)
    for key in await asyncio.to_thread(lambda: list(library.store.list(prefix + "/"))):
        await asyncio.to_thread(library.store.delete, key)
    while parts := await library.database.list(upload.PART_KIND, f"{record.name}/parts"):
        for part in parts:
            await library.database.delete(part)
    return Change(ended.to_document(), None)


async def _clear_again(uploads: Uploads, name: str) -> None:
    """Have an upload that has ended cleared up once more, later: a completion may be reading a part with the same bytes."""
    for _ in range(10):
        record = await uploads.library.database.get(upload.KIND, name)
        with contextlib.suppress(Conflict):
            await uploads.library.database.update(record, record.document, due_time=uploads.clock() + CLEARING_DELAY)
            return


async def _pending(uploads: Uploads, name: str) -> None:
    record = await get_upload(uploads, name)
    Upload.from_document(record.document).check_pending(name)


async def _end(uploads: Uploads, name: str, state: str, made: str = "", completed_by: str = "") -> Record:
    """Note that an upload has ended, unless somebody else was faster. Raises: WrongState."""
    for _ in range(10):
        record = await uploads.library.database.get(upload.KIND, name)
        asked = Upload.from_document(record.document)
        if completed_by and asked.completed_by == completed_by:
            return record
        asked.check_pending(name)
        ended = replace(asked, state=state, file=made, completed_by=completed_by)
        with contextlib.suppress(Conflict):
            return await uploads.library.database.update(record, ended.to_document(), due_time=uploads.clock())
    raise Conflict(f"{name} changes too often; repeat.", metadata={"name": name})


async def _parts(uploads: Uploads, name: str, asked: Upload, part_ids: Sequence[str]) -> list[Artifact]:
    """Return the parts in order. Raises: InvalidInput (some are unknown, or they are not as long as was said)."""
    found, unknown = [], []
    for part in part_ids:
        try:
            parse(upload.NAME + "/parts/{part}", f"{name}/parts/{part}")
            found.append(Artifact(**(await uploads.library.database.get(upload.PART_KIND, f"{name}/parts/{part}")).document))
        except (NotFound, InvalidInput):
            unknown.append(part[:60])
    size_bytes = sum(part.size_bytes for part in found)
    told = ""
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        told = f"The upload has no part {', '.join(unknown[:5])}{more}; send what is missing, or name the parts that it gave."
    elif size_bytes != asked.size_bytes:
        told = f"The parts have {size_bytes:,} bytes, but the upload was opened for {asked.size_bytes:,}; name all parts, once."
    if told:
        raise InvalidInput(told, reason="PARTS_INVALID", violations=[Violation("part_ids", "PARTS_INVALID", told)])
    return found


def _bytes(store: ObjectStore, parts: Sequence[Artifact], md5: str) -> Iterator[bytes]:
    """Yield the bytes of parts, one after another. Raises: InvalidInput at their end (they are not the file that was meant)."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        with store.open(part.key) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
    if md5 and digest.hexdigest() != md5.lower():
        told = f"The parts have the MD5 {digest.hexdigest()}, not {md5}; check their order, or send the damaged one again."
        raise InvalidInput(told, reason="MD5_MISMATCH", violations=[Violation("md5", "MD5_MISMATCH", told)])
