"""Every way in which a suite can be wrong, alone and over its dataset; each with what to do about it."""

from collections.abc import Iterator, Mapping, Sequence

from services.common.errors import Violation
from services.common.names import LOWER_ID
from services.evaluator.scoring.answers import MAJORITY
from services.evaluator.scoring.criteria import TOKENIZERS, Bleu, Criterion, Unset
from services.evaluator.scoring.exact import fold
from services.evaluator.suite import DEFAULT_MAX_TOKENS, GENERATE, SCORE_LABELS, TEST, VALIDATION, Prompt, Suite
from services.evaluator.template import VARIABLES, variables_of

MAX_PROMPTS, MAX_SHOTS, MAX_LABELS, MAX_LABEL_CHARACTERS, MAX_TEXT_CHARACTERS = 16, 32, 64, 200, 10_000
LARGEST_MAX_TOKENS = 1024
LARGEST_MAX_ITEMS = 1_000_000
FREE_TEXT = "exact_match, bleu, chrf or rouge"


def check(asked: Suite) -> list[Violation]:
    """Return every mistake that shows without the dataset."""
    violations = []
    if not 1 <= len(asked.prompts) <= MAX_PROMPTS:
        violations.append(Violation("suite.prompts", "OUT_OF_RANGE", f"Give 1 to {MAX_PROMPTS} prompts."))
    ids = [prompt.id for prompt in asked.prompts]
    for index, prompt in enumerate(asked.prompts):
        violations += _check_prompt(f"suite.prompts[{index}]", prompt, is_repeated=ids.index(prompt.id) < index)
    if not 0 <= asked.max_tokens <= LARGEST_MAX_TOKENS:
        text = f"max_tokens is 0 to {LARGEST_MAX_TOKENS}; 0 means {DEFAULT_MAX_TOKENS}."
        violations.append(Violation("suite.max_tokens", "OUT_OF_RANGE", text))
    if not 0 <= asked.max_items <= LARGEST_MAX_ITEMS:
        text = f"max_items is 0 to {LARGEST_MAX_ITEMS}; 0 means all rows."
        violations.append(Violation("suite.max_items", "OUT_OF_RANGE", text))
    if asked.part not in (TEST, VALIDATION):
        violations.append(Violation("suite.part", "UNKNOWN_PART", "Choose PART_TEST or PART_VALIDATION."))
    return [*violations, *_check_labels(asked), *_check_criteria(asked.criteria)]


def check_over(suite: Suite, label_counts: Mapping[str, int]) -> list[Violation]:
    """Return every mistake of a completed suite that its dataset reveals."""
    violations = list(_check_part(suite))
    known = {fold(label) for label in suite.labels}
    if suite.is_classification and not suite.labels:
        text = f"The dataset's answers are free text, not labels; name the labels, or score by {FREE_TEXT}."
        violations.append(Violation("suite.criteria", "LABELS_NEEDED", text))
    missing = [label for label in sorted(label_counts) if fold(label) not in known]
    if suite.is_classification and suite.labels and missing:
        text = f"The dataset's rows are also answered {', '.join(missing)}; add that to labels."
        violations.append(Violation("suite.labels", "LABEL_MISSING", text))
    for index, prompt in enumerate(suite.prompts):
        violations += _check_prompt_over(f"suite.prompts[{index}]", prompt, suite)
    return violations


def _check_part(suite: Suite) -> Iterator[Violation]:
    if suite.asked.row_count:
        return
    if suite.part == VALIDATION:
        text = "The dataset has no validation rows; ask PART_TEST, or make the dataset with a validation_fraction."
        yield Violation("suite.part", "NO_VALIDATION_ROWS", text)
        return
    text = "The dataset holds no test rows out, so there is nothing to ask; make it with a test_fraction, of at least 50 rows"
    text += ", or ask PART_VALIDATION." if suite.validation.row_count else "."
    yield Violation("suite.dataset", "NO_TEST_ROWS", text)


