"""Which test rows of a dataset are, or nearly are, among the rows that train or validate in others.

The rule is the division's own (`division`, `near_rows`): what may not stand on two sides of one split may not stand in one
dataset's training and another's test. So a row counts that is equal after folding, or near, also by way of others. Words with
which all rows of a dataset begin are taken off each dataset by itself: the same reviews under two different instructions are
the same reviews. Rows pass one by one; 81 bytes of each are kept, and the words lie on disk.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from services.common.ports.object_store import ObjectStore
from services.dataset.chats import Chat, read_chat
from services.dataset.dataset import Dataset, DatasetPart
from services.dataset.division import SIDES, TEST, TRAIN, VALIDATION, rank_and_words_of
from services.dataset.near_rows import Words, groups
from services.dataset.spool import Spool

KIND = "comparison"
VERSION = 1  # another way to compare needs another number
SHOWN_ROWS = 50
MAX_OTHERS = 16


@dataclass(frozen=True)
class Comparison:
    """What was found: `rows` are the numbers, from 1, of the first test rows that were."""

    row_count: int
    overlap_count: int
    rows: tuple[int, ...]

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"row_count": self.row_count, "overlap_count": self.overlap_count, "rows": list(self.rows)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Comparison":
        """Read it back."""
        return cls(document["row_count"], document["overlap_count"], tuple(document["rows"]))


def compare(store: ObjectStore, dataset: Dataset, others: Sequence[Dataset]) -> Comparison:
    """Look for a dataset's test rows among the other rows of others. Raises: ArtifactNotFound, Unavailable."""
    with Spool() as spool:
        words, ranks = Words(spool), array("Q")
        _add(words, ranks, store, dataset, (TEST,))
        test_count = len(ranks)
        for other in others:
            _add(words, ranks, store, other, (TRAIN, VALIDATION))
        group = groups(words, np.array(ranks, np.uint64))
    found = np.flatnonzero(np.isin(group[:test_count], group[test_count:])) + 1
    return Comparison(test_count, len(found), tuple(found[:SHOWN_ROWS].tolist()))


def _add(words: Words, ranks: "array[int]", store: ObjectStore, dataset: Dataset, sides: Sequence[str]) -> None:
    """Add the rows of some sides; all rows are read, for what they have in common at their beginning."""
    with Spool() as spool:
        own, is_wanted = Words(spool), bytearray()
        for side in SIDES:
            for chat in _chats(store, getattr(dataset, side)):
                rank, said = rank_and_words_of(chat, 0)
                own.add(said)
                is_wanted.append(side in sides)
                if side in sides:
                    ranks.append(rank)
        for said, wanted in zip(_lines(own), is_wanted, strict=True):
            if wanted:
                words.add(said)


def _lines(words: Words) -> Iterator[bytes]:
    for block in words.blocks():
        yield from block[:-1].split(b"\n")


def _chats(store: ObjectStore, part: DatasetPart) -> Iterator[Chat]:
    if part.artifact is None:
        return
    with store.open(part.artifact.key) as stream:
        for line in stream:
            chat = read_chat(orjson.loads(line))
            assert isinstance(chat, Chat), "rows of a dataset have been validated"
            yield chat
