"""What a File may be called and what it is for."""

import pytest

from services.common.ports.object_store import Artifact
from services.dataset.file import File, metadata_violations


@pytest.mark.parametrize("name", ["reviews.jsonl", "Zoë's reviews (2).jsonl", "x" * 255, ".hidden"])
def test_a_plain_file_name_is_accepted(name: str) -> None:
    assert metadata_violations(name, "fine-tune") == []


@pytest.mark.parametrize("name", ["", "  ", "x" * 256, "../a", "a/b", "a\\b", "..", ".", "a\0b", "a\nb", "a\u202eb"])
def test_a_name_with_path_or_control_characters_is_refused(name: str) -> None:
    assert [violation.reason for violation in metadata_violations(name, "fine-tune")] == ["DISPLAY_NAME_INVALID"]


def test_all_mistakes_are_told_at_once() -> None:
    assert [violation.field for violation in metadata_violations("", "assistants")] == [
        "metadata.display_name",
        "metadata.purpose",
    ]


def test_a_file_survives_being_written_down() -> None:
    upload = File("a.jsonl", "fine-tune", Artifact("files/00", 3, "00"), "projects/p/datasets/ds-1")
    assert File.from_document(upload.to_document()) == upload
