"""Makes a version of an upload's records: reads them once, decides the division, and writes each side as an artifact.

The upload is read once. Good rows go, normalised, into a temporary file, from which the sides are written after the
division is known; their words go into another, in which near rows are looked for. The digest is over the normalised rows
in their order, the seed and the fractions: the same bytes are always the same version, and so are bytes that differ only
in what normalising removes.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace

import orjson

from services.common.errors import InvalidInput, Violation
from services.common.ports.object_store import Artifact, ObjectStore
from services.dataset import shapes
from services.dataset.containers import MAX_UNPACKED_BYTES, begins_as_json
from services.dataset.dataset import Dataset, DatasetPart, Split
from services.dataset.division import SIDES, TEST, TRAIN, VALIDATION, Census, Division
from services.dataset.faults import Fault
from services.dataset.records import Record, Records
from services.dataset.spool import Spool, stream_of
from services.dataset.warnings import warnings

MIN_ROWS = 10
SHOWN_FAULTS = 50
SHOWN_FIELDS = 20
PARTS_PREFIX = "datasets"
FAULTS_PREFIX = "files"
_DIGEST_VERSION = "afina.dataset.2"  # another way to normalise or to divide needs another number
VALIDATION_FILE = "validation_file"


@dataclass(frozen=True)
class Refusal:
    """Why an upload makes no version: the first faults, how many there are in how many lines, and the list of all of them."""

    violations: tuple[Violation, ...]
    violation_count: int
    line_count: int
    all_faults: Artifact


def format_told_by(store: ObjectStore, upload: Artifact, display_name: str) -> str:
    """Return the shape that a file's name tells; empty where its records are to be looked at, as in a *.txt of JSON."""
    format = shapes.hinted_format(display_name)
    if not format:
        return ""
    with store.open(upload.key) as stream:
        return "" if begins_as_json(stream) else format


def make_version(
    store: ObjectStore,
    upload: Artifact,
    split: Split,
    *,
    format: str = "",
    validation: Artifact | None = None,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
) -> Dataset | Refusal:
    """Validate, normalise, divide and store the records of an upload; rows of a validation file validate. Idempotent.

    Raises: InvalidInput (no row would train), ArtifactNotFound, Unavailable.
    """
    with Spool() as rows, Spool() as faults, Spool() as words:
        reading = Reading(split, rows, faults, Census(words))
        with store.open(upload.key) as stream:
            reading.read(Records(stream, format, max_unpacked_bytes))
        reading.close()
        if validation:
            with store.open(validation.key) as stream:
                reading.read_given(Records(stream, format, max_unpacked_bytes))
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
        warnings=tuple(warnings(reading.census, division, split, reading.ignored, goes_over_lines=reading.goes_over_lines)),
        format=reading.format,
    )


@dataclass
class Reading:
    """What is known after each line: good rows and faults on disk, the census and the digest in memory."""

    split: Split
    rows: Spool
    faults: Spool
    census: Census
    ignored: Counter[str] = field(default_factory=Counter)
    shown: list[Violation] = field(default_factory=list)
    fault_count: int = 0
    faulty_line_count: int = 0
    format: str = ""
    goes_over_lines: bool = False
    _last_faulty_line: int = -1

    def __post_init__(self) -> None:
        header = {"version": _DIGEST_VERSION, **self.split.to_document()}
        self.digest = hashlib.sha256(orjson.dumps(header, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))

    def read(self, records: Records) -> None:
        """Take in the training file."""
        for record in records:
            if isinstance(record, Fault):
                self._refuse(record)
            else:
                self.census.add(record.chat, self.split.seed)
                self._keep(record)
        self.format, self.goes_over_lines = records.format, records.goes_over_lines

    def read_given(self, records: Records) -> None:
        """Take in the validation file, after the training file."""
        self.digest.update(b"validation_file\n")
        self._last_faulty_line = -1
        row_count = 0
        faults_before = self.fault_count
        for record in records:
            if isinstance(record, Fault):
                self._refuse(replace(record, source=VALIDATION_FILE))
            else:
                row_count += 1
                self.census.add_given(record.chat, self.split.seed)
                self._keep(record)
        if not row_count and self.fault_count == faults_before:
            told = f"The file has no records; write {shapes.example_of(records.format)}, one a line."
            self._refuse(Fault(0, "FILE_EMPTY", told, source=VALIDATION_FILE))

    def _keep(self, record: Record) -> None:
        """Write a row down; after the first fault rows are only counted."""
        if self.fault_count:
            return
        line = record.chat.to_json()
        self.digest.update(line)
        self.rows.write(line)
        for name in record.chat.ignored:
            if name in self.ignored or len(self.ignored) < SHOWN_FIELDS:
                self.ignored[name] += 1

    def close(self) -> None:
        """Find what only the whole training file shows: that it is empty, or too small."""
        self.census.settle()
        row_count = self.census.row_count
        if not row_count and not self.fault_count:
            told = f"The file has no records; write {shapes.example_of(self.format)}, one a line."
            self._refuse(Fault(0, "FILE_EMPTY", told))
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
    place = SIDES.index(side)
    row_count = division.sides.count(place)
    if not row_count:
        return DatasetPart(0, None)
    lines = (line for at, line in zip(division.sides, rows.rewound(), strict=True) if at == place)
    return DatasetPart(row_count, store.put(PARTS_PREFIX, stream_of(lines)))
