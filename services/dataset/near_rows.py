"""Which rows say nearly the same: word 5-grams overlap by Jaccard ≥ 0.8, so that they may not stand on two sides of a split.

Every row gets a sketch of 64 bytes: 64 minimum hashes of its 5-grams, one byte of each. Rows that agree in one of 21
bands of three are compared: first their sketches, then, where these leave doubt, their words, which lie on disk. A pair
at exactly 0.8 shares no band once in 3 million (0.488^21); tests/benchmarks/dataset.py measures what is missed.
Where thousands share a band (a template), each is compared with its 32 neighbours only; and after MAX_VERIFIED pairs
the sketches decide alone, rather merging two rows too many. Words that all rows share at their beginning are no overlap.

Source: Broder 1997 (minimum hashes), Li and König 2010 (a few bits of each), Leskovec et al., Mining of Massive Datasets,
ch. 3 (bands).
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from services.dataset.spool import Spool

GRAM_WORDS = 5
MIN_OVERLAP = 0.8
SKETCH_BYTES = 64
BANDS, BAND_BYTES = 21, 3
NEIGHBOURS = 32
MAX_VERIFIED = 200_000
USUAL_GRAMS = 256
MAX_KEPT_GRAMS = 200_000  # about 150 bytes each
# Of 64 bytes: below, a pair at 0.8 falls once in 10^8; above, the words need no look; between, without a look, this decides.
_DOUBTFUL, _CERTAIN, _LIKELY = 32, 61, 44
_BLOCK_BYTES = 1 << 18
_LONGEST_WORD = 64
_LINE_END, _SPACE = 10, 32

_U64 = NDArray[np.uint64]
_RANDOM = np.random.default_rng(20261124)
_POWERS = np.cumprod(np.full(_LONGEST_WORD, 0x9E3779B97F4A7C15, np.uint64))
_GRAM_FACTORS = _RANDOM.integers(0, 2**64, GRAM_WORDS, np.uint64, endpoint=False) | np.uint64(1)
_FACTORS = _RANDOM.integers(0, 2**32, SKETCH_BYTES, np.uint32, endpoint=False) | np.uint32(1)
_OFFSETS = _RANDOM.integers(0, 2**32, SKETCH_BYTES, np.uint32, endpoint=False)


class Words:
    """The folded words of every row, a line each, on disk; and the beginning that they all share."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ends = array("Q")
        self._prefix: bytes | None = None

    def add(self, words: bytes) -> None:
        """Keep the words of the next row: no line feed, separated by spaces."""
        if self._prefix is None:
            self._prefix = words
        elif not words.startswith(self._prefix):
            self._prefix = _common(self._prefix, words)
        self._spool.write(words + b"\n")
        self._ends.append(self._spool.size_bytes)

    @property
    def shared_bytes(self) -> int:
        """How many bytes all rows begin with, up to the end of a word; no row is shared as a whole."""
        return (self._prefix or b"").rfind(b" ") + 1

    def of(self, row: int) -> list[bytes]:
        """Return a row's words, without those that all rows share."""
        stream = self._spool.rewound()
        stream.seek(self._ends[row - 1] if row else 0)
        return stream.readline()[self.shared_bytes :].split()

    def blocks(self) -> Iterator[bytes]:
        """Yield all rows' words, some lines at a time."""
        skipped = self.shared_bytes
        lines = iter(self._spool.rewound())
        while block := list(_about(lines, _BLOCK_BYTES)):
            yield b"".join(line[skipped:] for line in block)


