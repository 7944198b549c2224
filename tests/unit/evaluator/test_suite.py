"""A suite is refused with every mistake at once, and named by what it asks."""

import json
from dataclasses import replace

import pytest

from services.evaluator.scoring.criteria import Bleu, Chrf, Classification, Criterion, ExactMatch, Rouge, Unset
from services.evaluator.suite import Part, Prompt, Questions, Suite, labels_of
from services.evaluator.suite_checks import check, check_over

ARTIFACT = {"key": "datasets/t", "size_bytes": 1, "sha256": "0" * 64}
NONE = Part(0, {})
LABEL_COUNTS = {"positive": 500, "negative": 300, "neutral": 200}
QUESTIONS = Questions("d" * 64, Part(800, ARTIFACT), Part(100, ARTIFACT), Part(100, ARTIFACT), LABEL_COUNTS)
FREE_TEXT = replace(QUESTIONS, label_counts={})
ASKED = Suite(
    name="",
    dataset="projects/default/datasets/ds-1",
    prompts=(Prompt("zero-shot", "GENERATE"), Prompt("few-shot", "GENERATE", shots=6), Prompt("label-scored", "SCORE_LABELS")),
    max_tokens=0,
)


def reasons(suite: Suite, questions: Questions = QUESTIONS) -> set[tuple[str, str]]:
    found = check(suite) + check_over(suite.over(questions), questions.label_counts)
    return {(violation.field, violation.reason) for violation in found}


def test_what_a_suite_leaves_open_is_taken_from_its_dataset() -> None:
    whole = ASKED.over(QUESTIONS)
    assert (whole.labels, whole.max_tokens) == (("negative", "neutral", "positive"), 32)
    assert whole.criteria == (Classification(), ExactMatch())
    assert (whole.part, whole.deciding_metric) == ("TEST", "accuracy")
    assert reasons(ASKED) == set()


def test_of_several_spellings_of_a_label_the_commonest_stands() -> None:
    assert labels_of({"Yes": 3, "yes.": 9, "no": 4}) == ("no", "yes.")


def test_every_mistake_of_a_suite_is_told_at_once() -> None:
    prompts = (
        Prompt("Zero Shot", "GENERATE"),
        Prompt("a", "", shots=33),
        Prompt("a", "SCORE_LABELS", shots=4),
        Prompt("majority", "GENERATE"),
    )
    assert reasons(replace(ASKED, prompts=prompts, labels=("positive", "Positive.", ""), max_tokens=2000)) == {
        ("suite.prompts[0].id", "MALFORMED"),
        ("suite.prompts[1].method", "REQUIRED"),
        ("suite.prompts[1].shots", "OUT_OF_RANGE"),
        ("suite.prompts[2].id", "REPEATED"),
        ("suite.prompts[2].shots", "SHOTS_UNEQUAL"),
        ("suite.prompts[3].id", "MALFORMED"),
        ("suite.labels[1]", "REPEATED"),
        ("suite.labels[2]", "MALFORMED"),
        ("suite.labels", "LABEL_MISSING"),
        ("suite.max_tokens", "OUT_OF_RANGE"),
    }


def test_a_suite_needs_prompts() -> None:
    assert reasons(replace(ASKED, prompts=())) == {("suite.prompts", "OUT_OF_RANGE")}


def test_label_scoring_is_refused_where_there_are_no_labels() -> None:
    assert reasons(ASKED, FREE_TEXT) == {("suite.prompts[2].method", "LABELS_NEEDED")}
    assert ASKED.over(FREE_TEXT).labels == ()
    assert ASKED.over(FREE_TEXT).criteria == (ExactMatch(),)


def test_labels_are_not_asked_of_free_text() -> None:
    asked = replace(ASKED, prompts=ASKED.prompts[:1], criteria=(Chrf(), Classification()))
    assert reasons(asked, FREE_TEXT) == {("suite.criteria", "LABELS_NEEDED")}


def test_labels_without_classification_and_criteria_that_say_nothing_or_stand_twice_are_refused() -> None:
    asked = replace(ASKED, prompts=ASKED.prompts[:1], labels=("yes", "no"), criteria=(Bleu("spm"), Unset(), Rouge(), Bleu()))
    assert reasons(asked, FREE_TEXT) == {
        ("suite.labels", "LABELS_UNUSED"),
        ("suite.criteria[0].bleu.tokenizer", "UNKNOWN_TOKENIZER"),
        ("suite.criteria[1]", "REQUIRED"),
        ("suite.criteria[3]", "REPEATED"),
    }


