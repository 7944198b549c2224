"""A suite is refused with every mistake at once, and named by what it asks."""

from dataclasses import replace

import pytest

from services.evaluator.suite import Part, Prompt, Questions, Suite, check, check_over, labels_of

ARTIFACT = {"key": "datasets/t", "size_bytes": 1, "sha256": "0" * 64}
QUESTIONS = Questions("d" * 64, Part(800, ARTIFACT), Part(100, ARTIFACT), {"positive": 500, "negative": 300, "neutral": 200})
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
    questions = replace(QUESTIONS, label_counts={})
    assert reasons(ASKED, questions) == {("suite.prompts[2].method", "LABELS_NEEDED")}
    assert ASKED.over(questions).labels == ()


def test_a_dataset_that_holds_nothing_out_can_not_be_asked() -> None:
    assert reasons(ASKED, replace(QUESTIONS, test=Part(0, {}))) == {("suite.dataset", "NO_TEST_ROWS")}


def test_the_digest_covers_questions_and_scoring_but_not_the_name() -> None:
    whole = ASKED.over(QUESTIONS)
    assert replace(whole, name="projects/x/suites/y").digest == whole.digest
    changes = [
        replace(whole, dataset_digest="e" * 64),
        replace(whole, labels=whole.labels[::-1]),
        replace(whole, max_tokens=33),
        replace(whole, prompts=whole.prompts[::-1]),
        replace(whole, prompts=(replace(whole.prompts[0], seed=1), *whole.prompts[1:])),
    ]
    assert len({whole.digest, *(change.digest for change in changes)}) == 6


def test_a_suite_survives_being_stored() -> None:
    whole = ASKED.over(QUESTIONS)
    assert Suite.from_document(whole.to_document()) == whole
    assert Suite.from_document(whole.to_document()).digest == whole.digest


@pytest.mark.parametrize("labels", [("only",), tuple(map(str, range(65)))])
def test_one_label_or_more_than_sixty_four_are_refused(labels: tuple[str, ...]) -> None:
    assert ("suite.labels", "OUT_OF_RANGE") in reasons(replace(ASKED, labels=labels))