def groups(words: Words, ranks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each row the number of its group: rows of equal rank, or near one another, also by way of others.

    Shapes: ranks and result [rows].
    """
    _, firsts, inverse = np.unique(ranks, return_index=True, return_inverse=True)
    sketches, has_grams = _sketches(words, firsts, len(ranks))
    rows = firsts[has_grams]  # in the order of their ranks, so that the file's order does not matter
    links = _Links(words, rows, _kept(sketches, has_grams))
    for band in range(BANDS):
        links.join_band(band)
    root = np.arange(len(ranks))
    root[rows] = rows[links.roots()]
    return root[firsts][inverse]


def jaccard(one: frozenset[tuple[bytes, ...]], other: frozenset[tuple[bytes, ...]]) -> float:
    """Return the overlap of two sets: shared over all."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def grams(words: list[bytes]) -> frozenset[tuple[bytes, ...]]:
    """Return the word 5-grams of a text."""
    return frozenset(zip(*(words[i:] for i in range(GRAM_WORDS)), strict=False))


class _Grams:
    """The 5-grams of the rows that were asked for last, so many in all: a row may be a book."""

    def __init__(self, words: Words, rows: NDArray[np.int64]) -> None:
        self._words, self._rows = words, rows
        self._kept: OrderedDict[int, frozenset[tuple[bytes, ...]]] = OrderedDict()
        self._count = 0

    def of(self, place: int) -> frozenset[tuple[bytes, ...]]:
        """Return the 5-grams of the row at a place in `rows`."""
        found = self._kept.get(place)
        if found is None:
            found = self._kept[place] = grams(self._words.of(int(self._rows[place])))
            self._count += len(found)
            while self._count > MAX_KEPT_GRAMS and len(self._kept) > 1:
                self._count -= len(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(place)
        return found


class _Links:
    """A forest of rows that belong together. Shapes: rows [n], sketches [n, 64]; numbers are places in `rows`."""

    def __init__(self, words: Words, rows: NDArray[np.int64], sketches: NDArray[np.uint8]) -> None:
        self._sketches = sketches
        self._parents = array("q", range(len(rows)))
        self._verified = 0
        self._rejected: set[tuple[int, int]] = set()
        self._grams = _Grams(words, rows)

    def roots(self) -> NDArray[np.int64]:
        """Return each row's root."""
        roots = np.array(self._parents, np.int64)
        while (further := roots[roots] != roots).any():
            roots[further] = roots[roots[further]]
        return roots

    def join_band(self, band: int) -> None:
        """Join what is near among rows that agree in a band."""
        if len(self._parents) < 2:
            return
        keys = self._keys(band)
        both = keys.astype(np.uint64) << np.uint64(8 * BAND_BYTES) | self._keys((band + 1) % BANDS)
        order = np.argsort(both, kind="stable")  # the same rows in the same order on every machine
        ordered = keys[order]
        begins = np.arange(len(order))
        for distance in range(1, NEIGHBOURS + 1):
            begins = begins[begins + distance < len(order)]
            begins = begins[ordered[begins] == ordered[begins + distance]]
            if not len(begins):
                return
            for part in range(0, len(begins), 1 << 16):
                some = begins[part : part + (1 << 16)]
                self._join(order[some], order[some + distance])

    def _keys(self, band: int) -> NDArray[np.uint32]:
        columns = self._sketches[:, band * BAND_BYTES : (band + 1) * BAND_BYTES].astype(np.uint32)
        keys: NDArray[np.uint32] = columns @ np.array([1, 1 << 8, 1 << 16], np.uint32)
        return keys

    def _join(self, ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        agreeing = np.count_nonzero(self._sketches[ones] == self._sketches[others], axis=1)
        close = agreeing >= _DOUBTFUL
        for one, other, count in zip(ones[close].tolist(), others[close].tolist(), agreeing[close].tolist(), strict=True):
            root, other_root = self._find(one), self._find(other)
            if root != other_root and self._is_near(one, other, count):
                self._parents[max(root, other_root)] = min(root, other_root)

    def _is_near(self, one: int, other: int, agreeing: int) -> bool:
        if agreeing >= _CERTAIN:
            return True
        pair = (min(one, other), max(one, other))
        if pair in self._rejected:
            return False
        if self._verified >= MAX_VERIFIED:
            return agreeing >= _LIKELY
        mine, theirs = self._grams.of(one), self._grams.of(other)
        self._verified += 1 + (len(mine) + len(theirs)) // USUAL_GRAMS  # a long row takes as much time as many short ones
        is_near = jaccard(mine, theirs) >= MIN_OVERLAP
        if not is_near:
            self._rejected.add(pair)
        return is_near

    def _find(self, place: int) -> int:
        parents = self._parents
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place


def _sketches(words: Words, wanted: NDArray[np.int64], row_count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the sketches of some rows, and which of them have any 5-gram. Shapes: wanted [n], result [n, 64] and [n]."""
    sketches = np.zeros((len(wanted), SKETCH_BYTES), np.uint8)
    has_grams = np.zeros(len(wanted), np.bool_)
    place_of = np.full(row_count, -1, np.int32)
    place_of[wanted] = np.arange(len(wanted), dtype=np.int32)
    row = 0
    for block in words.blocks():
        hashes, counts = _gram_hashes(np.frombuffer(block, np.uint8))
        places = np.flatnonzero(counts)
        if len(places):
            starts = np.concatenate(([0], np.cumsum(counts[places])[:-1]))
            target = place_of[row + places]
            is_wanted = target >= 0
            has_grams[target[is_wanted]] = True
            for i in range(SKETCH_BYTES):
                least = np.minimum.reduceat(hashes * _FACTORS[i] + _OFFSETS[i], starts)
                sketches[target[is_wanted], i] = ((least * np.uint32(0x9E3779B1)) >> np.uint32(24))[is_wanted]
        row += len(counts)
    return sketches, has_grams


def _kept(sketches: NDArray[np.uint8], is_kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Move the rows to keep to the front, in the same memory, and return those."""
    end = 0
    for begin in range(0, len(sketches), 1 << 16):
        part = sketches[begin : begin + (1 << 16)][is_kept[begin : begin + (1 << 16)]]
        sketches[end : end + len(part)] = part
        end += len(part)
    return sketches[:end]


def _gram_hashes(text: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the hashes of all 5-grams, row by row, and how many each row has. Shapes: text [bytes], [grams], [rows]."""
    is_end = text == _LINE_END
    is_between = is_end | (text == _SPACE)
    row_count = int(np.count_nonzero(is_end))
    starts = np.flatnonzero(~is_between & np.concatenate(([True], is_between[:-1])))
    if len(starts) < GRAM_WORDS:
        return np.zeros(0, np.uint32), np.zeros(row_count, np.int64)
    lengths = np.diff(np.append(starts, len(text)))
    inside = np.arange(starts[0], len(text), dtype=np.int32) - np.repeat(starts.astype(np.int32), lengths)
    letters = (text * ~is_between)[starts[0] :].astype(np.uint64)
    word_hashes = _mixed(np.add.reduceat(letters * _POWERS[np.minimum(inside, _LONGEST_WORD - 1)], starts - starts[0]))
    rows = np.searchsorted(np.flatnonzero(is_end), starts)
    count = len(starts) - GRAM_WORDS + 1
    total = np.zeros(count, np.uint64)
    for i in range(GRAM_WORDS):
        total += word_hashes[i : i + count] * _GRAM_FACTORS[i]
    is_whole = rows[:count] == rows[GRAM_WORDS - 1 :]
    hashes = (_mixed(total[is_whole]) >> np.uint64(32)).astype(np.uint32)
    return hashes, np.bincount(rows[:count][is_whole], minlength=row_count)


def _mixed(values: _U64) -> _U64:
    """Source: Steele, Lea and Flood 2014, the finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _common(one: bytes, other: bytes) -> bytes:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return one[:low]


def _about(lines: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
    """Yield lines until they have so many bytes."""
    for line in islice(lines, 8192):
        yield line
        size_bytes -= len(line)
        if size_bytes <= 0:
            return
