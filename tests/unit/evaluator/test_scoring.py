"""Answers are read as a person would read them, and counted as scikit-learn counts them."""

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from services.evaluator.scoring.classes import class_scores, confusion_of, macro_f1
from services.evaluator.scoring.labels import is_exact_match, label_for, label_of, normalise
from services.evaluator.scoring.score import (
    Answer,
    Way,
    by_frequency,
    compare,
    compare_all,
    judge,
    judge_logprobs,
    score,
)

LABELS = ("positive", "neutral", "negative")


def way(model: str, prompt: str, rights: str) -> Way:
    """Answers from a string: R is right, w is wrong."""
    answers = [Answer(i, "yes", "yes" if r == "R" else "no", "yes" if r == "R" else "no", r == "R") for i, r in enumerate(rights)]
    return Way(model, prompt, tuple(answers))


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
    assert is_exact_match("  Straße  Nord. ", "STRASSE nord")
    assert is_exact_match("Yes!!", "yes")
    assert not is_exact_match("yes, sir", "yes sir")
    assert not is_exact_match("3.14", "314")
    assert not is_exact_match("!", "?")
    assert normalise("...") == "..."


def test_a_reference_is_a_label_only_as_a_whole() -> None:
    assert label_for("Positive.", LABELS) == "positive"
    assert label_for("positive and more", LABELS) is None


def test_classes_are_counted_as_scikit_learn_counts_them() -> None:
    references = ["positive"] * 6 + ["neutral"] * 4 + ["negative"] * 5
    answered = ["positive", "positive", "neutral", None, "positive", "negative"]
    answered += ["neutral", "positive", None, "negative"] + ["negative", "negative", "positive", "negative", None]
    told = [label or "none" for label in answered]

    confusion = confusion_of(zip(references, answered, strict=True), LABELS)

    expected = confusion_matrix(references, told, labels=[*LABELS, "none"])[:3]
    assert [list(row) for row in confusion] == expected.tolist()
    precision, recall, f1, support = precision_recall_fscore_support(references, told, labels=list(LABELS), zero_division=0)
    scores = class_scores(confusion, LABELS)
    assert [one.precision for one in scores] == pytest.approx(precision)
    assert [one.recall for one in scores] == pytest.approx(recall)
    assert [one.f1 for one in scores] == pytest.approx(f1)
    assert [one.item_count for one in scores] == support.tolist()
    assert macro_f1(confusion, LABELS) == pytest.approx(f1.mean())


def test_a_label_that_is_never_asked_nor_answered_scores_zero_as_in_scikit_learn() -> None:
    confusion = confusion_of([("positive", "positive"), ("negative", "negative")], LABELS)
    expected = precision_recall_fscore_support(
        ["positive", "negative"], ["positive", "negative"], labels=list(LABELS), average="macro", zero_division=0
    )
    assert macro_f1(confusion, LABELS) == pytest.approx(expected[2])


def test_a_reference_that_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="is no label"):
        confusion_of([("great", "positive")], LABELS)


def test_a_score_holds_accuracy_exact_match_and_the_whole_confusion() -> None:
    written = ["Positive", "It is negative.", "dunno", "neutral"]
    references = ["positive", "negative", "neutral", "positive"]
    answers = tuple(judge(i, r, a, LABELS) for i, (r, a) in enumerate(zip(references, written, strict=True)))

    result = score(Way("models/base", "zero-shot", answers), LABELS)

    told = [answer.label or "none" for answer in answers]
    assert result.accuracy == accuracy_score(references, told) == 0.5
    assert result.exact_match == 0.25
    assert result.item_count == 4
    assert result.confusion == tuple(confusion_matrix(references, told, labels=[*LABELS, "none"])[:3].ravel())


def test_without_labels_an_answer_is_right_where_it_equals_the_reference() -> None:
    answers = (judge(0, "Paris", "paris.", ()), judge(1, "Rome", "It is Rome", ()))
    result = score(Way("models/base", "zero-shot", answers), ())
    assert (result.accuracy, result.exact_match, result.macro_f1, result.confusion) == (0.5, 0.5, 0.0, ())


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


def test_a_comparison_counts_what_only_one_got_right() -> None:
    champion = way("models/base", "few-shot", "RRRwwwwwww")
    candidate = way("models/new", "zero-shot", "wRRRRRRRRR")

    result = compare("models/base", [champion], candidate)

    assert (result.candidate_only_count, result.champion_only_count, result.item_count) == (7, 1, 10)
    assert result.effect == pytest.approx(0.6)
    assert result.p_value == pytest.approx(2 * (1 + 8) / 2**8)
    assert result.effect_low < result.effect < result.effect_high


def test_a_champion_is_defended_by_its_strongest_way_and_by_the_constant_answer() -> None:
    ways = [
        way("models/base", "zero-shot", "Rwww"),
        way("models/base", "few-shot", "RRww"),
        way("models/new", "zero-shot", "RRRw"),
        way("models/new", "few-shot", "RRRR"),
        way("", "majority", "wRRR"),
    ]
    forward, backward = compare_all(ways)
    assert (forward.champion, forward.champion_prompt) == ("models/base", "majority")
    assert (forward.candidate, forward.candidate_prompt) == ("models/new", "zero-shot")
    assert (backward.champion, backward.champion_prompt) == ("models/new", "few-shot")
    assert (backward.candidate, backward.candidate_prompt) == ("models/base", "zero-shot")


def test_models_that_answered_different_items_are_not_compared() -> None:
    champion = Way("a", "p", (Answer(0, "x", "x", "x", True),))
    candidate = Way("b", "p", (Answer(1, "x", "x", "x", True),))
    with pytest.raises(ValueError, match="same items"):
        compare("a", [champion], candidate)
