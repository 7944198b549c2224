"""What can be asked of dataset: one short function a verb."""

import asyncio
import contextlib
import contextvars
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, OverLimit, Violation
from services.common.names import new_id, parse
from services.common.ports.database import Database, Record
from services.common.ports.object_store import CHUNK_BYTES, ObjectStore, sha256_of
from services.dataset import comparison, dataset, file
from services.dataset.comparison import MAX_OTHERS
from services.dataset.dataset import Dataset, Split
from services.dataset.file import ANYTHING, Expected, File
from services.dataset.shapes import FORMATS
from services.dataset.spool import Spool
from services.dataset.version import Refusal, format_told_by, make_version

DEFAULT_MAX_FILE_BYTES = 1 << 30
UPLOADS_PREFIX = "files"
Key = TypeVar("Key")
VALIDATIONS_AT_ONCE = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Library:
    """What dataset's use cases work with.

    `finalizing` and `comparing` hold what runs now: a second call for the same joins the first.
    Validation takes minutes of computing, so it has threads of its own: uploads and downloads do not wait behind it.
    """

    database: Database
    store: ObjectStore
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES
    finalizing: "dict[Asked, asyncio.Task[Record]]" = field(default_factory=dict)
    comparing: "dict[str, asyncio.Task[Record]]" = field(default_factory=dict)
    validators: Executor = field(default_factory=lambda: ThreadPoolExecutor(VALIDATIONS_AT_ONCE, "validate"))


@dataclass(frozen=True)
class Asked:
    """What FinalizeFile is asked: which file, how to divide it, and its format and validation file where they are named."""

    name: str
    split: Split
    format: str = ""
    validation_file: str = ""

    def check(self) -> None:
        """Refuse what can't be done. Raises: InvalidInput with every mistake."""
        self.split.check()
        if self.format and self.format not in FORMATS:
            told = f"{self.format[:40]!r} is no format; write one of {', '.join(FORMATS)}, or leave it out."
            unknown = Violation("format", "FORMAT_UNKNOWN", told)
            raise InvalidInput(told, reason="FORMAT_UNKNOWN", violations=[unknown])
        if self.validation_file and self.split.validation_fraction:
            told = "validation_file gives the rows that validate; make validation_fraction 0, or leave the file out."
            violation = Violation("split.validation_fraction", "VALIDATION_GIVEN_TWICE", told)
            raise InvalidInput(told, reason="SPLIT_INVALID", violations=[violation])
        if self.validation_file and parse(file.NAME, self.validation_file)["project"] != parse(file.NAME, self.name)["project"]:
            raise NotFound(f"{self.validation_file} is not in this project.", metadata={"name": self.validation_file})
        if self.validation_file == self.name:
            told = "The training file can't validate itself; name another file, or leave it out to hold out a share."
            violation = Violation("validation_file", "VALIDATION_IS_TRAINING", told)
            raise InvalidInput(told, reason="VALIDATION_IS_TRAINING", violations=[violation])


async def create_file(
    library: Library,
    parent: str,
    display_name: str,
    purpose: str,
    chunks: AsyncIterator[bytes],
    request_id: str = "",
    expected: Expected = ANYTHING,
) -> Record:
    """Keep an upload, in constant memory; with a request_id that was used before, return what that made.

    Raises: InvalidInput (every mistake at once), OverLimit, Unavailable.
    """
    parse("projects/{project}", parent)
    if violations := [*file.metadata_violations(display_name, purpose), *file.expectation_violations(expected)]:
        told = " ".join(violation.description for violation in violations)
        raise InvalidInput(f"The file can't be kept: {told}", reason="FILE_INVALID", violations=violations)
    with Spool() as spool:
        async for chunk in chunks:
            if spool.size_bytes + len(chunk) > library.max_file_bytes:
                raise OverLimit(
                    f"{display_name} is larger than {library.max_file_bytes:,} bytes; send fewer rows, or raise MAX_FILE_BYTES.",
                    reason="FILE_TOO_LARGE",
                    metadata={"max_file_bytes": str(library.max_file_bytes)},
                )
            await asyncio.to_thread(spool.write, chunk)
        if not spool.size_bytes:
            nothing = Violation("chunk", "FILE_EMPTY", "No bytes came; send the file's content.")
            raise InvalidInput(f"{display_name} is empty; send its content.", reason="FILE_EMPTY", violations=[nothing])
        if violations := expected.violations(spool.size_bytes, await asyncio.to_thread(sha256_of, spool.rewound())):
            told = " ".join(violation.description for violation in violations)
            raise InvalidInput(f"{display_name} is not what was sent: {told}", reason="UPLOAD_DAMAGED", violations=violations)
        artifact = await asyncio.to_thread(library.store.put, UPLOADS_PREFIX, spool.rewound())
    upload = File(display_name, purpose, artifact)
    once = f"{parent}:{request_id}" if request_id else ""  # two projects may choose the same
    return await library.database.create(file.KIND, f"{parent}/files/{new_id('file')}", upload.to_document(), request_id=once)


