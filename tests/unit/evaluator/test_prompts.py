"""Rows become questions: zero-shot, few-shot, and never with the answer inside."""

import json
from typing import Any

import pytest

from services.common.errors import InvalidInput
from services.evaluator.worker.prompts import Row, draw_examples, labelled, messages_of, read_rows

LABELS = ("positive", "neutral", "negative")


def line(*turns: tuple[str, Any]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()


def train(count: int = 30) -> list[Row]:
    return [Row(({"role": "user", "content": f"review {i}"},), LABELS[i % 3]) for i in range(count)]


def test_a_row_is_asked_without_its_last_assistant_turn() -> None:
    [row] = read_rows([line(("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"))], "test")
    assert row.reference == "a2"
    assert [m["content"] for m in messages_of(row, [])] == ["s", "q1", "a1", "q2"]


def test_an_answer_in_parts_is_read_as_one_text() -> None:
    [row] = read_rows(
        [line(("user", "q"), ("assistant", [{"type": "text", "text": "posi"}, {"type": "text", "text": "tive"}]))], "test"
    )
    assert row.reference == "positive"


def test_rows_without_an_answer_are_all_named() -> None:
    lines = [line(("user", "q")), line(("user", "q"), ("assistant", "a")), line(("user", "q"), ("assistant", None))]
    with pytest.raises(InvalidInput) as caught:
        read_rows(lines, "test")
    assert [violation.field for violation in caught.value.violations] == ["test line 1", "test line 3"]


def test_references_are_spelled_as_their_labels() -> None:
    rows = [Row((), "Positive."), Row((), " neutral ")]
    assert [row.reference for row in labelled(rows, LABELS)] == ["positive", "neutral"]
    assert labelled(rows, ()) == rows


def test_references_that_are_no_label_are_all_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        labelled([Row((), "great"), Row((), "positive"), Row((), "meh")], LABELS)
    assert caught.value.reason == "REFERENCE_NOT_A_LABEL"
    assert [violation.field for violation in caught.value.violations] == ["test row 1", "test row 3"]


def test_examples_are_equally_many_per_label_and_the_same_for_the_same_seed() -> None:
    drawn = draw_examples(train(), LABELS, 6, 7)
    assert sorted(row.reference for row in drawn) == ["negative", "negative", "neutral", "neutral", "positive", "positive"]
    assert draw_examples(train(), LABELS, 6, 7) == drawn
    assert draw_examples(train(), LABELS, 6, 8) != drawn


def test_examples_without_labels_are_any_training_rows() -> None:
    drawn = draw_examples(train(), (), 5, 0)
    assert len({row.question[0]["content"] for row in drawn}) == 5


def test_more_examples_than_rows_of_a_label_are_refused() -> None:
    with pytest.raises(InvalidInput, match="fewer of negative"):
        draw_examples(train(5), LABELS, 6, 0)
    with pytest.raises(InvalidInput, match="do not divide"):
        draw_examples(train(), LABELS, 4, 0)


def test_examples_stand_as_turns_between_the_system_message_and_the_question() -> None:
    example = Row(({"role": "system", "content": "other"}, {"role": "user", "content": "e"}), "positive")
    asked = Row(({"role": "system", "content": "s"}, {"role": "user", "content": "q"}), "neutral")
    assert messages_of(asked, [example]) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": "positive"},
        {"role": "user", "content": "q"},
    ]
