"""Which rows train, which choose the best checkpoint, and which are held out: a division that lets no answer leak.

Each row gets a rank: a 64-bit hash, keyed with the seed, of what the row says after folding case, space and punctuation.
Rows of equal rank, and rows that are near one another (`near_rows`), form a group, and a side is chosen for a group and not
for a row. Groups go in the order of their lowest ranks; each is held out while it fits into what its labels' shares still
want (where the answers are labels), and trains where it does not. Nothing depends on the order of the file. 81 bytes are kept of
a row: rank, label, sketch and where its words lie.

Rows are compared without their system messages and without the words that all of them begin with. Rows of a validation
file stay where they are; what is near them is not held out for the test.
"""

import hashlib
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import orjson
from numpy.typing import NDArray

from services.dataset.chats import INSTRUCTION_ROLES, ROLES, Chat
from services.dataset.dataset import Split
from services.dataset.near_rows import Words, groups
from services.dataset.spool import Spool

MAX_LABELS = 20
MAX_LABEL_CHARACTERS = 64
# Fewer rows than this per answer look like short answers, not like classes.
MIN_ROWS_PER_LABEL = 2
# Below it a tenth is too few rows to say anything; house rule.
MIN_ROWS_TO_HOLD_OUT = 50

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SIDES = (TRAIN, VALIDATION, TEST)
# The stratum of rows that a validation file gave.
_GIVEN = 255

_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
_TO_WORDS = bytes(byte if byte in _LETTERS else 32 for byte in bytes(range(256)).lower())
_MARKS = {role: role.encode() + b"\0" for role in ROLES}
_NOT_WORD = re.compile(r"[\W_]+")


def fold(text: str) -> bytes:
    """Return a text without case, space and punctuation; text that is nothing else keeps all but its outer space."""
    return _words(text).replace(b" ", b"") or text.strip().encode()


def rank_of(chat: Chat, seed: int) -> int:
    """Return a chat's place in the seeded order, 0..2^64-1; equal for chats that are equal after folding."""
    return rank_and_words_of(chat, seed)[0]


def rank_and_words_of(chat: Chat, seed: int) -> tuple[int, bytes]:
    """Return a chat's rank, and its words with spaces between them, without the system message."""
    said: list[bytes] = []
    spoken: list[bytes] = []
    for message in chat.messages:
        role = message["role"]
        if role in INSTRUCTION_ROLES:
            continue
        content = message.get("content", "")
        words = _words(content)
        spoken.append(words)
        said += (_MARKS[role], words.replace(b" ", b"") or content.strip().encode())
        if "tool_calls" in message:
            calls = message["tool_calls"]
            said.append(b"\1" + b"\0".join(_folded_call(call) for call in calls))
            spoken += [_words(f"{call['function']['name']} {call['function']['arguments']}") for call in calls]
        said.append(b"\0\0")
    digest = _keyed(seed).copy()
    digest.update(b"".join(said))
    return int.from_bytes(digest.digest(), "big"), b" ".join(spoken)


@lru_cache(maxsize=16)
def _keyed(seed: int) -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=8, key=str(seed).encode())


def _words(text: str) -> bytes:
    if text.isascii():
        return text.encode().translate(_TO_WORDS)
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).encode()


