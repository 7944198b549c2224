"""Answers are read as a person would read them, and counted as scikit-learn counts them."""

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from services.evaluator.scoring.answers import judge_logprobs
from services.evaluator.scoring.classes import confusion_of
from services.evaluator.scoring.criteria import Classification, ExactMatch
from services.evaluator.scoring.exact import fold, is_exact_match
from services.evaluator.scoring.labels import by_frequency, label_for, label_of
from services.evaluator.scoring.score import score
from services.evaluator.statistics import wilson_interval
from tests.unit.evaluator.ways import LABELS, written


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Positive.", "positive"),
        ("  NEGATIVE\n", "negative"),
        ("It is neutral, neither positive nor negative.", "neutral"),
        ("**negative**", "negative"),
        ("This is positively awful", None),
        ("non-negative", "negative"),
        ("snegative", None),
        ("", None),
        ("I can't say.", None),
    ],
)
def test_the_label_named_first_as_a_whole_word_is_the_answer(answer: str, label: str | None) -> None:
    assert label_of(answer, LABELS) == label


def test_of_labels_that_begin_together_the_longest_counts() -> None:
    assert label_of("Very  good indeed", ["very", "very good", "good"]) == "very good"
    assert label_of("good, very good", ["very", "very good", "good"]) == "good"


def test_labels_with_signs_in_them_are_found() -> None:
    assert label_of("Surely c++.", ["c", "c++", "c#"]) == "c++"
    assert label_of("Surely C#!", ["c++", "c#"]) == "c#"
    assert label_of("it is (a)", ["(a)", "(b)"]) == "(a)"


def test_case_space_and_final_punctuation_do_not_make_an_answer_wrong() -> None:
    folded = ExactMatch()
    assert is_exact_match("  Straße  Nord. ", "STRASSE nord", folded)
    assert is_exact_match("Yes!!", "yes", folded)
    assert not is_exact_match("yes, sir", "yes sir", folded)
    assert not is_exact_match("3.14", "314", folded)
    assert not is_exact_match("!", "?", folded)
    assert fold("...") == "..."


@pytest.mark.parametrize(
    ("folded", "answer", "reference"),
    [
        (ExactMatch(keep_case=True), "Paris.", "paris"),
        (ExactMatch(keep_space=True), "New  York", "New York"),
        (ExactMatch(keep_space=True), " Paris", "Paris"),
        (ExactMatch(keep_final_punctuation=True), "Paris.", "Paris"),
    ],
)
def test_what_is_kept_makes_an_answer_wrong(folded: ExactMatch, answer: str, reference: str) -> None:
    assert not is_exact_match(answer, reference, folded)
    assert is_exact_match(answer, reference, ExactMatch())


def test_an_answer_is_folded_as_squads_script_folds_it() -> None:
    """Source: `normalize_answer` of the SQuAD 1.1 evaluation: lower case, no punctuation, no articles, single spaces."""
    squad = ExactMatch(drop_punctuation=True, drop_articles=True)
    assert fold("The  Eiffel-Tower, a (tall) tower!", squad) == "eiffeltower tall tower"
    assert is_exact_match("An apple.", "apple", squad)
    assert not is_exact_match("Theory", "ory", squad)


def test_a_reference_is_a_label_only_as_a_whole() -> None:
    assert label_for("Positive.", LABELS) == "positive"
    assert label_for("positive and more", LABELS) is None


REFERENCES = ["positive"] * 6 + ["neutral"] * 4 + ["negative"] * 5
ANSWERED = ["positive", "positive", "neutral", "?", "positive", "negative"]
ANSWERED += ["neutral", "positive", "?", "negative"] + ["negative", "negative", "positive", "negative", "?"]


