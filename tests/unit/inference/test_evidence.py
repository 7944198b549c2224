"""Evidence: when rows count as held out from a model, by its provenance and by what the evaluator has found."""

import pytest

from services.inference.clients import Evidence, Suite
from services.inference.evidence import seen_rows
from services.inference.model import Model

MODEL = "projects/p/models/m"
A, B = ({"name": f"projects/p/datasets/ds-{letter}", "digest": letter * 64} for letter in "ab")


@pytest.mark.parametrize(
    ("provenance", "finding", "words"),
    [
        ({"dataset": A}, "", ""),
        ({"dataset": A}, "SAME_SPLIT", ""),
        ({"dataset": A, "datasets": [A]}, "SAME_SPLIT", ""),
        ({"dataset": B}, "", "ds-b"),
        ({"dataset": B}, "SAME_SPLIT", "ds-b"),  # the evaluator is not believed where the provenance says otherwise
        ({"dataset": B}, "UNKNOWN", "ds-b"),
        ({"dataset": B}, "DISJOINT", ""),
        ({"dataset": A, "datasets": [A, B]}, "", "ds-a, projects/p/datasets/ds-b"),  # what it stands on was trained on others
        ({"dataset": A, "datasets": [A, B]}, "DISJOINT", ""),
        ({"dataset": A}, "OVERLAPS", "some of which are the same"),
        ({"dataset": B}, "OVERLAPS", "some of which are the same"),
        ({}, "", "names no dataset"),
        ({}, "SAME_SPLIT", "names no dataset"),
        ({"dataset": "ds-a"}, "", "names no dataset"),  # somebody else's manifest
        ({"dataset": {}, "datasets": None}, "", "names no dataset"),
        ({"dataset": 5, "datasets": 5}, "", "names no dataset"),
    ],
)
def test_rows_are_held_out_where_the_provenance_or_a_comparison_shows_it(
    provenance: dict[str, object], finding: str, words: str
) -> None:
    candidate = Model(MODEL, "ADAPTER", "d" * 64, "ft:x", "k", 1, provenance=provenance)
    held_out = {MODEL: finding} if finding else {}
    evidence = Evidence("e", "SUCCEEDED", "projects/p/suites/s", "e" * 64, {}, {}, (), held_out)
    told = seen_rows(candidate, evidence, Suite("e" * 64, (), str(A["name"]), str(A["digest"]), True))
    assert bool(told) == bool(words)
    assert words in told


def test_validation_rows_are_never_held_out() -> None:
    candidate = Model(MODEL, "ADAPTER", "d" * 64, "ft:x", "k", 1, provenance={"dataset": A})
    evidence = Evidence("e", "SUCCEEDED", "projects/p/suites/s", "e" * 64, {}, {}, (), {MODEL: "DISJOINT"})
    assert "validation rows" in seen_rows(candidate, evidence, Suite("e" * 64, (), str(A["name"]), str(A["digest"]), False))