def _check_prompt(path: str, prompt: Prompt, *, is_repeated: bool) -> Iterator[Violation]:
    if not LOWER_ID.fullmatch(prompt.id) or prompt.id == MAJORITY:
        text = f"An id has 1 to 63 characters of a-z, 0-9 and -, and is not {MAJORITY}."
        yield Violation(f"{path}.id", "MALFORMED", text)
    elif is_repeated:
        yield Violation(f"{path}.id", "REPEATED", f"{prompt.id} stands in the suite twice; rename one.")
    if prompt.method not in (GENERATE, SCORE_LABELS):
        yield Violation(f"{path}.method", "REQUIRED", "Choose METHOD_GENERATE or METHOD_SCORE_LABELS.")
    if not 0 <= prompt.shots <= MAX_SHOTS:
        yield Violation(f"{path}.shots", "OUT_OF_RANGE", f"shots is 0 to {MAX_SHOTS}.")
    for name, text in (("instruction", prompt.instruction), ("template", prompt.template)):
        yield from _check_text(f"{path}.{name}", text)
    if prompt.template and "question" not in variables_of(prompt.template):
        told = "A template has to hold {{question}}, else every item asks the same."
        yield Violation(f"{path}.template", "QUESTION_MISSING", told)


def _check_text(path: str, text: str) -> Iterator[Violation]:
    if len(text) > MAX_TEXT_CHARACTERS:
        yield Violation(path, "TOO_LONG", f"It has {len(text)} characters; at most {MAX_TEXT_CHARACTERS}.")
    if unknown := [name for name in variables_of(text) if name not in VARIABLES]:
        known = ", ".join(f"{{{{{name}}}}}" for name in VARIABLES)
        told = f"There is no variable {', '.join(f'{{{{{name}}}}}' for name in unknown)}; there are {known}."
        yield Violation(path, "UNKNOWN_VARIABLE", told)


def _check_prompt_over(path: str, prompt: Prompt, suite: Suite) -> Iterator[Violation]:
    if prompt.method == SCORE_LABELS and len(suite.labels) < 2:
        text = (
            "Label scoring chooses among labels, and the suite has none; use METHOD_GENERATE, or add classification with labels."
        )
        yield Violation(f"{path}.method", "LABELS_NEEDED", text)
    if not suite.labels and "labels" in variables_of(prompt.instruction + prompt.template):
        yield Violation(path, "LABELS_NEEDED", "The suite has no labels to put in for {{labels}}; write them out, or leave it.")
    if suite.labels and 0 < prompt.shots <= MAX_SHOTS and prompt.shots % len(suite.labels):
        text = f"{prompt.shots} examples do not divide among {len(suite.labels)} labels; choose a multiple."
        yield Violation(f"{path}.shots", "SHOTS_UNEQUAL", text)
    elif 0 < prompt.shots <= MAX_SHOTS and prompt.shots > suite.train.row_count:
        text = f"{prompt.shots} examples were asked for and there are {suite.train.row_count} training rows; show fewer."
        yield Violation(f"{path}.shots", "TOO_FEW_ROWS", text)


def _check_criteria(criteria: Sequence[Criterion]) -> Iterator[Violation]:
    kinds = [criterion.kind for criterion in criteria]
    for index, criterion in enumerate(criteria):
        path = f"suite.criteria[{index}]"
        if isinstance(criterion, Unset):
            yield Violation(path, "REQUIRED", f"Choose classification, {FREE_TEXT}.")
        elif kinds.index(criterion.kind) < index:
            text = f"{criterion.kind} is among the criteria already; a suite has each kind once."
            yield Violation(path, "REPEATED", text)
        if isinstance(criterion, Bleu) and criterion.tokenizer not in TOKENIZERS:
            known = ", ".join(f"TOKENIZER_{name.upper()}" for name in TOKENIZERS)
            yield Violation(f"{path}.bleu.tokenizer", "UNKNOWN_TOKENIZER", f"Choose one of {known}.")


def _check_labels(asked: Suite) -> Iterator[Violation]:
    labels = asked.labels
    if labels and asked.criteria and not asked.is_classification:
        text = "Labels are for classification; add that criterion, or leave the labels out."
        yield Violation("suite.labels", "LABELS_UNUSED", text)
    if len(labels) == 1 or len(labels) > MAX_LABELS:
        yield Violation("suite.labels", "OUT_OF_RANGE", f"Give 2 to {MAX_LABELS} labels, or none.")
    folded = [fold(label) for label in labels]
    for index, label in enumerate(labels):
        path = f"suite.labels[{index}]"
        if not label.strip() or len(label) > MAX_LABEL_CHARACTERS:
            yield Violation(path, "MALFORMED", f"A label has 1 to {MAX_LABEL_CHARACTERS} characters.")
        elif folded.index(folded[index]) < index:
            text = f"{label!r} equals another label after folding case, space and final punctuation; drop one."
            yield Violation(path, "REPEATED", text)
