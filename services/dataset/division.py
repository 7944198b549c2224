"""Which rows train, which choose the best checkpoint, and which are held out: a division that lets no answer leak.

Each row gets a rank: a 64-bit hash, keyed with the seed, of what the row says after folding case, space and punctuation.
Equal rows have equal ranks, so a side is chosen for a rank and not for a row, and repeats can't land on two sides. Within
each label (where the answers are labels) the lowest ranks are held out until the label's share is full; a group of
repeats that does not fit whole is passed over and trains. Nothing depends on the order of the file, and a rank is all
that is kept of a row: 8 bytes, about 50 more while the ranks are sorted.

Rows are compared without their system messages. A prefix that all rows share needs no care here: it makes no two rows
equal that differ, nor the reverse.
"""

import hashlib
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby

import orjson

from services.dataset.chats import INSTRUCTION_ROLES, Chat
from services.dataset.dataset import Split

MAX_LABELS = 20
MAX_LABEL_CHARACTERS = 64
# Fewer rows than this per answer look like short answers, not like classes.
MIN_ROWS_PER_LABEL = 2
# Below it a tenth is too few rows to say anything; house rule.
MIN_ROWS_TO_HOLD_OUT = 50

TRAIN, VALIDATION, TEST = "train", "validation", "test"

_LETTERS = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("0"), ord("9") + 1))
_FOLD_ASCII = bytes(range(256)).lower()
_NOT_LETTERS = bytes(byte for byte in range(256) if bytes((byte,)).lower() not in {bytes((b,)) for b in _LETTERS})
_NOT_WORD = re.compile(r"[\W_]+")


def fold(text: str) -> bytes:
    """Return a text without case, space and punctuation; text that is nothing else keeps all but its outer space."""
    if text.isascii():
        folded = text.encode().translate(_FOLD_ASCII, _NOT_LETTERS)
    else:
        folded = _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).casefold()).encode()
    return folded or text.strip().encode()


def rank_of(chat: Chat, seed: int) -> int:
    """Return a chat's place in the seeded order, 0..2^64-1; equal for chats that are equal after folding."""
    digest = hashlib.blake2b(digest_size=8, key=str(seed).encode())
    for message in chat.messages:
        if message["role"] in INSTRUCTION_ROLES:
            continue
        digest.update(message["role"].encode() + b"\0" + fold(message.get("content", "")))
        if "tool_calls" in message:
            digest.update(b"\1" + b"\0".join(_folded_call(call) for call in message["tool_calls"]))
        digest.update(b"\0\0")
    return int.from_bytes(digest.digest(), "big")


def _folded_call(call: dict[str, dict[str, str]]) -> bytes:
    function = call["function"]
    try:
        arguments = orjson.dumps(orjson.loads(function["arguments"]), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # NaN, or deeper than orjson goes: compare as it is written
        arguments = function["arguments"]
    return function["name"].encode() + b"\0" + fold(arguments)


@dataclass(frozen=True)
class Division:
    """A division that has been decided: two sorted arrays of ranks; every other rank trains."""

    validation: "array[int]"
    test: "array[int]"
    repeated_row_count: int

    def side(self, rank: int) -> str:
        """Return the side of a row by its rank."""
        if _holds(self.test, rank):
            return TEST
        return VALIDATION if _holds(self.validation, rank) else TRAIN


@dataclass
class Census:
    """What is counted while rows pass: their ranks by label, and the labels while the answers look like some."""

    label_counts: Counter[str] = field(default_factory=Counter)
    has_labels: bool = True
    _ranks: "dict[bytes, array[int]]" = field(default_factory=dict)

    @property
    def row_count(self) -> int:
        """Rows so far."""
        return sum(len(ranks) for ranks in self._ranks.values())

    def add(self, chat: Chat, rank: int) -> None:
        """Count one row."""
        if self.has_labels:
            label = chat.answer.strip()
            if _may_be_label(label):
                self.label_counts[label] += 1
            if not _may_be_label(label) or len(self.label_counts) > MAX_LABELS:
                self._forget_labels()
        stratum = fold(chat.answer) if self.has_labels else b""
        self._ranks.setdefault(stratum, array("Q")).append(rank)

    def settle(self) -> None:
        """Decide, when all rows have passed, whether the answers are labels."""
        if self.has_labels and self.row_count < MIN_ROWS_PER_LABEL * len(self.label_counts):
            self._forget_labels()

    def divide(self, split: Split) -> Division:
        """Choose the sides. Source of the shares' rounding: largest remainders (Hamilton), so that they add up."""
        self.settle()
        strata = [self._ranks[key] for key in sorted(self._ranks)]
        sizes = [len(ranks) for ranks in strata]
        holds_out = self.row_count >= MIN_ROWS_TO_HOLD_OUT
        tests = _shares(sizes, split.test_fraction if holds_out else 0.0)
        validations = _shares(sizes, split.validation_fraction if holds_out else 0.0)
        test, validation, repeated_row_count = array("Q"), array("Q"), 0
        for ranks, test_count, validation_count in zip(strata, tests, validations, strict=True):
            for rank, group in groupby(sorted(ranks)):
                count = sum(1 for _ in group)
                repeated_row_count += count - 1
                if count <= test_count:
                    test_count -= count
                    test.append(rank)
                elif count <= validation_count:
                    validation_count -= count
                    validation.append(rank)
        return Division(array("Q", sorted(validation)), array("Q", sorted(test)), repeated_row_count)

    def _forget_labels(self) -> None:
        self.has_labels = False
        self.label_counts.clear()
        together = array("Q")
        for ranks in self._ranks.values():
            together.extend(ranks)
        self._ranks = {b"": together} if together else {}


def _may_be_label(text: str) -> bool:
    return 0 < len(text) <= MAX_LABEL_CHARACTERS and text.isprintable()


def _shares(sizes: list[int], fraction: float) -> list[int]:
    """Return how many of each stratum make the fraction of the whole; a remainder goes to the largest fractions first."""
    exact = [size * fraction for size in sizes]
    shares = [int(share + 1e-9) for share in exact]
    missing = round(sum(exact)) - sum(shares)
    for i in sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], i))[: max(missing, 0)]:
        shares[i] += 1
    return shares


def _holds(ranks: "array[int]", rank: int) -> bool:
    i = bisect_left(ranks, rank)
    return i < len(ranks) and ranks[i] == rank
