"""No row on two sides is near another: checked by brute force over every pair, with another definition of the overlap."""

import random
import re
import weakref
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset import near_rows
from services.dataset.chats import Chat
from services.dataset.dataset import Split
from services.dataset.division import Census, Division, rank_and_words_of
from services.dataset.near_rows import Words, grams, groups, jaccard
from services.dataset.spool import Spool

WORDS = [f"w{i}" for i in range(400)]


def chat(question: str, answer: str = "yes", system: str = "") -> Chat:
    """A chat of one turn."""
    instructions = ({"role": "system", "content": system},) if system else ()
    return Chat((*instructions, {"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def divided(chats: list[Chat], split: Split, given_rows: list[Chat] | None = None) -> Division:
    """Count chats and divide them."""
    with Spool() as words:
        census = Census(words)
        for one in chats:
            census.add(one, split.seed)
        for one in given_rows or []:
            census.add_given(one, split.seed)
        return census.divide(split)


def overlap(one: str, other: str) -> float:
    """The overlap of two texts' word 5-grams by the definition alone."""
    sets = []
    for text in (one, other):
        words = re.sub(r"[\W_]+", " ", text.casefold()).split()
        sets.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 0.0


def changed(words: list[str], count: int, rng: random.Random) -> list[str]:
    """Some words replaced, dropped or added."""
    words = list(words)
    for _ in range(count):
        at = rng.randrange(len(words))
        words[at : at + rng.randrange(2)] = rng.choice([[], [rng.choice(WORDS)], [rng.choice(WORDS)]])
    return words


def families(rng: random.Random, count: int, length: int) -> list[str]:
    """Texts of which many are near others, at every degree of nearness."""
    texts = []
    for _ in range(count):
        words = rng.choices(WORDS, k=length)
        texts += [" ".join(changed(words, rng.randrange(4), rng)) for _ in range(rng.choice([1, 1, 2, 4]))]
    return texts


@given(st.integers(0, 2**32), st.integers(6, 60), st.integers(-(2**40), 2**40))
@settings(max_examples=12, deadline=None)
def test_no_two_rows_on_two_sides_overlap_by_four_fifths(random_seed: int, length: int, seed: int) -> None:
    texts = families(random.Random(random_seed), 60, length)
    division = divided([chat(text) for text in texts], Split(0.6, 0.2, 0.2, seed))
    for one, other in combinations(range(len(texts)), 2):
        if division.sides[one] != division.sides[other]:
            assert overlap(f"{texts[one]} yes", f"{texts[other]} yes") < 0.8, (texts[one], texts[other])


def test_rows_that_are_not_near_are_not_joined() -> None:
    texts = families(random.Random(4), 120, 30)
    with Spool() as spool:
        words = Words(spool)
        ranks = []
        for text in texts:
            rank, said = rank_and_words_of(chat(text), 0)
            words.add(said)
            ranks.append(rank)
        found = groups(words, np.array(ranks, np.uint64))
    parents = list(range(len(texts)))

    def root(place: int) -> int:
        while parents[place] != place:
            place = parents[place]
        return place

    for one, other in combinations(range(len(texts)), 2):
        if overlap(f"{texts[one]} yes", f"{texts[other]} yes") >= 0.8 or ranks[one] == ranks[other]:
            parents[root(other)] = root(one)
    expected = [root(place) for place in range(len(texts))]
    assert len({(a, b) for a, b in zip(expected, found.tolist(), strict=True)}) == len(set(expected)) == len(set(found.tolist()))


@pytest.mark.parametrize("shared", ["", "Classify the sentiment of this review in one single word only, please: "])
def test_what_all_rows_begin_with_makes_none_of_them_near(shared: str) -> None:
    rng = random.Random(2)
    rows = [chat(shared + " ".join(rng.choices(WORDS, k=8)), rng.choice(["good", "bad"])) for _ in range(200)]
    assert divided(rows, Split()).near_row_count == 0


def test_a_system_message_makes_no_rows_near() -> None:
    rng = random.Random(3)
    rows = [chat(" ".join(rng.choices(WORDS, k=8)), system="Be brief and kind and also true. " * 9) for _ in range(200)]
    assert divided(rows, Split()).near_row_count == 0


def test_rows_under_five_words_are_near_only_when_they_are_equal() -> None:
    rows = [chat(f"a b {i}") for i in range(100)]
    division = divided(rows, Split())
    assert (division.near_row_count, division.repeated_row_count) == (0, 0)
    assert [division.sides.count(side) for side in range(3)] == [80, 10, 10]


def test_near_rows_with_other_labels_stay_together() -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(WORDS, k=30)) for _ in range(100)]
    rows = [chat(text, label) for text in texts for label in ("good", "bad")]
    division = divided(rows, Split())
    assert all(division.sides[i] == division.sides[i + 1] for i in range(0, 200, 2))
    assert division.near_row_count == 200
    assert division.sides.count(2) == 20


def test_no_test_row_is_near_a_given_validation_row_and_those_stay() -> None:
    rng = random.Random(6)
    texts = [" ".join(rng.choices(WORDS, k=90)) for _ in range(200)]
    given_rows = [chat(" ".join(changed(text.split(), 1, rng))) for text in texts[:150]]
    division = divided([chat(text) for text in texts], Split(0.8, 0.0, 0.2), given_rows)
    assert set(division.sides[200:]) == {1}
    assert set(division.sides[:200]) == {0, 2}
    assert division.sides.count(2) == 40
    for row in range(200):
        if division.sides[row] == 2:
            assert all(overlap(texts[row], one.messages[0]["content"]) < 0.8 for one in given_rows)
    assert division.given_row_count == 150


def test_thousands_of_rows_of_one_template_take_seconds_and_are_joined_where_they_are_near() -> None:
    rng = random.Random(7)
    template = " ".join(rng.choices(WORDS, k=60))
    rows = [chat(f"{i} {template} {rng.choice(WORDS)}") for i in range(3_000)]
    division = divided(rows, Split())
    assert division.near_row_count == 3_000
    assert set(division.sides) == {0}


def test_the_order_of_the_file_does_not_matter() -> None:
    texts = families(random.Random(8), 150, 25)
    sides = dict(zip(texts, divided([chat(text) for text in texts], Split()).sides, strict=True))
    shuffled = random.Random(1).sample(texts, len(texts))
    assert [sides[text] for text in shuffled] == list(divided([chat(text) for text in shuffled], Split()).sides)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_a_row_says_its_sketch_depends_on_its_own_words_alone(texts: list[str], is_long: bool) -> None:
    texts = [f"{text} a b c {text} {text} {i}" * (40 if is_long else 1) for i, text in enumerate(texts)]
    said = [rank_and_words_of(chat(text), 0)[1] for text in texts]
    with Spool() as spool:
        words = Words(spool)
        for one in [b"", *said]:  # the first sees to it that nothing is shared
            words.add(one)
        sketches, has_grams = near_rows._sketches(words, np.arange(len(said) + 1), len(said) + 1)
        assert [words.of(row + 1) for row in range(len(said))] == [one.split() for one in said]
    for row, one in enumerate(said, start=1):
        assert has_grams[row] == (len(one.split()) >= 5)
        with Spool() as spool:
            alone = Words(spool)
            for line in (b"", one):
                alone.add(line)
            assert (near_rows._sketches(alone, np.array([1]), 2)[0][0] == sketches[row]).all()


def test_a_sketch_is_64_bytes_and_all_bands_fit_into_it() -> None:
    assert near_rows.SKETCH_BYTES == 64
    assert near_rows.BANDS * near_rows.BAND_BYTES <= near_rows.SKETCH_BYTES


@pytest.mark.parametrize(("one", "other", "expected"), [({1, 2}, {2, 3}, 1 / 3), (set(), set(), 0.0), ({1}, {1}, 1.0)])
def test_jaccard_is_shared_over_all(one: set[int], other: set[int], expected: float) -> None:
    sets = [frozenset((str(value).encode(),) for value in values) for values in (one, other)]
    assert jaccard(sets[0], sets[1]) == expected


def test_however_long_rows_are_so_many_of_their_5_grams_are_kept_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []

    class Kept(frozenset[Any]):
        """A set that can be watched."""

    def watched(words: list[bytes]) -> Any:
        made = Kept(grams(words))
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(near_rows, "grams", watched)
    with Spool() as spool:
        words = Words(spool)
        for row in range(12):
            words.add(b" ".join(b"%d" % (row * 50_000 + n) for n in range(50_000)))
        kept = near_rows._Grams(words, np.arange(12))
        for row in range(12):
            assert len(kept.of(row)) == 49_996
    assert sum(len(found) for one in alive if (found := one()) is not None) <= near_rows.MAX_KEPT_GRAMS
