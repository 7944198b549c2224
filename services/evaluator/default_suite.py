"""The suite that a dataset gets without anybody asking for one: its test rows in their own words, scored by what they answer.

What it asks is what production will ask, so a model is compared with its base as the two would be used. A base that is asked
well – with examples, by the labels' probabilities – may do better than here; a suite of one's own asks that.

How answers are scored is decided from a sample of them, by the first that fits:

    one of 2 to 64 labels                        the label that is named first, beside the constant answer
    JSON                                         equality, white space aside
    at most 5 words and 40 characters            equality, case, white space and final punctuation aside
    anything longer                              chrF, which grades what is nearly right

Most answers decide, nine of ten; one that is longer by accident changes nothing.
"""

import json
import math
from collections.abc import Iterable, Sequence

from services.common.errors import InvalidInput, Violation
from services.evaluator.scoring.criteria import Chrf, Classification, Criterion, ExactMatch
from services.evaluator.scoring.labels import label_for
from services.evaluator.suite import GENERATE, Prompt, Questions, Suite, labels_of
from services.evaluator.suite_checks import MAX_LABELS

MAX_ITEMS = 400  # a difference of 7 points is seen four times in five where one item in four differs
PROMPT = Prompt("zero-shot", GENERATE)
MOST = 0.9
SHORT_WORDS, SHORT_CHARACTERS = 5, 40
LEAST_TOKENS, MOST_TOKENS = 32, 256  # a base that talks before it answers gets a sentence; an essay is judged by its beginning
BYTES_PER_TOKEN = 2  # fewer than any tokenizer's mean, so that nearly all answers fit


def suite_id(dataset: str) -> str:
    """Return the id of a dataset's default suite."""
    return f"default-{dataset.rpartition('/')[2]}"


def default_suite(dataset: str, questions: Questions, answers: Sequence[str], choosing: Sequence[str] = ()) -> Suite:
    """Return the suite of a dataset whose test rows, and validation rows, answer so. Raises: InvalidInput (no text to compare).

    Validation rows of another file may be answered otherwise than the labels; then answers are not taken for labels.
    """
    if not all(answers):
        told = "Test rows end without a text (with the call of a tool, say), which no criterion scores; nothing is compared."
        raise InvalidInput(told, reason="ROW_WITHOUT_ANSWER", violations=[Violation("dataset", "ROW_WITHOUT_ANSWER", told)])
    labels = labels_of(questions.label_counts)
    if not all(label_for(answer, labels) for answer in choosing):
        labels = ()
    return Suite(
        name="",
        dataset=dataset,
        prompts=(PROMPT,),
        max_tokens=_max_tokens(answers),
        criteria=criteria_for(answers, labels),
        max_items=MAX_ITEMS,
    )


def criteria_for(answers: Sequence[str], labels: Sequence[str]) -> tuple[Criterion, ...]:
    """Return how such answers are scored; the first criterion decides."""
    if 2 <= len(labels) <= MAX_LABELS and all(label_for(answer, labels) for answer in answers):
        return (Classification(), ExactMatch())
    if _are_most(_is_json(answer) for answer in answers):
        return (ExactMatch(keep_case=True, keep_final_punctuation=True), Chrf())
    if _are_most(len(answer.split()) <= SHORT_WORDS and len(answer) <= SHORT_CHARACTERS for answer in answers):
        return (ExactMatch(), Chrf())
    return (Chrf(), ExactMatch())


def answers_of(lines: Iterable[bytes]) -> list[str]:
    """Return what rows answer; empty for one that ends without a text."""
    return [content if (content := json.loads(line)["messages"][-1].get("content") or "").strip() else "" for line in lines]


def _max_tokens(answers: Sequence[str]) -> int:
    lengths = sorted(len(answer.encode()) for answer in answers)
    usual = lengths[math.ceil(MOST * len(lengths)) - 1] if lengths else 0
    return max(LEAST_TOKENS, min(MOST_TOKENS, math.ceil(usual / BYTES_PER_TOKEN)))


def _are_most(found: Iterable[bool]) -> bool:
    answers = list(found)
    return sum(answers) >= MOST * len(answers) > 0


def _is_json(answer: str) -> bool:
    """Whether it is an object or a list; a number alone is a short answer."""
    try:
        return isinstance(json.loads(answer), dict | list)
    except ValueError:
        return False
