"""An evaluation moves forward only, and is refused with every mistake at once."""

from itertools import product

import pytest

from services.common.errors import InvalidInput, Violation, WrongState
from services.evaluator.evaluation import MOVES, Evaluation, Subject, check_subjects

SUBJECT = Subject("models/base", ("zero-shot",), "d" * 64, "tiny", {"manifest_key": "m", "digest": "d" * 64})


def evaluation(state: str = "PENDING") -> Evaluation:
    return Evaluation("projects/p/evaluations/eval-1", "projects/p/suites/s", "s" * 64, (SUBJECT,), ("a", "b"), 10, state)


@pytest.mark.parametrize(("state", "target"), product(MOVES, MOVES))
def test_only_legal_moves_are_made(state: str, target: str) -> None:
    if target in MOVES[state]:
        assert evaluation(state).move(target).state == target
    else:
        with pytest.raises(WrongState):
            evaluation(state).move(target)


def test_a_failure_keeps_its_reason_and_its_violations() -> None:
    violations = [Violation("test row 1", "REFERENCE_NOT_A_LABEL", "no")]
    failed = evaluation().fail(InvalidInput("rows", reason="REFERENCE_NOT_A_LABEL", violations=violations))
    assert (failed.state, failed.error["reason"], failed.error["kind"]) == ("FAILED", "REFERENCE_NOT_A_LABEL", "InvalidInput")
    assert failed.error["violations"][0]["field"] == "test row 1"


def test_an_evaluation_survives_being_stored() -> None:
    assert Evaluation.from_document(evaluation().to_document()) == evaluation()


def test_every_mistake_in_subjects_is_told_at_once() -> None:
    subjects = [Subject("", ()), Subject("models/a", ("x", "zero-shot")), Subject("models/a", ("zero-shot", "zero-shot"))]
    found = {(violation.field, violation.reason) for violation in check_subjects(subjects, ["zero-shot"])}
    assert found == {
        ("evaluation.subjects[0].model", "REQUIRED"),
        ("evaluation.subjects[1].prompts", "UNKNOWN_PROMPT"),
        ("evaluation.subjects[2].model", "REPEATED"),
        ("evaluation.subjects[2].prompts", "REPEATED"),
    }
    assert [violation.reason for violation in check_subjects([], ["zero-shot"])] == ["OUT_OF_RANGE"]
