"""Rows become questions: zero-shot, few-shot, and never with the answer inside."""

import json
from typing import Any

import pytest

from services.common.errors import InvalidInput
from services.evaluator.worker.prompts import Row, draw_examples, labelled, messages_of, read_rows
from services.evaluator.worker.spec import Prompt

LABELS = ("positive", "neutral", "negative")
PLAIN = Prompt("plain", "GENERATE")


def line(*turns: tuple[str, Any]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()


def train(count: int = 30) -> list[Row]:
    return [Row(({"role": "user", "content": f"review {i}"},), LABELS[i % 3]) for i in range(count)]


def test_a_row_is_asked_without_its_last_assistant_turn() -> None:
    [row] = read_rows([line(("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"))], "test")
    assert row.reference == "a2"
    assert [m["content"] for m in messages_of(row, [], PLAIN)] == ["s", "q1", "a1", "q2"]


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
    assert [row.reference for row in labelled(rows, LABELS, "test")] == ["positive", "neutral"]
    assert labelled(rows, (), "test") == rows


def test_references_that_are_no_label_are_all_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        labelled([Row((), "great"), Row((), "positive"), Row((), "meh")], LABELS, "test")
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
    assert messages_of(asked, [example], PLAIN) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": "positive"},
        {"role": "user", "content": "q"},
    ]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_instruction_and_template_stand_in_for_system_message_and_question_in_examples_too() -> None:
    system = {"role": "system", "content": "Be kind."}
    example, asked = (
        Row((system, user("e")), "positive"),
        Row((system, user("q1"), {"role": "assistant", "content": "a"}, user("q2")), "x"),
    )
    prompt = Prompt("p", "GENERATE", instruction="{{system}} Say {{labels}}.", template="Review: {{ question }}!")
    assert messages_of(asked, [example], prompt, ("good", "bad")) == [
        {"role": "system", "content": "Be kind. Say good, bad."},
        user("Review: e!"),
        {"role": "assistant", "content": "positive"},
        user("q1"),
        {"role": "assistant", "content": "a"},
        user("Review: q2!"),
    ]


def test_what_is_put_in_is_not_searched_for_variables_and_nothing_else_is_changed() -> None:
    asked = Row((user("{{labels}} {{question}} {{ 7*7 }}"),), "x")
    prompt = Prompt("p", "GENERATE", template='{"json": {{question}} {% raw %} {{"a": 1}}}')
    [message] = messages_of(asked, [], prompt, ("good", "bad"))
    assert message["content"] == '{"json": {{labels}} {{question}} {{ 7*7 }} {% raw %} {{"a": 1}}}'


def test_a_template_over_a_question_that_is_not_a_users_is_refused() -> None:
    asked = Row((user("q"), {"role": "tool", "content": "42"}), "x")
    with pytest.raises(InvalidInput, match="not a user's"):
        messages_of(asked, [], Prompt("p", "GENERATE", template="{{question}}"))
    assert len(messages_of(asked, [], PLAIN)) == 2
