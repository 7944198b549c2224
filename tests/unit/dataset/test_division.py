"""A division lets no answer leak, keeps the labels' shares, and depends on the rows and the seed alone."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidInput
from services.dataset.chats import Chat
from services.dataset.dataset import Split
from services.dataset.division import TEST, TRAIN, VALIDATION, Census, Division, fold, rank_of
from services.dataset.spool import Spool


def chat(question: str, answer: str, system: str = "") -> Chat:
    """A chat of one turn."""
    instructions = ({"role": "system", "content": system},) if system else ()
    return Chat((*instructions, {"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def sides_of(chats: list[Chat], split: Split | None = None) -> list[str]:
    """Divide chats and return each one's side."""
    division = divided(chats, split or Split())
    return [division.side(row) for row in range(len(chats))]


def divided(chats: list[Chat], split: Split) -> Division:
    """Count chats and divide them."""
    with Spool() as words:
        census = Census(words)
        for one in chats:
            census.add(one, split.seed)
        return census.divide(split)


def reviews(counts: dict[str, int]) -> list[Chat]:
    """Labelled rows that all differ."""
    return [chat(f"review {label} {i}", label) for label, count in counts.items() for i in range(count)]


def test_eighty_ten_ten_is_kept_exactly_where_all_rows_differ() -> None:
    assert Counter(sides_of([chat(f"q{i}", f"a long answer {i}") for i in range(1000)])) == {
        TRAIN: 800,
        VALIDATION: 100,
        TEST: 100,
    }


def test_each_label_has_its_share_on_each_side() -> None:
    rows = reviews({"positive": 570, "neutral": 221, "negative": 409})
    sides = sides_of(rows)
    by_label = Counter((row.answer, side) for row, side in zip(rows, sides, strict=True))
    assert by_label["positive", TEST] == 57
    assert by_label["neutral", TEST] == 22
    assert by_label["negative", TEST] == 41
    assert Counter(sides) == {TRAIN: 960, VALIDATION: 120, TEST: 120}


def test_rows_that_are_equal_after_folding_are_on_one_side() -> None:
    rng = random.Random(0)
    spellings = ["It broke!", "it  BROKE", "“It broke…”", "it_broke", "ｉｔ ｂｒｏｋｅ"]
    rows = [chat(f"{rng.choice(spellings)} {i % 40}", rng.choice(["Yes.", "yes", " YES "])) for i in range(400)]
    sides_by_row: dict[int, set[str]] = {}
    for i, side in enumerate(sides_of(rows)):
        sides_by_row.setdefault(i % 40, set()).add(side)
    assert all(len(sides) == 1 for sides in sides_by_row.values())
    assert len({side for sides in sides_by_row.values() for side in sides}) == 3


def test_a_system_message_does_not_make_rows_different() -> None:
    assert rank_of(chat("q", "a", "Be brief."), 0) == rank_of(chat("q", "a", "Be kind."), 0) == rank_of(chat("q", "a"), 0)


