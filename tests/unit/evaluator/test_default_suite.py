"""How a dataset's answers decide how they are scored, and which rows of many are asked."""

import json
from dataclasses import replace

import pytest

from services.evaluator.default_suite import answers_of, criteria_for, default_suite
from services.evaluator.sample import sample
from services.evaluator.suite import Part, Questions
from tests.builders import chat, jsonl

NONE = Part(0, {})
QUESTIONS = Questions("d" * 64, NONE, NONE, Part(10, {"key": "k"}), {})
SENTENCE = "It is the river that flows through the town and into the sea."


def kinds(answers: list[str], labels: tuple[str, ...] = ()) -> list[str]:
    return [criterion.kind for criterion in criteria_for(answers, labels)]


@pytest.mark.parametrize(
    ("answers", "labels", "first"),
    [
        (["yes", "No.", "yes"], ("no", "yes"), "classification"),
        (["yes", "maybe"], ("no", "yes"), "exact_match"),  # an answer that is no label
        (["yes", "yes"], ("yes",), "exact_match"),  # one label is no choice
        (["Paris", "the Seine", "42"], (), "exact_match"),
        (['{"a": 1}', "[1, 2]"], (), "exact_match"),
        ([SENTENCE, "Paris"], (), "chrf"),
        (["Paris"] * 9 + [SENTENCE], (), "exact_match"),  # nine of ten decide
        (["Paris"] * 8 + [SENTENCE] * 2, (), "chrf"),
        (["這是一個很長的回答" * 6], (), "chrf"),  # no spaces, and long all the same
        ([], (), "chrf"),
    ],
)
def test_answers_decide_how_they_are_scored(answers: list[str], labels: tuple[str, ...], first: str) -> None:
    assert kinds(answers, labels)[0] == first


def test_json_is_compared_with_its_case_and_text_without() -> None:
    (strict, _), (folded, _) = criteria_for(['{"City": "Paris"}'], ()), criteria_for(["Paris"], ())
    assert (strict.keep_case, folded.keep_case) == (True, False)  # type: ignore[union-attr]


@pytest.mark.parametrize(("answer", "max_tokens"), [("yes", 32), ("a" * 200, 100), ("b" * 9000, 256), ("這" * 60, 90)])
def test_answers_get_the_room_that_they_need_between_a_sentence_and_a_paragraph(answer: str, max_tokens: int) -> None:
    assert default_suite("projects/p/datasets/ds", QUESTIONS, [answer] * 10).max_tokens == max_tokens


def test_validation_rows_of_another_file_that_answer_otherwise_make_no_labels() -> None:
    labelled = replace(QUESTIONS, label_counts={"yes": 9, "no": 9})
    kinds_for = {
        choosing: default_suite("projects/p/datasets/ds", labelled, ["yes", "no"], choosing).criteria[0].kind
        for choosing in (("no", "yes"), ("no", "perhaps"), ("",))
    }
    assert list(kinds_for.values()) == ["classification", "exact_match", "exact_match"]


def test_what_rows_answer_is_their_last_text() -> None:
    assert answers_of(jsonl([chat("a", "b"), chat("c", " d "), chat("e", " ")]).splitlines()) == ["b", " d ", ""]


def test_the_same_rows_are_asked_every_time_and_no_more_than_wanted() -> None:
    chosen = sample(1000, 400)
    assert (len(chosen), chosen) == (400, sample(1000, 400))
    assert chosen <= set(range(1000))
    assert sample(10, 0) == sample(10, 400) == set(range(10))
    # Spread over the whole file: each quarter has about a hundred (binomial, five standard deviations).
    assert all(56 <= sum(place // 250 == quarter for place in chosen) <= 144 for quarter in range(4))
    assert json.dumps(sorted(sample(5, 2))) == json.dumps(sorted(sample(5, 2)))
