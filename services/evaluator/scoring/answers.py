"""What a model said, and what that means: the label, right or wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.evaluator.scoring.criteria import ExactMatch
from services.evaluator.scoring.exact import is_exact_match
from services.evaluator.scoring.labels import label_of

MAJORITY = "majority"  # the prompt's id in the score of always answering the commonest training label


@dataclass(frozen=True)
class Answer:
    """What a model said to one item.

    `reference` and `label` are labels where the suite has some; `is_exact` says that the whole answer is the reference;
    `finish_reason` is the server's ("stop", "length"), empty where labels were scored; `logprobs` are of labels, in nats.
    """

    item: int
    reference: str
    answer: str
    label: str | None
    is_right: bool
    is_exact: bool
    finish_reason: str = ""
    logprobs: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Way:
    """All answers of one model asked one way, in the order of the items. The majority class has no model."""

    model: str
    prompt: str
    answers: tuple[Answer, ...]


def judge(item: int, reference: str, answer: str, labels: Sequence[str], folded: ExactMatch, finish_reason: str = "") -> Answer:
    """Read one written answer: right where its label is the reference; without labels, where all of it is."""
    is_exact = is_exact_match(answer, reference, folded)
    label = label_of(answer, labels) if labels else None
    return Answer(item, reference, answer, label, label == reference if labels else is_exact, is_exact, finish_reason)


def judge_logprobs(item: int, reference: str, logprobs: Mapping[str, float]) -> Answer:
    """Take the likeliest label as the answer; of equals, the one told first.

    Servers compute in bfloat16, where logits of 16 and more are eighths: equals are no rarity. So tell the labels in the
    order of their frequency, and a tie goes to what is likelier beforehand, not to the alphabet.
    """
    label = max(logprobs, key=lambda one: logprobs[one])
    return Answer(item, reference, label, label, label == reference, label == reference, logprobs=dict(logprobs))
