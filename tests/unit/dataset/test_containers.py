"""Arrays, objects over several lines and packed files hold the same records as lines do, and their mistakes have a place."""

import gzip
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.containers import ARRAY, LINES, OBJECTS, Container
from services.dataset.faults import Fault
from services.dataset.objects import MAX_RECORD_BYTES, Value

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | KEYS | st.just('{"messages": [}'),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=3),
    max_leaves=8,
)
OBJECTS_OF_ANY_KIND = st.lists(st.dictionaries(KEYS, JSON, max_size=4), min_size=1, max_size=6)


def read(content: bytes, max_unpacked_bytes: int = 1 << 30) -> tuple[str, list[Value | Fault]]:
    """Read a file from memory."""
    container = Container(io.BytesIO(content), max_unpacked_bytes)
    found = list(container.values())
    return container.kind, found


def values(content: bytes) -> list[dict[str, Any]]:
    """Return the values of a file that is good."""
    found = read(content)[1]
    assert not [fault for fault in found if isinstance(fault, Fault)], found
    return [value.value for value in found if isinstance(value, Value)]


def told(content: bytes) -> list[tuple[int, int | None, str]]:
    """Return line, column and reason of every fault of a file."""
    return [(found.line, found.column, found.reason) for found in read(content)[1] if isinstance(found, Fault)]


@given(OBJECTS_OF_ANY_KIND, st.sampled_from([None, 0, 1, 4]), st.booleans(), st.booleans(), st.sampled_from(["", "\n", " \r\n"]))
@settings(max_examples=80, deadline=None)
def test_however_good_objects_are_strung_together_they_are_read(
    objects: list[dict[str, Any]], indent: int | None, ascii_only: bool, is_packed: bool, space: str
) -> None:
    written = [json.dumps(one, indent=indent, ensure_ascii=ascii_only) for one in objects]
    forms = {
        "array": json.dumps(objects, indent=indent, ensure_ascii=ascii_only),
        "spaced array": f"{space}[{space}" + f"{space},{space}".join(written) + f"{space}]{space}",
        "lines": "\n".join(json.dumps(one, ensure_ascii=ascii_only) for one in objects),
        "one after the other": "\n".join(written),
    }
    for form, text in forms.items():
        content = gzip.compress(text.encode(), 1) if is_packed else text.encode()
        assert values(content) == objects, form


def test_objects_without_space_between_them_are_read_once_one_goes_over_lines() -> None:
    assert values(b'{\n"a": 1\n}{"a": 2} {\n"a": 3}') == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_the_kind_is_told() -> None:
    assert read(b'{"a": 1}\n{"a": 2}')[0] == LINES
    assert read(b'\n [{"a": 1}]')[0] == ARRAY
    assert read(b'{"a": 1}\n{"a":\n2}')[0] == OBJECTS


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        ('[{"a": 1}, {"a": tru}, {"a": 3}, {"a" 4}]', [(1, 18, "JSON_INVALID"), (1, 39, "JSON_INVALID")]),
        ('[\n  {"é": 1},\n  {"é": tru},\n  {"é": 3},\n  {"é" 4}\n]', [(3, 9, "JSON_INVALID"), (5, 8, "JSON_INVALID")]),
        ('[\n {"a": 1},\n {"a": {"b": 2},\n {"a": 3},\n {"a": x}]', [(3, 17, "JSON_INVALID"), (5, 8, "JSON_INVALID")]),
        ('[{"a": "é"}, {"a": "NaN", "b": NaN}]', [(1, 32, "NUMBER_INVALID")]),
        ('[{"a": 1}, 7, "x", {"a": 2, "a": 2}]', [(1, None, "RECORD_NOT_OBJECT")] * 2 + [(1, None, "KEY_REPEATED")]),
        ('[{"a": 1} {"a": 2}]', [(1, 11, "JSON_INVALID")]),
        ('[{"a": 1},]', [(1, 11, "JSON_INVALID")]),
        ('[{"a": 1},, {"a": 2}]', [(1, 11, "JSON_INVALID")]),
        ('[{"a": 1}\n', [(2, 1, "JSON_INVALID")]),
        ('[{"a": 1}] x', [(1, 12, "JSON_INVALID")]),
        ("[", [(2, 1, "JSON_INVALID")]),
        (f'[{{"a": {"1" * 5000}}}, {{"a": 1e999}}]', [(1, 8, "NUMBER_INVALID"), (1, 5017, "NUMBER_INVALID")]),
        (
            "[" + '{"a": ' + "[" * 100_000 + "]" * 100_000 + '}, {"a": 1}, {"a" 2}]',
            [(1, None, "JSON_TOO_DEEP"), (1, 200026, "JSON_INVALID")],
        ),
        ('{\n"a": 1\n}\n{\n"a": tru\n}\n{\n"a": 3\n}\n{\n"b": 1,\n}', [(5, 6, "JSON_INVALID"), (12, 1, "JSON_INVALID")]),
        ('{"a": 1}\n{"a": [\n{"a": 2}\n{"a": 3, "b": }', [(2, 8, "JSON_INVALID"), (4, 15, "JSON_INVALID")]),
        ('{\n"a": 1\n},\n{"a": 2}', [(3, 2, "JSON_INVALID")]),
        ('{"a": 1}\n{"a": "caf', [(2, 7, "JSON_INVALID")]),
    ],
)
def test_every_broken_record_has_its_line_and_the_column_where_json_broke(content: str, faults: list[Any]) -> None:
    assert told(content.encode()) == faults