def test_classes_are_counted_as_scikit_learn_counts_them() -> None:
    result = score(written(ANSWERED, REFERENCES, Classification(), labels=LABELS))
    found = {(metric.name, metric.label): metric.value for metric in result.metrics}
    assert list(result.confusion) == confusion_matrix(REFERENCES, ANSWERED, labels=[*LABELS, "?"])[:3].ravel().tolist()
    assert result.accuracy == found["accuracy", ""] == accuracy_score(REFERENCES, ANSWERED)
    each = precision_recall_fscore_support(REFERENCES, ANSWERED, labels=list(LABELS), zero_division=0)
    for name, expected in zip(("precision", "recall", "f1"), each, strict=False):
        assert [found[name, label] for label in LABELS] == pytest.approx(expected)
    for average in ("macro", "weighted"):
        whole = precision_recall_fscore_support(REFERENCES, ANSWERED, labels=list(LABELS), average=average, zero_division=0)
        for name, number in zip(("precision", "recall", "f1"), whole, strict=False):
            assert found[f"{average}_{name}", ""] == pytest.approx(number)
    assert result.macro_f1 == found["macro_f1", ""]


def test_every_metric_of_classes_has_an_interval_around_it() -> None:
    result = score(written(ANSWERED * 10, REFERENCES * 10, Classification(), labels=LABELS))
    assert all(metric.low <= metric.value <= metric.high and metric.low < metric.high for metric in result.metrics)
    kinds = {(metric.name, metric.interval) for metric in result.metrics}
    assert {("accuracy", "INTERVAL_WILSON"), ("recall", "INTERVAL_WILSON"), ("macro_f1", "INTERVAL_BOOTSTRAP")} <= kinds
    recall = next(metric for metric in result.metrics if (metric.name, metric.label) == ("recall", "positive"))
    assert (recall.low, recall.high) == wilson_interval(30, 60)


def test_a_label_that_is_never_asked_nor_answered_scores_zero_as_in_scikit_learn() -> None:
    two = ["positive", "negative"]
    result = score(written(two, two, Classification(), labels=LABELS))
    expected = precision_recall_fscore_support(two, two, labels=list(LABELS), average="macro", zero_division=0)
    assert result.macro_f1 == pytest.approx(expected[2])


def test_a_reference_that_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="is no label"):
        confusion_of([("great", "positive")], LABELS)


def test_right_is_what_names_the_label_and_exact_what_says_nothing_else() -> None:
    answers = ["Positive", "It is negative.", "dunno", "neutral"]
    result = score(written(answers, ["positive", "negative", "neutral", "positive"], Classification(), labels=LABELS))
    assert (result.accuracy, result.exact_match, result.item_count) == (0.5, 0.25, 4)


def test_without_labels_an_answer_is_right_where_it_equals_the_reference() -> None:
    result = score(written(["paris.", "It is Rome"], ["Paris", "Rome"], ExactMatch()))
    assert (result.accuracy, result.exact_match, result.macro_f1, result.confusion) == (0.5, 0.5, 0.0, ())
    assert [(metric.name, metric.value) for metric in result.metrics] == [("exact_match", 0.5)]


def test_the_likeliest_label_is_the_answer() -> None:
    answer = judge_logprobs(3, "neutral", {"positive": -2.0, "neutral": -0.5, "negative": -3.0})
    assert (answer.label, answer.is_right, answer.item) == ("neutral", True, 3)


def test_of_equally_likely_labels_the_one_told_first_is_the_answer() -> None:
    tie = {"negative": -1.5202983617782593, "positive": -1.5202983617782593}
    assert judge_logprobs(0, "positive", tie).label == "negative"
    assert judge_logprobs(0, "positive", dict(reversed(tie.items()))).label == "positive"


def test_labels_are_ordered_by_how_often_training_rows_give_them() -> None:
    references = ["negative", "Neutral.", "neutral", "off topic", "off topic", "off topic"]
    assert by_frequency(references, LABELS) == ["neutral", "negative", "positive"]
    assert by_frequency(["negative", "neutral"], LABELS) == ["neutral", "negative", "positive"]
    assert by_frequency([], LABELS) == list(LABELS)