async def get_file(library: Library, name: str) -> Record:
    """Return a file. Raises: NotFound."""
    parse(file.NAME, name)
    return await library.database.get(file.KIND, name)


async def list_files(library: Library, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return files of a project, newest first."""
    parse("projects/{project}", parent)
    return await library.database.list(file.KIND, parent, after=after, limit=limit)


async def delete_file(library: Library, name: str) -> None:
    """Forget an upload; Datasets made from it stay. Raises: NotFound."""
    for _ in range(10):  # finalising may write between our read and our write
        record = await get_file(library, name)
        try:
            return await library.database.delete(record)
        except Conflict:
            continue
    raise Conflict(f"{name} changes too often to be deleted; repeat.", metadata={"name": name})


async def read_file(library: Library, name: str) -> AsyncIterator[bytes]:
    """Yield an upload's bytes, unchanged. Raises: NotFound."""
    upload = File.from_document((await get_file(library, name)).document)
    stream = await asyncio.to_thread(library.store.open, upload.artifact.key)
    try:
        while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
            yield chunk
    finally:
        stream.close()


async def finalize_file(library: Library, asked: Asked) -> Record:
    """Validate a file and make, or find, the Dataset of its records. Idempotent.

    The work goes on when a caller stops waiting, so that one with a short deadline finds it done when it asks again.
    Raises: NotFound; InvalidInput with the first violations, their full count, and the File that lists all of them.
    """
    asked.check()
    upload = await _training_file(library, asked.name)
    validation = await _training_file(library, asked.validation_file) if asked.validation_file else None
    if upload.dataset and (upload.asked_format, upload.asked_validation_file) == (asked.format, asked.validation_file):
        made = await library.database.get(dataset.KIND, upload.dataset)
        if Dataset.from_document(made.document).split == asked.split:
            return made
    task = library.finalizing.get(asked)
    if task is None:
        task = asyncio.create_task(_finalize(library, asked, upload, validation))
        library.finalizing[asked] = task
        task.add_done_callback(lambda done: _forget(library.finalizing, asked, done))
    return await asyncio.shield(task)


async def get_dataset(library: Library, name: str) -> Record:
    """Return a dataset. Raises: NotFound."""
    parse(dataset.NAME, name)
    return await library.database.get(dataset.KIND, name)


async def list_datasets(library: Library, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return datasets of a project, newest first."""
    parse("projects/{project}", parent)
    return await library.database.list(dataset.KIND, parent, after=after, limit=limit)


async def compare_datasets(library: Library, name: str, others: Sequence[str]) -> Record:
    """Count a dataset's test rows that train or validate in others, or find the count. Idempotent.

    The work goes on when a caller stops waiting, as in `finalize_file`. Raises: InvalidInput, NotFound, Unavailable.
    """
    if not 1 <= len(others) <= MAX_OTHERS:
        told = f"{len(others)} others were given; name 1 to {MAX_OTHERS} datasets."
        raise InvalidInput(told, reason="OTHERS_INVALID", violations=[Violation("others", "OUT_OF_RANGE", told)])
    project = parse(dataset.NAME, name)["project"]
    if foreign := [other for other in others if parse(dataset.NAME, other)["project"] != project]:
        raise NotFound(f"There is no {foreign[0]} in this project.", metadata={"name": foreign[0]})
    asked, *known = [Dataset.from_document((await get_dataset(library, one)).document) for one in (name, *others)]
    among = hashlib.sha256(" ".join([str(comparison.VERSION), *sorted({one.digest for one in known})]).encode())
    same = f"{name}/comparisons/{among.hexdigest()[: dataset.DIGEST_CHARACTERS_IN_NAME]}"
    with contextlib.suppress(NotFound):
        return await library.database.get(comparison.KIND, same)
    task = library.comparing.get(same)
    if task is None:
        task = asyncio.create_task(_compare(library, same, asked, known))
        library.comparing[same] = task
        task.add_done_callback(lambda done: _forget(library.comparing, same, done))
    return await asyncio.shield(task)


async def _compare(library: Library, name: str, asked: Dataset, others: Sequence[Dataset]) -> Record:
    found = await _run_in(library.validators, functools.partial(comparison.compare, library.store, asked, others))
    try:
        return await library.database.create(comparison.KIND, name, found.to_document())
    except AlreadyExists:
        return await library.database.get(comparison.KIND, name)


async def _training_file(library: Library, name: str) -> File:
    upload = File.from_document((await get_file(library, name)).document)
    if upload.purpose != file.FINE_TUNE:
        told = f"{name} was uploaded for {upload.purpose}; only files for {file.FINE_TUNE} make a Dataset."
        raise InvalidInput(told, reason="PURPOSE_UNSUPPORTED", metadata={"purpose": upload.purpose})
    return upload


async def _finalize(library: Library, asked: Asked, upload: File, validation: File | None) -> Record:
    def validated() -> Dataset | Refusal:
        return make_version(
            library.store,
            upload.artifact,
            asked.split,
            format=asked.format or format_told_by(library.store, upload.artifact, upload.display_name),
            validation=validation.artifact if validation else None,
            max_unpacked_bytes=library.max_file_bytes,
        )

    version = await _run_in(library.validators, validated)
    if isinstance(version, Refusal):
        raise await _refused(library, asked.name, upload, version)
    project = parse(file.NAME, asked.name)["project"]
    dataset_name = version.name_in(project)
    try:
        made = await library.database.create(dataset.KIND, dataset_name, version.to_document())
    except AlreadyExists:
        made = await library.database.get(dataset.KIND, dataset_name)
    await _note_dataset(library, asked, dataset_name)
    return made


async def _run_in(executor: Executor, work: Callable[[], T]) -> T:
    """Do work in a thread of an executor, in this call's context, as `asyncio.to_thread` does it in the common one."""
    return await asyncio.get_running_loop().run_in_executor(executor, contextvars.copy_context().run, work)


async def _note_dataset(library: Library, asked: Asked, dataset_name: str) -> None:
    for _ in range(10):  # another split may be noted between our read and our write
        record = await get_file(library, asked.name)
        noted = replace(
            File.from_document(record.document),
            dataset=dataset_name,
            asked_format=asked.format,
            asked_validation_file=asked.validation_file,
        )
        try:
            await library.database.update(record, noted.to_document())
            return
        except Conflict:
            continue
    raise Conflict(f"{asked.name} changes too often to be finalised; repeat.", metadata={"name": asked.name})


async def _refused(library: Library, name: str, upload: File, refusal: Refusal) -> InvalidInput:
    """Make the list of all faults a File, always the same one for the same faults, and return the error that names it."""
    project = parse(file.NAME, name)["project"]
    same = hashlib.sha256(f"{name}\0{refusal.all_faults.sha256}".encode()).hexdigest()
    list_name = f"projects/{project}/files/file-{same[:24]}"
    listed = File(f"mistakes-in-{upload.display_name}"[: file.MAX_DISPLAY_NAME_CHARACTERS], file.RESULTS, refusal.all_faults)
    with contextlib.suppress(AlreadyExists):
        await library.database.create(file.KIND, list_name, listed.to_document())
    first = refusal.violations[0]
    mistakes = f"{refusal.violation_count} mistakes" if refusal.violation_count > 1 else "a mistake"
    lines = f" in {refusal.line_count} lines" if refusal.line_count > 1 else ""
    return InvalidInput(
        f"{upload.display_name} has {mistakes}{lines}; mend and upload it again. First, {first.field}: {first.description}",
        reason="RECORDS_INVALID",
        metadata={"file": name, "line_count": str(refusal.line_count), "mistakes_file": list_name},
        violations=refusal.violations,
        violation_count=refusal.violation_count,
    )


def _forget(running: "dict[Key, asyncio.Task[Record]]", key: Key, task: "asyncio.Task[Record]") -> None:
    running.pop(key, None)
    if not task.cancelled():
        task.exception()  # somebody may have stopped waiting for it; then nobody else asks
