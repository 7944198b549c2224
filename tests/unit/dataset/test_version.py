"""A version of records: the same bytes are the same version, and a file is accepted or refused as a whole."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import InvalidInput
from services.common.ports.object_store import ObjectStore
from services.dataset.dataset import Dataset, DatasetPart, Split
from services.dataset.version import Refusal, make_version


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An object store in a folder."""
    return LocalObjectStore(tmp_path / "store")


def row(question: str, answer: str, **fields: Any) -> dict[str, Any]:
    """One chat."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **fields}


def rows(count: int) -> list[dict[str, Any]]:
    """Free-text chats that all differ."""
    return [row(f"question {i}", f"a rather long answer, number {i}") for i in range(count)]


def jsonl(values: list[dict[str, Any]]) -> bytes:
    """Chats as a file."""
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def version_of(store: ObjectStore, content: bytes, split: Split | None = None) -> Dataset:
    """Make a version of a file that is good."""
    made = make_version(store, store.put("files", io.BytesIO(content)), split or Split())
    assert isinstance(made, Dataset), made
    return made


def refusal_of(store: ObjectStore, content: bytes) -> Refusal:
    """Try to make a version of a file that is not."""
    refused = make_version(store, store.put("files", io.BytesIO(content)), Split())
    assert isinstance(refused, Refusal), refused
    return refused


def lines_of(store: ObjectStore, part: DatasetPart) -> list[dict[str, Any]]:
    """Read a part back."""
    assert part.artifact is not None
    lines = [json.loads(line) for line in store.read(part.artifact.key).splitlines()]
    assert len(lines) == part.row_count
    return lines


def warnings_of(made: Dataset) -> list[str]:
    """The reasons of a version's warnings."""
    return [warning.reason for warning in made.warnings]


def test_the_parts_hold_every_row_once_in_the_order_of_the_file(store: ObjectStore) -> None:
    written = rows(200)
    made = version_of(store, jsonl(written))
    parts = [lines_of(store, part) for part in (made.train, made.validation, made.test)]
    assert [len(part) for part in parts] == [160, 20, 20]
    order = {json.dumps(value): i for i, value in enumerate(written)}
    places = [[order[json.dumps(line)] for line in part] for part in parts]
    assert all(place == sorted(place) for place in places)
    assert sorted(place for part in places for place in part) == list(range(200))


def test_the_same_bytes_are_the_same_version(store: ObjectStore) -> None:
    assert version_of(store, jsonl(rows(60))) == version_of(store, jsonl(rows(60)))


def test_bytes_that_say_the_same_are_the_same_version(store: ObjectStore) -> None:
    spaced = "\n\n".join(json.dumps(value, indent=None, separators=(" , ", " : ")) for value in rows(60)).encode()
    assert version_of(store, b"\xef\xbb\xbf" + spaced).digest == version_of(store, jsonl(rows(60))).digest


@pytest.mark.parametrize("split", [Split(seed=1), Split(0.9, 0.1, 0.0), Split(0.8, 0.2, 0.0)])
def test_another_seed_or_other_fractions_are_another_version(store: ObjectStore, split: Split) -> None:
    assert version_of(store, jsonl(rows(60)), split).digest != version_of(store, jsonl(rows(60))).digest


def test_other_records_are_another_version(store: ObjectStore) -> None:
    assert version_of(store, jsonl(rows(60))).digest != version_of(store, jsonl(rows(61))).digest


def test_a_version_survives_being_written_down(store: ObjectStore) -> None:
    made = version_of(store, jsonl([row(f"q{i}", ["yes", "no"][i % 2], id=i) for i in range(30)]))
    assert Dataset.from_document(json.loads(json.dumps(made.to_document()))) == made


def test_its_name_begins_with_the_digest(store: ObjectStore) -> None:
    made = version_of(store, jsonl(rows(60)))
    assert made.name_in("shop") == f"projects/shop/datasets/ds-{made.digest[:24]}"


def test_labels_are_counted(store: ObjectStore) -> None:
    made = version_of(store, jsonl([row(f"q{i}", ["yes", "no", "yes"][i % 3]) for i in range(60)]))
    assert made.label_counts == {"no": 20, "yes": 40}
    assert version_of(store, jsonl(rows(60))).label_counts == {}


def test_an_empty_side_has_no_artifact(store: ObjectStore) -> None:
    made = version_of(store, jsonl(rows(60)), Split(0.9, 0.0, 0.1))
    assert made.validation == DatasetPart(0, None)
    assert made.row_count == 60


def test_under_50_rows_all_train_and_a_warning_says_so(store: ObjectStore) -> None:
    made = version_of(store, jsonl(rows(49)))
    assert (made.train.row_count, made.validation.row_count, made.test.row_count) == (49, 0, 0)
    assert warnings_of(made) == ["FEW_EXAMPLES", "NOTHING_HELD_OUT"]


def test_a_labelled_file_is_large_enough_from_50_rows_and_free_text_from_100(store: ObjectStore) -> None:
    labelled = [row(f"q{i}", ["yes", "no"][i % 2]) for i in range(50)]
    assert warnings_of(version_of(store, jsonl(labelled))) == []
    assert warnings_of(version_of(store, jsonl(rows(99)))) == ["FEW_EXAMPLES"]
    assert warnings_of(version_of(store, jsonl(rows(100)))) == []


