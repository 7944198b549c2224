"""A model's result in one value: every metric with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.evaluator.bootstrap import percentile_interval
from services.evaluator.scoring.classes import Confusion, confusion_of
from services.evaluator.scoring.graded import Graded, Key
from services.evaluator.scoring.measured import Measured, share
from services.evaluator.statistics import wilson_interval

WILSON, BOOTSTRAP = "INTERVAL_WILSON", "INTERVAL_BOOTSTRAP"


@dataclass(frozen=True)
class Metric:
    """One number with its 95% interval; see Metric in proto/afina/v1/evaluation.proto."""

    name: str
    label: str
    value: float
    low: float
    high: float
    interval: str


@dataclass(frozen=True)
class Score:
    """What one model, asked one way, reached; see Score in proto/afina/v1/evaluation.proto."""

    model: str
    prompt: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    exact_match: float
    macro_f1: float
    item_count: int
    confusion: tuple[int, ...]
    metrics: tuple[Metric, ...]
    validation: Metric | None = None
    is_chosen: bool = False


def score(measured: Measured, validation: Measured | None = None, *, is_chosen: bool = False) -> Score:
    """Score one way of asking; `validation` is the same way on the rows that choose."""
    answers, labels = measured.way.answers, measured.labels
    confusion = confusion_of(((a.reference, a.label) for a in answers), labels) if labels else ()
    right = proportion("accuracy", [answer.is_right for answer in answers])
    return Score(
        model=measured.way.model,
        prompt=measured.way.prompt,
        accuracy=right.value,
        accuracy_low=right.low,
        accuracy_high=right.high,
        exact_match=share([answer.is_exact for answer in answers]),
        macro_f1=measured.value("macro_f1") if labels else 0.0,
        item_count=len(answers),
        confusion=tuple(count for row in confusion for count in row),
        metrics=tuple(metrics_of(measured, confusion)),
        validation=metric_of(validation, validation.deciding) if validation else None,
        is_chosen=is_chosen,
    )


def metrics_of(measured: Measured, confusion: Confusion) -> list[Metric]:
    """Return every metric; precision and recall of a label are shares, and have Wilson's interval."""
    found = [proportion(name, rights) for name, rights in measured.rights.items()]
    for place, label in enumerate(measured.labels):
        hits, column = confusion[place][place], [row[place] for row in confusion]
        found.append(_of_counts("precision", label, hits, sum(column)))
        found.append(_of_counts("recall", label, hits, sum(confusion[place])))
    for graded in measured.graded:
        found += [_resampled(graded, key) for key in graded.scores if key[0] not in ("precision", "recall")]
    return found


def metric_of(measured: Measured, name: str) -> Metric:
    """Return one metric of all items together."""
    if name in measured.rights:
        return proportion(name, measured.rights[name])
    return next(_resampled(graded, (name, "")) for graded in measured.graded if (name, "") in graded.scores)


def proportion(name: str, rights: Sequence[bool]) -> Metric:
    """Return the share of rights."""
    return _of_counts(name, "", sum(rights), len(rights))


def _of_counts(name: str, label: str, hits: int, total: int) -> Metric:
    return Metric(name, label, hits / total if total else 0.0, *wilson_interval(hits, total), WILSON)


def _resampled(graded: Graded, key: Key) -> Metric:
    return Metric(*key, graded.scores[key], *percentile_interval(graded.resampled[key]), BOOTSTRAP)
