"""The demo's report as data: what was measured, from the baselines to the bytes; printed by `report_terminal`, written
as a page by `report_html`. It is plain values, so it is kept as JSON beside the page and can be read by programs.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MAJORITY = "majority"


@dataclass(frozen=True)
class ScoredPrompt:
    """What one model, asked one way, reached. `role` is base, tuned or majority; shares are 0..1."""

    role: str
    model: str
    prompt: str
    accuracy: float
    low: float
    high: float
    exact_match: float
    macro_f1: float
    item_count: int
    confusion: tuple[int, ...]

    @property
    def label(self) -> str:
        """How a person calls it."""
        if self.role == MAJORITY:
            return "majority class"
        return f"{'fine-tuned' if self.role == 'tuned' else self.role}, {self.prompt}"

    def matrix(self, label_count: int) -> list[list[int]]:
        """The confusion matrix, a row for each reference, with a last column for "no label"."""
        width = label_count + 1
        return [list(self.confusion[i * width : (i + 1) * width]) for i in range(label_count)]


@dataclass(frozen=True)
class Comparison:
    """The paired test between the tuned model and the best of all baselines."""

    champion: str
    candidate: str
    item_count: int
    candidate_only_count: int
    champion_only_count: int
    effect: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Phase:
    """A part of the main job and how long it took; `is_reused` where an earlier run did it."""

    name: str
    duration_s: float
    note: str = ""
    is_reused: bool = False


@dataclass(frozen=True)
class Example:
    """A held-out item, asked through the endpoint."""

    question: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Report:
    """Everything that the report says."""

    base: str
    model: str
    endpoint: str
    is_promoted: bool
    verdict: str
    gateway_url: str
    api_key_file: str
    create_time: str
    labels: tuple[str, ...]
    scores: tuple[ScoredPrompt, ...]
    comparison: Comparison | None
    metrics: tuple[dict[str, Any], ...]
    validation: tuple[dict[str, Any], ...]
    phases: tuple[Phase, ...]
    memory_bytes: dict[str, int]
    examples: tuple[Example, ...]
    prompt: str
    facts: dict[str, str] = field(default_factory=dict)
    is_chosen_on_validation: bool = False

    @property
    def tuned(self) -> ScoredPrompt:
        """The tuned model's score."""
        return next(score for score in self.scores if score.role == "tuned")

    @property
    def baselines(self) -> list[ScoredPrompt]:
        """What the tuned model has to beat, weakest first."""
        return sorted((score for score in self.scores if score.role != "tuned"), key=lambda score: score.accuracy)

    @property
    def best_baseline(self) -> ScoredPrompt:
        """The one that the paired test took, which was chosen on other rows; without a test the strongest."""
        champion = self.comparison.champion if self.comparison else ""
        return next((score for score in self.baselines if score.prompt == champion), self.baselines[-1])

    @property
    def ranked(self) -> list[ScoredPrompt]:
        """The tuned model, then what it has to beat, strongest first."""
        return [self.tuned, *reversed(self.baselines)]

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        tuned, best = self.tuned, self.best_baseline
        how = "the majority class" if best.role == MAJORITY else f"the best prompt of its base ({best.prompt})"
        how += ", chosen on validation rows," * self.is_chosen_on_validation
        return f"{tuned.accuracy:.1%} of {tuned.item_count} held-out reviews right, where {how} gets {best.accuracy:.1%}."

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def significance(comparison: Comparison) -> str:
    """Return the paired test in one sentence."""
    p = "p < 0.0001" if comparison.p_value < 0.0001 else f"p = {comparison.p_value:.2g}"
    return (
        f"{100 * comparison.effect:+.1f} points (95% interval {100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}; "
        f"exact McNemar {p}): of {comparison.item_count} items {comparison.candidate_only_count} only the fine-tuned model "
        f"got right, {comparison.champion_only_count} only the baseline."
    )


def snippets(report: Report) -> tuple[str, str]:
    """Return the curl command and the openai program that call the endpoint; the key stays in its file."""
    question = f"{report.prompt}\n\nThe battery lasts for days and the screen is gorgeous."
    body = json.dumps({"model": report.endpoint, "messages": [{"role": "user", "content": question}]}, ensure_ascii=False)
    curl = (
        f"curl {report.gateway_url}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer $(cat {_quoted(report.api_key_file)})" \\\n'
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d {_single_quoted(body)}"
    )
    python = (
        "from openai import OpenAI\n"
        f"client = OpenAI(base_url={report.gateway_url + '/v1'!r}, api_key=open({report.api_key_file!r}).read().strip())\n"
        f"messages = {[{'role': 'user', 'content': question}]!r}\n"
        f"answer = client.chat.completions.create(model={report.endpoint!r}, messages=messages)\n"
        "print(answer.choices[0].message.content)"
    )
    return curl, python


def total_s(phases: Sequence[Phase], *, without: str = "download") -> float:
    """Return the time of all phases but the downloads."""
    return sum(phase.duration_s for phase in phases if phase.name != without)


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`") + '"'


def _single_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