def test_what_deserves_a_look_is_a_warning(store: ObjectStore) -> None:
    repeated = [row("Same?", "yes"), row("same", "yes")]
    labelled = [row(f"q{i}", ["yes", "Yes!", "no"][i % 3], source="a") for i in range(60)]
    made = version_of(store, jsonl(labelled + repeated))
    assert warnings_of(made) == ["ROWS_REPEATED", "FIELD_IGNORED", "LABELS_ALIKE"]
    assert "60 rows have the field source" in made.warnings[1].description


def test_a_single_label_is_a_warning(store: ObjectStore) -> None:
    assert warnings_of(version_of(store, jsonl([row(f"q{i}", "yes") for i in range(60)]))) == ["ONE_LABEL"]


@pytest.mark.parametrize(("count", "reason"), [(9, "TOO_FEW_EXAMPLES"), (1, "TOO_FEW_EXAMPLES"), (0, "FILE_EMPTY")])
def test_fewer_than_10_examples_are_refused(store: ObjectStore, count: int, reason: str) -> None:
    refused = refusal_of(store, jsonl(rows(count)) or b"\n")
    assert [violation.reason for violation in refused.violations] == [reason]
    assert refused.line_count == 0


def test_10_examples_are_enough(store: ObjectStore) -> None:
    assert version_of(store, jsonl(rows(10))).train.row_count == 10


def test_one_wrong_line_refuses_the_file_and_no_part_is_written(store: ObjectStore) -> None:
    refused = refusal_of(store, jsonl(rows(60)) + b"{\n")
    assert [(violation.field, violation.reason) for violation in refused.violations] == [("line 61", "JSON_INVALID")]
    assert list(store.list("datasets/")) == []


def test_50_violations_are_shown_and_all_of_them_are_listed(store: ObjectStore) -> None:
    wrong = json.dumps({"messages": [{"role": "bot", "content": "x"}, {"role": "user", "content": 1}]}).encode() + b"\n"
    refused = refusal_of(store, jsonl(rows(5)) + wrong * 70)
    assert (len(refused.violations), refused.violation_count, refused.line_count) == (50, 210, 70)
    listed = [json.loads(line) for line in store.read(refused.all_faults.key).splitlines()]
    assert len(listed) == 210
    assert [fault["line"] for fault in listed] == [6 + i // 3 for i in range(210)]
    assert {fault["reason"] for fault in listed} == {"ROLE_UNKNOWN", "CONTENT_INVALID", "LAST_NOT_ASSISTANT"}


def test_tools_and_turns_need_more_rows_than_a_question_and_an_answer(store: ObjectStore) -> None:
    turns = [
        {"messages": [*row(f"question {i}", "which one?")["messages"], *row("that", f"a long answer, number {i}")["messages"]]}
        for i in range(120)
    ]
    (warning,) = version_of(store, jsonl(turns)).warnings
    assert (warning.reason, "at least 500" in warning.description) == ("FEW_EXAMPLES", True)
    assert warnings_of(version_of(store, jsonl(turns[:40] + rows(81)))) == []


def test_training_rows_that_are_validation_rows_too_are_a_warning(store: ObjectStore) -> None:
    content = jsonl(rows(120))
    validation = store.put("files", io.BytesIO(jsonl(rows(5))))
    made = make_version(store, store.put("files", io.BytesIO(content)), Split(0.9, 0.0, 0.1), validation=validation)
    assert isinstance(made, Dataset)
    assert [(warning.field, warning.reason) for warning in made.warnings] == [("validation_file", "VALIDATION_OVERLAPS")]
    assert "5 training rows" in made.warnings[0].description
    assert [lines_of(store, made.validation)[i] for i in range(5)] == rows(5)
    assert not [line for line in lines_of(store, made.test) if line in rows(5)]


def test_other_validation_rows_are_another_version(store: ObjectStore) -> None:
    upload = store.put("files", io.BytesIO(jsonl(rows(60))))
    digests = set()
    for count in (0, 5, 6):
        validation = store.put("files", io.BytesIO(jsonl(rows(count)))) if count else None
        made = make_version(store, upload, Split(0.9, 0.0, 0.1), validation=validation)
        assert isinstance(made, Dataset)
        digests.add(made.digest)
    assert len(digests) == 3


@pytest.mark.parametrize("content", [b"\n", b"[]", b" [ ] "])
def test_a_file_of_no_records_is_refused(store: ObjectStore, content: bytes) -> None:
    assert [violation.reason for violation in refusal_of(store, content).violations] == ["FILE_EMPTY"]


def test_a_split_that_leaves_no_row_to_train_is_refused(store: ObjectStore) -> None:
    with pytest.raises(InvalidInput, match="none would train"):
        version_of(store, jsonl(rows(60)), Split(0.001, 0.0, 0.999))


def test_tools_calls_names_and_weight_0_are_in_the_rows_that_train(store: ObjectStore) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Riga"}'}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    written = [
        {
            "messages": [
                {"role": "user", "content": f"Is day {i} warm in Riga?", "name": "ann"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": f"{i} degrees", "tool_call_id": "c1"},
                {"role": "assistant", "content": "Let me think.", "weight": 0},
                {"role": "assistant", "content": f"It has {i} degrees."},
            ],
            "tools": [tool],
        }
        for i in range(12)
    ]
    for content in (jsonl(written), json.dumps(written, indent=1).encode(), gzip.compress(jsonl(written))):
        assert lines_of(store, version_of(store, content).train) == written