def test_after_a_broken_record_the_good_ones_are_still_read() -> None:
    rows = [json.dumps({"messages": [{"role": "user", "content": f"{i} [{{"}], "id": i}, indent=2) for i in range(40)]
    rows[3] = rows[3].replace("]", "")
    rows[20] = rows[20].replace('"role": ', '"role" ')
    found = read(("[" + ",\n".join(rows) + "]").encode())[1]
    assert [one.value["id"] for one in found if isinstance(one, Value)] == [i for i in range(40) if i not in (3, 20)]
    assert len([one for one in found if isinstance(one, Fault)]) == 2


def test_many_broken_records_do_not_take_forever() -> None:
    content = b"[" + b'{"a": [,' * 20_000
    assert len(told(content)) >= 20_000
    unlike = b"[{" + b'"a": [,{' * 20_000
    assert told(unlike)


@pytest.mark.parametrize("before", [b"[", b'[{"a": 1}, ', b'{\n"a": 1}\n'])
def test_a_record_over_10_mb_is_refused_wherever_it_stands_and_the_next_is_read(before: bytes) -> None:
    giant = b'{"a": "' + b"x" * MAX_RECORD_BYTES + b'"}'
    after = b', {"a": 2}]' if before.startswith(b"[") else b'\n{"a": 2}'
    found = read(before + giant + after)[1]
    assert [one.reason for one in found if isinstance(one, Fault)] == ["LINE_TOO_LONG"]
    assert isinstance(found[-1], Value)
    assert found[-1].value == {"a": 2}


def test_a_small_file_that_unpacks_to_a_giant_is_refused_before_it_is_unpacked() -> None:
    bomb = gzip.compress((b'{"a": 1}' + b" " * 90 + b"\n") * 200_000)
    assert len(bomb) < 100_000
    tracemalloc.start()
    found = read(bomb, max_unpacked_bytes=1 << 20)[1]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found[-1], Fault)
    assert found[-1].reason == "FILE_TOO_LARGE"
    assert peak_bytes < 64 << 20  # the values that the test holds


@pytest.mark.parametrize("cut", [3, 12, 30, -5])
def test_a_packed_file_that_is_damaged_is_refused(cut: int) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 50)
    assert told(whole[:cut])[-1][2] == "FILE_DAMAGED"
    assert told(whole[:-8] + b"\0" * 8)[-1][2] == "FILE_DAMAGED"


def test_a_giant_array_is_read_in_constant_memory(tmp_path: Any) -> None:
    path = tmp_path / "array.json"
    row = b'{"messages": "' + b"x" * 10_000 + b'"}'
    for separator in (b",", b",\n"):
        path.write_bytes(b"[" + separator.join([row] * 3_000) + b"]")
        tracemalloc.start()
        with path.open("rb") as stream:
            count = sum(isinstance(value, Value) for value in Container(stream).values())
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 3_000
        assert peak_bytes < (40 << 20 if separator == b"," else 12 << 20)  # a line's limit, or some chunks


PIECES = st.sampled_from(
    [b"[", b"]", b"{", b"}", b'"a"', b":", b",", b"1", b"\n", b" ", b'{"a": 1}', b'"', b"\\", b"\xff", b"null"]
)


@given(st.lists(PIECES, max_size=30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_is_strung_together_ends_in_values_and_faults(pieces: list[bytes], is_packed: bool) -> None:
    content = b"".join(pieces)
    found = read(gzip.compress(content) if is_packed else content)[1]
    assert all(isinstance(one, Value | Fault) for one in found)
    lines = content.count(b"\n") + 1
    assert all(one.line <= lines + 1 for one in found)


@given(OBJECTS_OF_ANY_KIND, st.sampled_from([None, 2]), st.data())
@settings(max_examples=80, deadline=None)
def test_a_file_that_no_parser_takes_has_a_fault(objects: list[dict[str, Any]], indent: int | None, data: st.DataObject) -> None:
    text = json.dumps(objects, indent=indent)
    at = data.draw(st.integers(0, len(text) - 1))
    broken = text[:at] + data.draw(st.sampled_from(["", "}", "]", '"', ",", "x"])) + text[at + 1 :]
    try:
        is_good = isinstance(json.loads(broken), list)
    except ValueError:
        is_good = False
    found = read(broken.encode())[1]
    if not is_good:
        assert not found or any(isinstance(one, Fault) for one in found) or not broken.startswith("["), (broken, found)
