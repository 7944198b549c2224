"""Every way a line can be wrong has its own reason, its line, and the column where JSON broke."""

import gzip
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.containers import Container
from services.dataset.faults import Fault
from services.dataset.json_text import Text, parse_text
from services.dataset.objects import MAX_RECORD_BYTES
from services.dataset.records import Record, Records

GOOD = b'{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}'


def read(content: bytes) -> list[Record | Fault]:
    """Read a file from memory."""
    return list(Records(io.BytesIO(content)))


def faults(content: bytes) -> list[Fault]:
    """What is wrong with a file."""
    return [record for record in read(content) if isinstance(record, Fault)]


@pytest.mark.parametrize(
    ("line", "reason", "column"),
    [
        (b'{"messages": [}', "JSON_INVALID", 15),
        (b'{"messages" []}', "JSON_INVALID", 13),
        (b'{"a": 1} {"b": 2}', "JSON_INVALID", 10),
        (b'  {"a" 1}', "JSON_INVALID", 8),
        (b'{"a": "tab\there"}', "JSON_INVALID", 11),
        (b"hello", "JSON_INVALID", 1),
        ('{"é": tru}'.encode(), "JSON_INVALID", 7),
        (b'{"a": NaN}', "NUMBER_INVALID", 7),
        (b'{"a": "NaN", "b": -Infinity}', "NUMBER_INVALID", 19),
        (b'{"a": 1e999}', "NUMBER_INVALID", 7),
        (b'{"a": "caf\xe9"}', "ENCODING_INVALID", 11),
        ('{"é": "'.encode() + b'\xff"}', "ENCODING_INVALID", 8),
        (b'{"a": "\\ud800"}', "TEXT_INVALID", None),
        (b'{"a": 1, "a": 2}', "KEY_REPEATED", None),
        (b'{"a": 1, "\\u0061": 2}', "KEY_REPEATED", None),
        (b'{"a": 1, "b": {"c": "\\u0022\\u0022", "c": ""}}', "KEY_REPEATED", None),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "JSON_TOO_DEEP", None),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON_TOO_DEEP", None),
        (b'"text"', "RECORD_NOT_OBJECT", None),
        (b"17", "RECORD_NOT_OBJECT", None),
        (b"null", "RECORD_NOT_OBJECT", None),
        (b"true", "RECORD_NOT_OBJECT", None),
        (b"{}", "MESSAGES_MISSING", None),
    ],
)
def test_a_line_that_is_wrong_gives_its_reason_its_number_and_the_column_where_json_broke(
    line: bytes, reason: str, column: int | None
) -> None:
    found = faults(GOOD + b"\n" + line + b"\n" + GOOD)
    assert [(fault.line, fault.reason, fault.column) for fault in found] == [(2, reason, column)], found


@pytest.mark.parametrize(
    ("content", "reason", "advice"),
    [
        (GOOD.decode().encode("utf-16"), "ENCODING_UNSUPPORTED", "iconv"),
        (GOOD.decode().encode("utf-16-be"), "ENCODING_UNSUPPORTED", "UTF-8"),
        (GOOD.decode().encode("utf-16-le"), "ENCODING_UNSUPPORTED", "UTF-8"),
        (GOOD.decode().encode("utf-32"), "ENCODING_UNSUPPORTED", "UTF-8"),
        (b"\x1f\x8b\x08" + GOOD, "FILE_DAMAGED", "gzip FILE"),
        (gzip.compress(gzip.compress(GOOD)), "FILE_COMPRESSED", "gunzip"),
        (b"PK\x03\x04" + GOOD, "FILE_COMPRESSED", "zip"),
        (b"\x28\xb5\x2f\xfd" + GOOD, "FILE_COMPRESSED", "unzstd"),
        (b"PAR1" + GOOD, "FORMAT_UNSUPPORTED", "JSONL"),
    ],
)
def test_a_file_of_another_kind_gives_one_fault_with_advice_and_not_one_for_each_line(
    content: bytes, reason: str, advice: str
) -> None:
    found = faults(content)
    assert [fault.reason for fault in found] == [reason]
    assert advice in found[0].description


def test_all_mistakes_of_all_lines_are_found_in_one_reading() -> None:
    wrong = b'{"messages": [{"role": "bot", "content": ""}, {"role": "user"}]}'
    found = faults(b"\n".join([GOOD, b"{", wrong, GOOD, b"[1]"]))
    assert [(fault.line, fault.reason) for fault in found] == [
        (2, "JSON_INVALID"),
        (3, "ROLE_UNKNOWN"),
        (3, "CONTENT_MISSING"),
        (3, "LAST_NOT_ASSISTANT"),
        (5, "RECORD_NOT_OBJECT"),
    ]


def test_blank_lines_are_skipped_and_still_counted() -> None:
    found = read(b"\n  \t\r\n" + GOOD + b"\r\n\n" + GOOD)
    assert [record.line for record in found if isinstance(record, Record)] == [3, 5]
    assert len(found) == 2


def test_a_byte_order_mark_is_accepted() -> None:
    (record,) = read(b"\xef\xbb\xbf" + GOOD)
    assert isinstance(record, Record)
    assert record.chat.answer == "4"


def test_a_file_without_a_byte_holds_nothing() -> None:
    assert read(b"") == []
    assert read(b"\xef\xbb\xbf\n\n") == []


