"""The ways to score answers that a suite can ask for, as data; see Criterion in proto/afina/v1/suite.proto."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ExactMatch:
    """Right where the whole answer equals the reference, after folding."""

    keep_case: bool = False
    keep_space: bool = False
    keep_final_punctuation: bool = False
    drop_punctuation: bool = False
    drop_articles: bool = False

    kind = "exact_match"
    deciding_metric = "exact_match"


@dataclass(frozen=True)
class Classification:
    """Right where the label named first is the reference."""

    kind = "classification"
    deciding_metric = "accuracy"


@dataclass(frozen=True)
class Bleu:
    """Graded by word n-grams of the whole corpus. `tokenizer` is one of sacrebleu's that need no download."""

    tokenizer: str = "13a"
    lowercase: bool = False

    kind = "bleu"
    deciding_metric = "bleu"


@dataclass(frozen=True)
class Chrf:
    """Graded by character n-grams of the whole corpus; with `words` it is chrF++."""

    words: bool = False
    lowercase: bool = False

    kind = "chrf"
    deciding_metric = "chrf"


@dataclass(frozen=True)
class Rouge:
    """Graded by words in common, item by item."""

    stemmer: bool = False
    unicode: bool = False

    kind = "rouge"
    deciding_metric = "rougeL"


@dataclass(frozen=True)
class Unset:
    """A criterion that says nothing; a suite with one is refused."""

    kind = ""
    deciding_metric = ""


Criterion = ExactMatch | Classification | Bleu | Chrf | Rouge | Unset

KINDS: dict[str, type[Criterion]] = {one.kind: one for one in (ExactMatch, Classification, Bleu, Chrf, Rouge)}
TOKENIZERS = ("13a", "intl", "zh", "char", "none")


def to_document(criterion: Criterion) -> dict[str, Any]:
    """Return a criterion as JSON."""
    return {"kind": criterion.kind, **asdict(criterion)}


def from_document(document: Mapping[str, Any]) -> Criterion:
    """Read a criterion from JSON. Raises: KeyError, TypeError (a kind or an option that is not known)."""
    options = dict(document)
    return KINDS[options.pop("kind")](**options)


def folding(criteria: Sequence[Criterion]) -> ExactMatch:
    """Return what an exact match folds: as the criterion says, or the default where none is among them."""
    return next((one for one in criteria if isinstance(one, ExactMatch)), ExactMatch())