def test_rows_that_say_other_things_have_other_ranks() -> None:
    different = [
        chat("q", "a"),
        chat("qa", ""),
        chat("", "qa"),
        chat("q", "b"),
        chat(":)", "a"),
        chat(":(", "a"),
        Chat((*chat("q", "a").messages, *chat("q", "a").messages)),
        Chat(({"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call("f", '{"x": 1}')]})),
        Chat(({"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call("f", '{"x": 2}')]})),
    ]
    assert len({rank_of(one, 0) for one in different}) == len(different)


def call(name: str, arguments: str) -> dict[str, object]:
    """A tool call."""
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_the_order_of_the_file_does_not_matter() -> None:
    rows = reviews({"yes": 80, "no": 40})
    shuffled = random.Random(1).sample(rows, len(rows))
    sides = {row.messages[0]["content"]: side for row, side in zip(rows, sides_of(rows), strict=True)}
    assert [sides[row.messages[0]["content"]] for row in shuffled] == sides_of(shuffled)


def test_another_seed_divides_otherwise_and_the_same_seed_alike() -> None:
    rows = reviews({"yes": 100, "no": 100})
    assert sides_of(rows, Split(seed=7)) == sides_of(rows, Split(seed=7))
    assert sides_of(rows, Split(seed=7)) != sides_of(rows, Split(seed=8))


@pytest.mark.parametrize(("row_count", "held_out"), [(49, 0), (50, 10)])
def test_under_50_rows_nothing_is_held_out(row_count: int, held_out: int) -> None:
    sides = sides_of([chat(f"q{i}", f"answer {i}") for i in range(row_count)])
    assert row_count - Counter(sides)[TRAIN] == held_out


def test_a_group_of_repeats_too_large_for_its_side_trains() -> None:
    rows = [chat("the same", "yes") for _ in range(60)] + reviews({"yes": 40})
    sides = sides_of(rows)
    assert set(sides[:60]) == {TRAIN}
    assert Counter(sides)[TEST] == 10


def test_repeats_are_counted() -> None:
    division = divided([chat("Same!", "x"), chat("same", "x"), chat("SAME", "x"), chat("other", "x")], Split())
    assert division.repeated_row_count == 2


@pytest.mark.parametrize(
    ("answers", "are_labels"),
    [
        (["yes", "no"] * 20, True),
        ([f"label {i % 20}" for i in range(60)], True),
        ([f"label {i % 21}" for i in range(60)], False),
        ([f"answer {i}" for i in range(12)], False),
        (["yes", "x" * 65] * 20, False),
        (["two\nlines", "no"] * 20, False),
    ],
)
def test_answers_are_labels_when_they_are_short_and_few(answers: list[str], are_labels: bool) -> None:
    with Spool() as words:
        census = Census(words)
        for i, answer in enumerate(answers):
            census.add(chat(f"q{i}", answer), 0)
        census.settle()
    assert census.has_labels == are_labels
    assert census.label_counts == (Counter(answers) if are_labels else Counter())
    assert census.row_count == len(answers)


TEXTS = st.sampled_from(["a", "A!", " a ", "b", "b.", "B b", "ß", "SS", "é", "e\u0301", "", "…", "1"])


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=50, max_size=150), st.integers(-(2**63), 2**63 - 1), st.floats(0, 0.5))
@settings(max_examples=60, deadline=None)
def test_no_two_rows_that_fold_alike_are_ever_divided_and_no_side_is_overfull(
    pairs: list[tuple[str, str]], seed: int, fraction: float
) -> None:
    rows = [chat(f"{question} {i % 30}", answer) for i, (question, answer) in enumerate(pairs)]
    sides = sides_of(rows, Split(1 - 2 * fraction, fraction, fraction, seed))
    side_by_row: dict[tuple[bytes, bytes], str] = {}
    for row, side in zip(rows, sides, strict=True):
        assert side_by_row.setdefault((fold(row.messages[0]["content"]), fold(row.answer)), side) == side
    counts = Counter(sides)
    assert counts[TEST] <= round(len(rows) * fraction)
    assert counts[VALIDATION] <= round(len(rows) * fraction)


@pytest.mark.parametrize(
    ("split", "reasons"),
    [
        (Split(0.8, 0.1, 0.2), ["FRACTIONS_DO_NOT_SUM_TO_1"]),
        (Split(1.5, -0.5, 0.0), ["FRACTION_OUT_OF_RANGE", "FRACTION_OUT_OF_RANGE"]),
        (Split(float("nan"), 0.5, 0.5), ["FRACTION_OUT_OF_RANGE"]),
        (Split(0.0, 0.5, 0.5), ["NOTHING_TO_TRAIN"]),
    ],
)
def test_a_split_that_is_no_division_is_refused(split: Split, reasons: list[str]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        split.check()
    assert [violation.reason for violation in refusal.value.violations] == reasons


def test_tool_arguments_that_are_nested_too_deep_to_be_sorted_are_compared_as_text() -> None:
    def call(arguments: str) -> Chat:
        function = {"name": "find", "arguments": arguments}
        calls = [{"id": "c1", "type": "function", "function": function}]
        return Chat(({"role": "user", "content": "Find it."}, {"role": "assistant", "tool_calls": calls}))

    deep = '{"a": ' * 300 + "%d" + "}" * 300
    assert rank_of(call(deep % 1), 0) == rank_of(call(deep % 1), 0) != rank_of(call(deep % 2), 0)