def test_a_line_over_10_mb_is_refused_and_the_next_is_read() -> None:
    giant = b'{"messages": "' + b"x" * MAX_RECORD_BYTES + b'"}'
    found = read(giant + b"\n" + GOOD)
    assert isinstance(found[0], Fault)
    assert (found[0].line, found[0].reason) == (1, "LINE_TOO_LONG")
    assert f"{len(giant) + 1:,} bytes" in found[0].description
    assert isinstance(found[1], Record)
    assert found[1].line == 2


def test_a_line_of_exactly_10_mb_is_read() -> None:
    padded = GOOD + b" " * (MAX_RECORD_BYTES - len(GOOD))
    assert [type(record) for record in read(padded + b"\n" + padded)] == [Record, Record]


def test_reading_holds_one_line_and_not_the_file(tmp_path: Any) -> None:
    path = tmp_path / "many.jsonl"
    row = GOOD.replace(b"2+2?", b"x" * 10_000) + b"\n"
    with path.open("wb") as file:
        for _ in range(2_000):
            file.write(row)
    tracemalloc.start()
    with path.open("rb") as file:
        count = sum(1 for _ in Records(file))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2_000
    assert peak_bytes < path.stat().st_size / 20


def test_a_fault_is_told_with_column_and_line_as_a_violation_and_as_json() -> None:
    fault = Fault(7, "JSON_INVALID", "Expecting value; write one complete JSON object a line.", 12)
    violation = fault.to_violation()
    assert (violation.field, violation.reason) == ("line 7", "JSON_INVALID")
    assert violation.description.startswith("column 12: Expecting value")
    assert json.loads(fault.to_json())["column"] == 12
    assert Fault(0, "FILE_EMPTY", "No records.").to_violation().field == "file"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=12,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "bot"]) | JSON_VALUES,
        "content": st.text(max_size=12) | st.lists(st.just({"type": "text", "text": "x"}), max_size=2) | JSON_VALUES,
        "weight": st.sampled_from([0, 1, 2, None, True]) | JSON_VALUES,
        "name": JSON_VALUES,
        "tool_calls": JSON_VALUES,
        "tool_call_id": JSON_VALUES,
    },
)
CHATS = st.fixed_dictionaries({"messages": st.lists(MESSAGES, max_size=4) | JSON_VALUES}, optional={"tools": JSON_VALUES})


@given(st.lists(st.binary(max_size=40), max_size=6))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_are_reading_them_gives_records_and_faults_and_nothing_is_raised(parts: list[bytes]) -> None:
    for record in read(b"\n".join(parts)):
        assert isinstance(record, Record | Fault)


@given(CHATS | JSON_VALUES, st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_the_json_is_it_is_a_record_that_round_trips_or_has_faults(value: Any, ascii_only: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = read(content)
    assert found or value == []
    for record in found:
        if isinstance(record, Fault):
            assert record.reason.isupper()
            assert record.description
            record.to_json()
        else:
            (again,) = read(record.chat.to_json())
            assert isinstance(again, Record)
            assert again.chat.to_json() == record.chat.to_json()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
GOOD_CHATS = st.builds(
    lambda turns, answer, extra: {
        "messages": [
            *({"role": role, "content": [{"type": "text", "text": text}] if parted else text} for role, text, parted in turns),
            {"role": "assistant", "content": f"{answer}.", "weight": 1},
        ],
        **extra,
    },
    st.lists(st.tuples(st.sampled_from(["system", "developer", "user"]), TEXT, st.booleans()), max_size=4),
    TEXT,
    st.fixed_dictionaries({}, optional={"id": st.integers(-(2**63), 2**63), "note": TEXT}),
)


@given(st.lists(GOOD_CHATS, min_size=1, max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
@settings(max_examples=150, deadline=None)
def test_good_chats_are_all_accepted_and_keep_every_word(chats: list[dict[str, Any]], ascii_only: bool, end: str) -> None:
    found = read("".join(json.dumps(chat, ensure_ascii=ascii_only) + end for chat in chats).encode())
    assert len(found) == len(chats)
    for record, chat in zip(found, chats, strict=True):
        assert isinstance(record, Record), record
        told = [m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in chat["messages"]]
        assert [message["content"] for message in record.chat.messages] == told
        (again,) = read(record.chat.to_json())
        assert isinstance(again, Record)
        assert again.chat.messages == record.chat.messages


@given(st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"\\u0022"']), JSON_VALUES), max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_key_that_stands_twice_is_always_found(pairs: list[tuple[str, Any]]) -> None:
    def refuse_twice(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(found)) == len(found)
        return dict(found)

    text = "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in pairs) + "}"
    try:
        json.loads(text, object_pairs_hook=refuse_twice)
        stands_twice = False
    except AssertionError:
        stands_twice = True
    value = parse_text(Text(1, text.encode()))
    if not stands_twice:
        assert not (isinstance(value, Fault) and value.reason == "KEY_REPEATED")
    else:
        assert isinstance(value, Fault)  # or for another of its mistakes, as NaN


def test_lines_are_read_without_looking_into_them() -> None:
    assert list(Container(io.BytesIO(b"not json\nneither")).lines()) == [Text(1, b"not json"), Text(2, b"neither")]


def test_the_limit_of_a_line_is_what_the_documentation_says() -> None:
    assert MAX_RECORD_BYTES == 10_000_000
