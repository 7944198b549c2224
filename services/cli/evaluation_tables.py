"""What an evaluation found, as tables: scores with their intervals, comparisons, and who was taken for what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from afina.v1 import evaluation_pb2 as pb
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.cli.call import last
from services.cli.output import short, table

MAX_CONFUSION_LABELS = 12  # more do not fit beside one another
SHADES = ("", "on grey11", "on grey19", "on grey27", "on grey35", "on grey42")
CHOICES = {
    pb.Evaluation.CHOICE_VALIDATION: "✓ marks the prompt that was best on the validation rows; a model is judged by it.",
    pb.Evaluation.CHOICE_CLOSEST: "There are fewer than 30 validation rows, too few to choose: ✓ marks a model's first prompt, "
    "which judges it as a candidate; as champion it is compared by every prompt, and the closest comparison is shown.",
}


@dataclass(frozen=True)
class Row:
    """A comparison with one of its differences."""

    comparison: pb.Comparison
    metric: str
    effect: tuple[float, float, float]
    p_value: float
    test: str


def scores(evaluation: pb.Evaluation) -> Table:
    """Return a row for each model and prompt: the deciding metric with its interval, then the other metrics of all items."""
    deciding = evaluation.deciding_metric or "accuracy"
    others = list(dict.fromkeys(m.name for score in evaluation.scores for m in score.metrics if _is_shown(m, deciding)))
    return table(
        {
            "model": lambda s: last(s.model),
            "prompt": lambda s: f"{s.prompt} ✓" if s.is_chosen else s.prompt,
            deciding: lambda s: _percent(_number(s, deciding)[0]),
            "95% interval": lambda s: _interval(*_number(s, deciding)[1:]),
            **{name: _column(name) for name in others},
            "items": lambda s: s.item_count,
            "on validation": lambda s: _percent(s.validation.value) if s.HasField("validation") else "",
        },
        evaluation.scores,
    )


def labels(evaluation: pb.Evaluation) -> Table:
    """Return precision, recall and F1 of each label, with intervals, by the prompts that judge the models."""
    found = [(score, metric) for score in judging(evaluation) for metric in score.metrics if metric.label]
    keys = list(dict.fromkeys((score.model, metric.label) for score, metric in found))
    of = {(score.model, metric.label, metric.name): metric for score, metric in found}
    return table(
        {
            "model": lambda key: last(key[0]),
            "label": lambda key: key[1],
            "precision": lambda key: _with_interval(of[*key, "precision"]),
            "recall": lambda key: _with_interval(of[*key, "recall"]),
            "f1": lambda key: _with_interval(of[*key, "f1"]),
        },
        keys,
    )


def comparisons(evaluation: pb.Evaluation, *, in_full: bool) -> Table:
    """Return a row for each pair of models; `in_full`, one for each metric and test."""
    return table(
        {
            "candidate": lambda r: f"{last(r.comparison.candidate)} ({r.comparison.candidate_prompt})",
            "champion": lambda r: f"{last(r.comparison.champion)} ({r.comparison.champion_prompt})",
            "metric": lambda r: r.metric,
            "effect": lambda r: f"{r.effect[0]:+.1%}",
            "95% interval": lambda r: f"{r.effect[1]:+.1%} … {r.effect[2]:+.1%}",
            "p": lambda r: f"{r.p_value:.2g}",
            "test": lambda r: r.test,
        },
        list(_rows(evaluation, in_full=in_full)),
    )


def confusions(evaluation: pb.Evaluation) -> Iterator[RenderableType]:
    """Yield the confusion matrix of each model, by the prompt that judges it; none for very many labels."""
    if not 0 < len(evaluation.labels) <= MAX_CONFUSION_LABELS:
        return
    width = len(evaluation.labels) + 1
    for score in judging(evaluation):
        title = Text(f"{last(score.model)}, {score.prompt}: a row for what is right, a column for what was answered", style="dim")
        built = Table(box=None, pad_edge=False)
        built.add_column("", style="bold")
        for name in (*evaluation.labels, "no label"):
            built.add_column(name, justify="right", header_style="bold dim")
        for place, label in enumerate(evaluation.labels):
            counts = score.confusion[place * width : (place + 1) * width]
            built.add_row(Text(label), *_cells(counts, place))
        yield Group(title, built)


def judging(evaluation: pb.Evaluation) -> list[pb.Score]:
    """Return the scores by which models are judged; all, where an older evaluation does not say."""
    chosen = [score for score in evaluation.scores if score.is_chosen]
    return chosen or [score for score in evaluation.scores if score.model]


def _rows(evaluation: pb.Evaluation, *, in_full: bool) -> Iterator[Row]:
    for pair in evaluation.comparisons:
        if not pair.differences:
            effect = (pair.effect, pair.effect_low, pair.effect_high)
            yield Row(pair, evaluation.deciding_metric or "accuracy", effect, pair.p_value, "mcnemar")
        for difference in pair.differences if in_full else pair.differences[:1]:
            metric = difference.effect
            test = short(pb.Difference.Test.Name(difference.test)).lower().replace("_", " ")
            yield Row(pair, metric.name, (metric.value, metric.low, metric.high), difference.p_value, test)


def _cells(counts: Sequence[int], place: int) -> Iterator[Text]:
    """Yield the counts of a row, darker the more of the row they are; what is right is green."""
    total = max(1, sum(counts))
    for column, count in enumerate(counts):
        colour = "bold green" if column == place else "dim" if not count else ""
        yield Text(f" {count} ", style=f"{colour} {SHADES[count * (len(SHADES) - 1) // total]}".strip())


def _column(name: str) -> Callable[[pb.Score], str]:
    return lambda score: _percent(_number(score, name)[0])


def _number(score: pb.Score, name: str) -> tuple[float, float, float]:
    for metric in score.metrics:
        if metric.name == name and not metric.label:
            return metric.value, metric.low, metric.high
    return score.accuracy, score.accuracy_low, score.accuracy_high  # an older evaluation


def _is_shown(metric: pb.Metric, deciding: str) -> bool:
    return not metric.label and metric.name != deciding and not metric.name.endswith(("_precision", "_recall"))


def _with_interval(metric: pb.Metric) -> str:
    return f"{_percent(metric.value)} ({_interval(metric.low, metric.high)})"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _interval(low: float, high: float) -> str:
    return f"{low:.1%} … {high:.1%}"
