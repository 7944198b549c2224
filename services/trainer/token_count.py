"""TokenCount: the tokens of a dataset as one base reads it. Its fields, its moves, and what can be said about lengths.

It belongs to the rows, the base, its chat template and the code that renders, and is named by the digest of the four: the
same question has one answer, which is looked up from the second time on.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any

from services.common.names import last

KIND = "tokenCount"
BUCKETS = 12
MAX_CRASHES = 3

Lengths = Sequence[Sequence[int]]  # pairs of a length in tokens and the rows that have it, by length


@dataclass(frozen=True)
class PartCount:
    """What the rows of one part come to."""

    trained_token_count: int
    lengths: Lengths

    @property
    def row_count(self) -> int:
        """Rows."""
        return sum(rows for _, rows in self.lengths)

    @property
    def token_count(self) -> int:
        """Tokens of all rows: those of one epoch."""
        return sum(length * rows for length, rows in self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.lengths[-1][0]

    def quantile(self, share: float) -> int:
        """Return the least length that this share of the rows does not exceed (nearest rank)."""
        counted = accumulate(rows for _, rows in self.lengths)
        enough = share * self.row_count - 1e-9
        return next(length for (length, _), rows in zip(self.lengths, counted, strict=True) if rows >= enough)

    def cut(self, max_length: int) -> tuple[int, int]:
        """Return the rows that are longer than a maximum, and their tokens beyond it."""
        longer = [(length, rows) for length, rows in self.lengths if length > max_length]
        return sum(rows for _, rows in longer), sum((length - max_length) * rows for length, rows in longer)

    def histogram(self) -> list[tuple[int, int]]:
        """Return buckets of equal width, each with its longest length and its rows; the first begins at 1 token."""
        width = -(-self.longest // BUCKETS)
        buckets = [0] * -(-self.longest // width)
        for length, rows in self.lengths:
            buckets[(length - 1) // width] += rows
        first = next(i for i, rows in enumerate(buckets) if rows)
        return [((i + 1) * width, rows) for i, rows in enumerate(buckets) if i >= first]


@dataclass(frozen=True)
class TokenCount:
    """A count as it is stored. Times are ISO 8601 UTC, empty while they have not come."""

    name: str
    dataset: str
    base_model: str
    dataset_spec: Mapping[str, Any]
    base: Mapping[str, Any]
    state: str = "PENDING"
    attempt: int = 0
    crash_count: int = 0
    parts: Mapping[str, Any] = field(default_factory=dict)  # of those that have rows: trained_token_count, lengths
    error: Mapping[str, Any] = field(default_factory=dict)
    end_time: str = ""
    trace_id: str = ""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return last(self.name)

    @property
    def has_ended(self) -> bool:
        """Whether the numbers are there, or never will be."""
        return self.state in ("SUCCEEDED", "FAILED")

    @property
    def result_key(self) -> str:
        """Where its result is committed; whoever counts, the numbers are the same, so the first is as good as any."""
        return f"token-counts/{self.id}/result.json"

    @property
    def counts(self) -> dict[str, PartCount]:
        """What each part with rows comes to."""
        return {part: PartCount(told["trained_token_count"], told["lengths"]) for part, told in self.parts.items()}

    def cut(self, max_length: int) -> tuple[int, int]:
        """Return what a maximum length would cut of all parts: rows that are longer, and their tokens beyond it."""
        cuts = [part.cut(max_length) for part in self.counts.values()]
        return sum(rows for rows, _ in cuts), sum(tokens for _, tokens in cuts)

    def cuts(self, asked: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return length, rows and tokens of the cuts at powers of two up to the longest row, and at the lengths asked for."""
        longest = max(part.longest for part in self.counts.values())
        powers = [1 << bits for bits in range(5, (longest - 1).bit_length())]
        return [(length, *self.cut(length)) for length in sorted({*powers, *asked})]

    def succeed(self, parts: Mapping[str, Any]) -> "TokenCount":
        """Return it with its numbers."""
        return replace(self, state="SUCCEEDED", parts=parts)

    def fail(self, error: Mapping[str, Any]) -> "TokenCount":
        """Return it as failed; `error` is one of Afina's as a document."""
        return replace(self, state="FAILED", error=error)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "TokenCount":
        """Read it from JSON."""
        return cls(**document)


def name_of(project: str, dataset_digest: str, base_digest: str, chat_template: str, code_digest: str) -> str:
    """Return the name of the one count of these rows for this base."""
    told = "\0".join((dataset_digest, base_digest, chat_template, code_digest))
    return f"projects/{project}/tokenCounts/tokens-{hashlib.sha256(told.encode()).hexdigest()[:24]}"


def distribution(lengths: Sequence[int]) -> list[list[int]]:
    """Return pairs of a length and how many have it, by length."""
    found: dict[int, int] = {}
    for length in lengths:
        found[length] = found.get(length, 0) + 1
    return [[length, found[length]] for length in sorted(found)]
