"""Every shape becomes the chat that it means, and every record of another shape is told how to be one."""

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset import shapes
from services.dataset.faults import Fault
from services.dataset.records import Record, Records


def read(rows: list[Any], format: str = "") -> tuple[str, list[Record | Fault]]:
    """Read rows as JSONL."""
    records = Records(io.BytesIO("\n".join(map(json.dumps, rows)).encode()), format)
    found = list(records)
    return records.format, found


def said(record: Record | Fault) -> list[tuple[str, str]]:
    """What a good record says."""
    assert isinstance(record, Record), record
    return [(message["role"], message["content"]) for message in record.chat.messages]


def reasons(rows: list[Any], format: str = "") -> list[tuple[int, str]]:
    """Line and reason of every fault."""
    return [(fault.line, fault.reason) for fault in read(rows, format)[1] if isinstance(fault, Fault)]


@pytest.mark.parametrize(
    ("row", "shape", "asked", "answer"),
    [
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "openai_chat", "q", "a"),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "instruction", "Add.\n\n1 1", "2"),
        ({"instruction": "Sing.", "input": "", "output": "La"}, "instruction", "Sing.", "La"),
        ({"instruction": "Sing.", "output": "La"}, "instruction", "Sing.", "La"),
        ({"prompt": "p ->", "completion": " c"}, "prompt_completion", "p ->", " c"),
        ({"question": "q?", "answer": "a"}, "question_answer", "q?", "a"),
        ({"input": "it broke", "label": "negative"}, "input_label", "it broke", "negative"),
        ({"input": "it broke", "label": 0}, "input_label", "it broke", "0"),
        ({"input": "it broke", "expected": True}, "input_label", "it broke", "true"),
        ({"input": "it broke", "output": "negative", "label": None}, "input_label", "it broke", "negative"),
    ],
)
def test_each_shape_is_found_and_becomes_a_question_and_an_answer(
    row: dict[str, Any], shape: str, asked: str, answer: str
) -> None:
    for named in ("", shape):
        found, (record,) = read([row], named)
        assert found == shape
        assert said(record) == [("user", asked), ("assistant", answer)]


def test_text_is_learned_and_nothing_is_asked_for_it() -> None:
    found, (record,) = read([{"text": "Once upon a time."}])
    assert (found, said(record)) == ("text", [("user", ""), ("assistant", "Once upon a time.")])


def test_lines_of_plain_text_are_records_when_they_are_named_so() -> None:
    records = Records(io.BytesIO('One {line}.\n\n["two"]\r\nDrei é\n'.encode()), shapes.PLAIN_TEXT)
    assert [said(record)[1][1] for record in records] == ["One {line}.", '["two"]', "Drei é"]
    (fault,) = Records(io.BytesIO(b"caf\xe9"), shapes.PLAIN_TEXT)
    assert isinstance(fault, Fault)
    assert (fault.line, fault.column, fault.reason) == (1, 4, "ENCODING_INVALID")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "a", "input": 3, "output": ""}, ["FIELD_NOT_TEXT", "FIELD_EMPTY"]),
        ({"instruction": None, "output": " "}, ["FIELD_MISSING", "FIELD_EMPTY"]),
        ({"prompt": ["a"], "completion": {}}, ["FIELD_NOT_TEXT", "FIELD_NOT_TEXT"]),
        ({"question": "\n", "answer": 4}, ["FIELD_EMPTY", "FIELD_NOT_TEXT"]),
        ({"input": "a", "label": "x", "output": "y"}, ["LABEL_AMBIGUOUS"]),
        ({"input": "", "label": 1.5}, ["FIELD_EMPTY", "FIELD_NOT_TEXT"]),
        ({"input": "a", "label": None}, ["FIELD_MISSING"]),
        ({"text": " "}, ["FIELD_EMPTY"]),
        ({"a": 1}, ["FORMAT_UNKNOWN"]),
        ({}, ["FORMAT_UNKNOWN"]),
    ],
)
def test_everything_that_is_wrong_with_a_record_is_told(row: dict[str, Any], expected: list[str]) -> None:
    assert [reason for _, reason in reasons([row])] == expected


def test_records_of_another_shape_than_the_first_are_mistakes() -> None:
    rows = [{"x": 1}, {"prompt": "a", "completion": "b"}, {"question": "a", "answer": "b"}, {"prompt": "a", "completion": "b"}]
    assert reasons(rows) == [(1, "FORMAT_UNKNOWN"), (3, "FIELD_MISSING"), (3, "FIELD_MISSING")]
    assert reasons(rows[1:2], shapes.INSTRUCTION) == [(1, "FIELD_MISSING"), (1, "FIELD_MISSING")]


def test_fields_that_nothing_reads_are_known() -> None:
    _, (record,) = read([{"question": "q", "answer": "a", "context": "c", "id": 1}])
    assert isinstance(record, Record)
    assert record.chat.ignored == ("context", "id")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.lists(TEXT, max_size=2)
)
FIELDS = ["instruction", "input", "output", "prompt", "completion", "question", "answer", "label", "expected", "text", "messages"]
ROWS = st.lists(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=5), min_size=1, max_size=5)


@given(ROWS, st.sampled_from(["", *shapes.FORMATS]))
@settings(max_examples=150, deadline=None)
def test_whatever_the_fields_are_each_row_is_a_chat_with_its_words_or_has_faults(rows: list[dict[str, Any]], format: str) -> None:
    shape, found = read(rows, format)
    assert {one.line for one in found} == set(range(1, len(rows) + 1))
    assert shape in ("", *shapes.FORMATS)
    for one in found:
        if isinstance(one, Fault):
            assert one.reason.isupper()
            assert one.description.endswith(".")
        elif shape != shapes.PLAIN_TEXT:
            told = [value for value in rows[one.line - 1].values() if isinstance(value, str) and value.strip()]
            assert one.chat.answer in told or one.chat.answer == json.dumps(
                next(value for key, value in rows[one.line - 1].items() if key in shapes.LABEL_KEYS and isinstance(value, int))
            )
            (again,) = Records(io.BytesIO(one.chat.to_json()))
            assert isinstance(again, Record)
            assert again.chat.messages == one.chat.messages