def _folded_call(call: dict[str, dict[str, str]]) -> bytes:
    function = call["function"]
    try:
        arguments = orjson.dumps(orjson.loads(function["arguments"]), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # NaN, or deeper than orjson goes: compare as it is written
        arguments = function["arguments"]
    return function["name"].encode() + b"\0" + fold(arguments)


@dataclass(frozen=True)
class Division:
    """A division that has been decided. `sides` has one byte a row, in the order of the file: a place in SIDES."""

    sides: bytes
    repeated_row_count: int
    near_row_count: int
    given_row_count: int

    def side(self, row: int) -> str:
        """Return the side of a row."""
        return SIDES[self.sides[row]]


@dataclass
class Census:
    """What is counted while rows pass: their ranks, labels and words, and the labels while the answers look like some."""

    spool: Spool
    label_counts: Counter[str] = field(default_factory=Counter)
    has_labels: bool = True
    row_count: int = 0
    complex_row_count: int = 0
    _ranks: "array[int]" = field(default_factory=lambda: array("Q"))
    _strata: "array[int]" = field(default_factory=lambda: array("B"))
    _stratum_of: dict[bytes, int] = field(default_factory=dict)
    _stratum_of_label: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._words = Words(self.spool)

    def add(self, chat: Chat, seed: int) -> None:
        """Count one row."""
        self._keep(chat, seed)
        self.row_count += 1
        self.complex_row_count += bool(chat.tools) or (len(chat.messages) > 3 and _has_turns(chat))
        if not self.has_labels:
            self._strata.append(0)
            return
        label = chat.answer.strip()
        stratum = self._stratum_of_label.get(label)
        if stratum is None:
            if not _may_be_label(label) or len(self.label_counts) == MAX_LABELS:
                self._forget_labels()
                self._strata.append(0)
                return
            stratum = self._stratum_of.setdefault(fold(label), len(self._stratum_of))
            self._stratum_of_label[label] = stratum
        self.label_counts[label] += 1
        self._strata.append(stratum)

    def add_given(self, chat: Chat, seed: int) -> None:
        """Count one row of a validation file. They come after all others."""
        self._keep(chat, seed)
        self._strata.append(_GIVEN)

    def settle(self) -> None:
        """Decide, when all rows have passed, whether the answers are labels."""
        if self.has_labels and self.row_count < MIN_ROWS_PER_LABEL * len(self.label_counts):
            self._forget_labels()

    def divide(self, split: Split) -> Division:
        """Choose the sides. Source of the shares' rounding: largest remainders (Hamilton), so that they add up."""
        self.settle()
        ranks, strata = np.array(self._ranks, np.uint64), np.array(self._strata, np.uint8)
        group = groups(self._words, ranks)
        names = sorted(self._stratum_of) or [b""]
        sizes = [int(np.count_nonzero(strata == self._stratum_of.get(name, 0))) for name in names]
        holds_out = self.row_count >= MIN_ROWS_TO_HOLD_OUT
        left = []
        for fraction in (split.test_fraction, split.validation_fraction):
            shares = _shares(sizes, fraction if holds_out else 0.0)
            left.append({self._stratum_of.get(name, 0): share for name, share in zip(names, shares, strict=True)})
        sides = np.where(strata == _GIVEN, SIDES.index(VALIDATION), SIDES.index(TRAIN)).astype(np.uint8)
        for rows in _in_order(group, ranks, strata):
            if not any(map(any, (wanted.values() for wanted in left))):
                break
            counts = Counter(strata[rows].tolist())
            for side, wanted in zip((TEST, VALIDATION), left, strict=True):
                if all(count <= wanted.get(stratum, 0) for stratum, count in counts.items()):
                    sides[rows] = SIDES.index(side)
                    for stratum, count in counts.items():
                        wanted[stratum] -= count
                    break
        return self._division(sides, ranks, group, strata == _GIVEN)

    def _division(
        self, sides: NDArray[np.uint8], ranks: NDArray[np.uint64], group: NDArray[np.int64], is_given: NDArray[np.bool_]
    ) -> Division:
        own_ranks, own_groups = ranks[~is_given], group[~is_given]
        firsts = np.unique(own_ranks, return_index=True)[1]
        _, sizes = np.unique(own_groups[firsts], return_counts=True)
        leaked = np.isin(own_groups, group[is_given])
        return Division(
            sides=sides.tobytes(),
            repeated_row_count=len(own_ranks) - len(firsts),
            near_row_count=int(sizes[sizes > 1].sum()),
            given_row_count=int(np.count_nonzero(leaked)),
        )

    def _keep(self, chat: Chat, seed: int) -> None:
        rank, words = rank_and_words_of(chat, seed)
        self._ranks.append(rank)
        self._words.add(words)

    def _forget_labels(self) -> None:
        self.has_labels = False
        self.label_counts.clear()
        self._stratum_of.clear()
        self._strata = array("B", bytes(len(self._strata)))


def _in_order(group: NDArray[np.int64], ranks: NDArray[np.uint64], strata: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each group, the group with the lowest rank first; none that has a row of a validation file."""
    numbers, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
    lowest = np.full(len(numbers), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(lowest, inverse, ranks)
    has_given = np.zeros(len(numbers), np.bool_)
    has_given[inverse[strata == _GIVEN]] = True
    by_group = np.argsort(inverse, kind="stable")
    ends = np.cumsum(sizes)
    for number in np.argsort(lowest, kind="stable").tolist():
        if not has_given[number]:
            yield by_group[ends[number] - sizes[number] : ends[number]]


def _has_turns(chat: Chat) -> bool:
    return [message["role"] for message in chat.messages].count("assistant") > 1


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
