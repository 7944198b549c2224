"""Makes a version of an upload's records: reads them once, decides the division, and writes each side as an artifact.

The upload is read once. Good rows go, normalised and with their rank, into a temporary file, from which the sides are
written after the division is known. The digest is over the normalised rows in their order, the seed and the fractions:
the same bytes are always the same version, and so are bytes that differ only in what normalising removes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from services.common.errors import InvalidInput, Violation
from services.common.ports.object_store import Artifact, ObjectStore
from services.dataset.dataset import Dataset, DatasetPart, Split
from services.dataset.division import MIN_ROWS_TO_HOLD_OUT, TEST, TRAIN, VALIDATION, Census, Division, fold, rank_of
from services.dataset.records import Fault, Record, read_records
from services.dataset.spool import Spool, stream_of

MIN_ROWS = 10
# Source: what practitioners' guides call the least for classification and for generation.
FEW_ROWS_FOR_LABELS, FEW_ROWS_FOR_TEXT = 50, 100
SHOWN_FAULTS = 50
SHOWN_FIELDS = 20
PARTS_PREFIX = "datasets"
FAULTS_PREFIX = "files"
_DIGEST_VERSION = "afina.dataset.1"  # another way to normalise or to divide needs another number
_RANK_BYTES = 8


@dataclass(frozen=True)
class Refusal:
    """Why an upload makes no version: the first faults, how many there are in how many lines, and the list of all of them."""

    violations: tuple[Violation, ...]
    violation_count: int
    line_count: int
    all_faults: Artifact


def make_version(store: ObjectStore, upload: Artifact, split: Split) -> Dataset | Refusal:
    """Validate, normalise, divide and store the records of an upload. Idempotent.

    Raises: InvalidInput (no row would train), ArtifactNotFound, Unavailable.
    """
    with Spool() as rows, Spool() as faults:
        reading = _Reading(split, rows, faults)
        with store.open(upload.key) as stream:
            for record in read_records(stream):
                reading.take(record)
        reading.close()
        if reading.fault_count:
            listed = store.put(FAULTS_PREFIX, faults.rewound())
            return Refusal(tuple(reading.shown), reading.fault_count, reading.faulty_line_count, listed)
        division = reading.census.divide(split)
        parts = {side: _write_part(store, rows, division, side) for side in (TRAIN, VALIDATION, TEST)}
    if not parts[TRAIN].row_count:
        told = f"Of {reading.census.row_count} rows none would train; raise train_fraction."
        raise InvalidInput(told, reason="SPLIT_INVALID", violations=[Violation("split.train_fraction", "NOTHING_TO_TRAIN", told)])
    return Dataset(
        digest=reading.digest.hexdigest(),
        split=split,
        train=parts[TRAIN],
        validation=parts[VALIDATION],
        test=parts[TEST],
        label_counts=dict(sorted(reading.census.label_counts.items())),
        warnings=tuple(_warnings(reading, division)),
    )


@dataclass
class _Reading:
    """What is known after each line: good rows and faults on disk, the census and the digest in memory."""

    split: Split
    rows: Spool
    faults: Spool
    census: Census = field(default_factory=Census)
    ignored: Counter[str] = field(default_factory=Counter)
    shown: list[Violation] = field(default_factory=list)
    fault_count: int = 0
    faulty_line_count: int = 0
    _last_faulty_line: int = -1

    def __post_init__(self) -> None:
        header = {"version": _DIGEST_VERSION, **self.split.to_document()}
        self.digest = hashlib.sha256(orjson.dumps(header, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))

    def take(self, record: Record | Fault) -> None:
        """Take in one row or one fault; after the first fault rows are only counted."""
        if isinstance(record, Fault):
            self._refuse(record)
            return
        rank = rank_of(record.chat, self.split.seed)
        self.census.add(record.chat, rank)
        if self.fault_count:
            return
        line = record.chat.to_json()
        self.digest.update(line)
        self.rows.write(rank.to_bytes(_RANK_BYTES, "big").hex().encode() + line)
        for name in record.chat.ignored:
            if name in self.ignored or len(self.ignored) < SHOWN_FIELDS:
                self.ignored[name] += 1

    def close(self) -> None:
        """Find what only the whole file shows: that it is empty, or too small."""
        self.census.settle()
        row_count = self.census.row_count
        if not row_count and not self.fault_count:
            self._refuse(Fault(0, "FILE_EMPTY", 'The file has no records; write one {"messages": [...]} a line.'))
        elif row_count < MIN_ROWS and row_count + self.faulty_line_count < MIN_ROWS and self._last_faulty_line != 0:
            found = row_count + self.faulty_line_count
            told = f"There are {found} examples, at least {MIN_ROWS} are needed; add {MIN_ROWS - found} more."
            self._refuse(Fault(0, "TOO_FEW_EXAMPLES", told))

    def _refuse(self, fault: Fault) -> None:
        self.faults.write(fault.to_json())
        self.fault_count += 1
        if fault.line and fault.line != self._last_faulty_line:
            self.faulty_line_count += 1
        self._last_faulty_line = fault.line
        if len(self.shown) < SHOWN_FAULTS:
            self.shown.append(fault.to_violation())


def _write_part(store: ObjectStore, rows: Spool, division: Division, side: str) -> DatasetPart:
    row_count = 0

    def lines() -> Iterator[bytes]:
        nonlocal row_count
        hex_characters = 2 * _RANK_BYTES
        for row in rows.rewound():
            if division.side(int(row[:hex_characters], 16)) == side:
                row_count += 1
                yield row[hex_characters:]

    source = lines()
    first = next(source, None)
    if first is None:
        return DatasetPart(0, None)
    artifact = store.put(PARTS_PREFIX, stream_of(_chained(first, source)))
    return DatasetPart(row_count, artifact)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _warnings(reading: _Reading, division: Division) -> Iterator[Violation]:
    census = reading.census
    row_count = census.row_count
    few = FEW_ROWS_FOR_LABELS if census.has_labels else FEW_ROWS_FOR_TEXT
    if row_count < few:
        kind = "classification" if census.has_labels else "free text"
        yield Violation("file", "FEW_EXAMPLES", f"{row_count} examples are few: for {kind} use at least {few}.")
    held_out = reading.split.validation_fraction + reading.split.test_fraction
    if row_count < MIN_ROWS_TO_HOLD_OUT and held_out:
        told = f"Under {MIN_ROWS_TO_HOLD_OUT} examples nothing is held out: all train, and nothing can say how good the model is."
        yield Violation("split", "NOTHING_HELD_OUT", told)
    if division.repeated_row_count:
        told = "repeat another row but for case, space and punctuation; repeats stay on one side of the split"
        yield Violation("file", "ROWS_REPEATED", f"{division.repeated_row_count} of {row_count} rows {told}.")
    for name, count in sorted(reading.ignored.items()):
        told = f"{count} rows have the field {name[:40]}, which nothing reads; only messages and tools are used."
        yield Violation("file", "FIELD_IGNORED", told)
    spellings = Counter(fold(label) for label in census.label_counts)
    for folded, count in spellings.items():
        if count > 1:
            alike = [repr(label) for label in census.label_counts if fold(label) == folded]
            told = f"{', '.join(alike)} are counted as {count} labels; write one of them everywhere."
            yield Violation("file", "LABELS_ALIKE", told)
    if len(census.label_counts) == 1:
        told = "All answers are the same; a model learns to say nothing else."
        yield Violation("file", "ONE_LABEL", told)
