"""What deserves a look though the data were accepted."""

from collections import Counter
from collections.abc import Iterator, Mapping

from services.common.errors import Violation
from services.dataset.dataset import Split
from services.dataset.division import MIN_ROWS_TO_HOLD_OUT, Census, Division, fold

# Source: what practitioners' guides call the least for classification, for generation and for complex tasks.
FEW_ROWS_FOR_LABELS, FEW_ROWS_FOR_TEXT, FEW_ROWS_FOR_COMPLEX = 50, 100, 500


def warnings(
    census: Census, division: Division, split: Split, ignored: Mapping[str, int], *, goes_over_lines: bool
) -> Iterator[Violation]:
    """Yield everything about a version that its owner may want to change."""
    yield from _sizes(census, split)
    if goes_over_lines:
        told = "Objects go over several lines and were read so; other tools expect one a line: jq -c . FILE > NEW."
        yield Violation("file", "OBJECTS_OVER_LINES", told)
    if division.repeated_row_count:
        told = "repeat another row but for case, space and punctuation; repeats stay on one side of the split"
        yield Violation("file", "ROWS_REPEATED", f"{division.repeated_row_count} of {census.row_count} rows {told}.")
    if division.near_row_count:
        told = "share four fifths of their word 5-grams with another; such rows stay on one side of the split"
        yield Violation("file", "ROWS_NEAR", f"{division.near_row_count} of {census.row_count} rows {told}.")
    if division.given_row_count:
        told = "are equal or near to rows of the validation file; validation loss says less than it seems to, remove one of each"
        yield Violation("validation_file", "VALIDATION_OVERLAPS", f"{division.given_row_count} training rows {told}.")
    for name, count in sorted(ignored.items()):
        told = f"{count} rows have the field {name[:40]}, which nothing reads."
        yield Violation("file", "FIELD_IGNORED", told)
    yield from _labels(census.label_counts)


def _sizes(census: Census, split: Split) -> Iterator[Violation]:
    row_count = census.row_count
    few, kind = FEW_ROWS_FOR_TEXT, "free text"
    if census.has_labels:
        few, kind = FEW_ROWS_FOR_LABELS, "classification"
    if 2 * census.complex_row_count > row_count:
        few, kind = FEW_ROWS_FOR_COMPLEX, "complex tasks (tools, several turns)"
    if row_count < few:
        yield Violation("file", "FEW_EXAMPLES", f"{row_count} examples are few: for {kind} use at least {few}.")
    if row_count < MIN_ROWS_TO_HOLD_OUT and split.validation_fraction + split.test_fraction:
        told = f"Under {MIN_ROWS_TO_HOLD_OUT} examples nothing is held out: all train, and nothing can say how good the model is."
        yield Violation("split", "NOTHING_HELD_OUT", told)


def _labels(label_counts: Mapping[str, int]) -> Iterator[Violation]:
    spellings = Counter(fold(label) for label in label_counts)
    for folded, count in spellings.items():
        if count > 1:
            alike = [repr(label) for label in label_counts if fold(label) == folded]
            told = f"{', '.join(alike)} are counted as {count} labels; write one of them everywhere."
            yield Violation("file", "LABELS_ALIKE", told)
    if len(label_counts) == 1:
        told = "All answers are the same; a model learns to say nothing else."
        yield Violation("file", "ONE_LABEL", told)