def test_a_template_names_the_question_and_no_variable_that_is_not_known() -> None:
    prompts = (
        Prompt("a", "GENERATE", template="Review: {{ question }} Say one of {{labels}}."),
        Prompt("b", "GENERATE", instruction="You are {{persona}}.", template="{{ quesion }} {{cls}}"),
        Prompt("c", "GENERATE", template="x" * 10_001),
    )
    found = check(replace(ASKED, prompts=prompts))
    assert [(violation.field, violation.reason) for violation in found] == [
        ("suite.prompts[1].instruction", "UNKNOWN_VARIABLE"),
        ("suite.prompts[1].template", "UNKNOWN_VARIABLE"),
        ("suite.prompts[1].template", "QUESTION_MISSING"),
        ("suite.prompts[2].template", "TOO_LONG"),
        ("suite.prompts[2].template", "QUESTION_MISSING"),
    ]
    assert found[1].description == "There is no variable {{quesion}}, {{cls}}; there are {{question}}, {{system}}, {{labels}}."
    assert reasons(replace(ASKED, prompts=prompts[:1]), FREE_TEXT) == {("suite.prompts[0]", "LABELS_NEEDED")}


def test_a_dataset_that_holds_nothing_out_can_not_be_asked() -> None:
    assert reasons(ASKED, replace(QUESTIONS, test=NONE)) == {("suite.dataset", "NO_TEST_ROWS")}
    assert reasons(replace(ASKED, part="VALIDATION"), replace(QUESTIONS, validation=NONE)) == {
        ("suite.part", "NO_VALIDATION_ROWS")
    }
    assert reasons(replace(ASKED, part="")) >= {("suite.part", "UNKNOWN_PART")}


def test_more_examples_than_there_are_training_rows_are_refused() -> None:
    assert reasons(ASKED, replace(QUESTIONS, train=Part(5, ARTIFACT))) == {("suite.prompts[1].shots", "TOO_FEW_ROWS")}


def test_rows_that_choose_are_asked_where_there_is_something_to_choose_and_never_decide() -> None:
    whole = ASKED.over(replace(QUESTIONS, validation=Part(40, ARTIFACT)))
    assert (whole.asked.row_count, whole.choosing.row_count) == (100, 40)
    assert [whole.question_count(prompts) for prompts in (1, 3)] == [140, 420]  # one prompt, and the constant answer beside it
    free = replace(ASKED, criteria=(Chrf(),)).over(replace(FREE_TEXT, validation=Part(40, ARTIFACT)))
    assert [free.question_count(prompts) for prompts in (1, 3)] == [100, 420]
    few = replace(whole, validation=Part(29, ARTIFACT))
    assert (few.choosing.row_count, few.question_count(3)) == (0, 300)
    asked = replace(whole, part="VALIDATION")
    assert (asked.asked.row_count, asked.choosing.row_count, asked.question_count(3)) == (40, 0, 120)


def test_the_digest_covers_questions_and_scoring_but_not_the_name() -> None:
    whole = ASKED.over(QUESTIONS)
    assert replace(whole, name="projects/x/suites/y").digest == whole.digest
    changes = [
        replace(whole, dataset_digest="e" * 64),
        replace(whole, labels=whole.labels[::-1]),
        replace(whole, max_tokens=33),
        replace(whole, prompts=whole.prompts[::-1]),
        replace(whole, prompts=(replace(whole.prompts[0], seed=1), *whole.prompts[1:])),
        replace(whole, prompts=(replace(whole.prompts[0], template="{{question}}"), *whole.prompts[1:])),
        replace(whole, criteria=whole.criteria[::-1]),
        replace(whole, criteria=(Classification(), ExactMatch(keep_case=True))),
        replace(whole, part="VALIDATION"),
    ]
    assert len({whole.digest, *(change.digest for change in changes)}) == 10


def test_a_suite_survives_being_stored() -> None:
    criteria: tuple[Criterion, ...] = (
        Rouge(unicode=True),
        Bleu("zh"),
        Chrf(words=True),
        ExactMatch(drop_articles=True),
        Classification(),
    )
    whole = replace(ASKED, criteria=criteria).over(QUESTIONS)
    assert Suite.from_document(json.loads(json.dumps(whole.to_document()))) == whole
    assert Suite.from_document(whole.to_document()).digest == whole.digest


def test_a_suite_from_before_there_were_criteria_is_scored_as_it_was() -> None:
    document = ASKED.over(QUESTIONS).to_document()
    for field in ("criteria", "part", "validation"):
        del document[field]
    for prompt in document["prompts"]:
        del prompt["instruction"], prompt["template"]
    old = Suite.from_document(document)
    assert (old.criteria, old.part, old.choosing) == ((Classification(), ExactMatch()), "TEST", NONE)
    assert Suite.from_document({**document, "labels": []}).criteria == (ExactMatch(),)


@pytest.mark.parametrize("labels", [("only",), tuple(map(str, range(65)))])
def test_one_label_or_more_than_sixty_four_are_refused(labels: tuple[str, ...]) -> None:
    assert ("suite.labels", "OUT_OF_RANGE") in reasons(replace(ASKED, labels=labels))
