"""The report's plots: SVG that stands inside an HTML page, drawn by matplotlib without a display.

Colours are placeholders until the end, where each becomes a CSS variable, so that the page's light and dark themes reach
into the plots. Letters stay letters, so that they can be searched, selected and read aloud.
"""

import hashlib
import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.cli.output import duration, size
from services.cli.report import Phase, Report, ScoredPrompt

INK, LINE, TUNED, BASE, MUTED = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", TUNED: "var(--tuned)", BASE: "var(--base)", MUTED: "var(--muted)"}
ROLES = {"tuned": TUNED, "base": BASE, "majority": MUTED}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "afina",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def losses(report: Report) -> str:
    """Return the curves of training and validation loss over steps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.2))
        axes = figure.subplots()
        steps = [metric["step"] for metric in report.metrics]
        train = [metric["train_loss"] for metric in report.metrics]
        axes.plot(steps, train, color=BASE, linewidth=0.8, alpha=0.45, label="training, each step")
        axes.plot(steps, smooth(train), color=BASE, linewidth=2, label="training, smoothed")
        if report.validation:
            at = [point["step"] for point in report.validation]
            loss = [point["loss"] for point in report.validation]
            axes.plot(at, loss, color=TUNED, linewidth=2, marker="o", markersize=5, label="validation")
        axes.set_xlabel("step")
        axes.set_ylabel("loss per answer token, nats")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
        told = f"Training loss from {train[0]:.2f} to {smooth(train)[-1]:.2f} over {steps[-1]} steps." if train else "No steps."
        return _svg(figure, told)


def accuracies(report: Report) -> str:
    """Return the bars of every baseline and the tuned model, with their 95% intervals."""
    with matplotlib.rc_context(STYLE):
        scores = report.ranked
        figure = Figure(figsize=(9.6, 0.46 * len(scores) + 0.6))
        axes = figure.subplots()
        for i, score in enumerate(scores):
            axes.barh(i, score.accuracy, color=ROLES[score.role], height=0.62)
            reach = [[score.accuracy - score.low], [score.high - score.accuracy]]
            axes.errorbar(score.accuracy, i, xerr=reach, color=INK, capsize=4, linewidth=1.4)
            axes.text(score.high + 0.015, i, f"{score.accuracy:.1%}", va="center", weight=_weight(score))
        axes.set_yticks(range(len(scores)), [score.label for score in scores])
        axes.invert_yaxis()
        _percent(axes)
        told = "; ".join(f"{s.label} {s.accuracy:.1%} ({s.low:.1%} to {s.high:.1%})" for s in scores)
        return _svg(figure, f"Accuracy with 95% intervals: {told}.")


def confusion(score: ScoredPrompt, labels: Sequence[str]) -> str:
    """Return one confusion matrix; shade is the share of its row."""
    with matplotlib.rc_context(STYLE):
        matrix = score.matrix(len(labels))
        columns = [*labels, "no label"]
        figure = Figure(figsize=(4.4, 0.62 * len(labels) + 1.15))
        axes = figure.subplots()
        for y, row in enumerate(matrix):
            for x, count in enumerate(row):
                share = count / max(1, sum(row))
                axes.barh(y, 0.94, left=x - 0.47, height=0.9, color=ROLES[score.role], alpha=0.06 + 0.5 * share)
                axes.text(x, y, str(count), ha="center", va="center", weight="bold" if x == y else "normal")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("answer")
        axes.set_ylabel("people say")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        right = sum(row[i] for i, row in enumerate(matrix))
        return _svg(figure, f"Confusion matrix of {score.label}: {right} of {score.item_count} right.")


def times(phases: Sequence[Phase]) -> str:
    """Return a bar for the time of each phase."""
    return _lengths([p.name for p in phases], [p.duration_s for p in phases], [duration(p.duration_s) for p in phases], "Time")


def memory(memory_bytes: dict[str, int]) -> str:
    """Return a bar for the peak memory of each program."""
    ordered = sorted(memory_bytes.items(), key=lambda item: -item[1])
    return _lengths([name for name, _ in ordered], [float(b) for _, b in ordered], [size(b) for _, b in ordered], "Peak memory")


def smooth(values: Sequence[float], memory: float = 0.7) -> list[float]:
    """Return the exponential moving average, its start corrected. Source: Kingma & Ba, Adam (2014), section 3."""
    smoothed, mean = [], 0.0
    for i, value in enumerate(values, start=1):
        mean = memory * mean + (1 - memory) * value
        smoothed.append(mean / (1 - memory**i))
    return smoothed


def _lengths(names: Sequence[str], lengths: Sequence[float], told: Sequence[str], what: str) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 0.34 * len(names) + 0.3))
        axes = figure.subplots()
        longest = max([*lengths, 1e-9])
        axes.barh(range(len(names)), lengths, color=BASE, height=0.6)
        for i, text in enumerate(told):
            axes.text(lengths[i] + 0.02 * longest, i, text, va="center")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 1.3 * longest)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return _svg(figure, f"{what}: " + ", ".join(f"{name} {text}" for name, text in zip(names, told, strict=True)) + ".")


def _percent(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _weight(score: ScoredPrompt) -> str:
    return "bold" if score.role == "tuned" else "normal"


def _svg(figure: Figure, described: str) -> str:
    """Return a figure as an inline `<svg>`: themed, named for screen readers, without ids that could clash."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*">', "<g>", drawn)
    own = hashlib.sha256(described.encode()).hexdigest()[:8]
    drawn = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{own}-", drawn)
    box = re.search(r'viewBox="([^"]*)"', drawn)
    opening = f'<svg role="img" aria-label="{html.escape(described)}" viewBox="{box.group(1) if box else "0 0 100 100"}">'
    drawn = opening + drawn[drawn.index(">") + 1 :]
    for placeholder, variable in VARIABLES.items():
        drawn = drawn.replace(placeholder, variable)
    return drawn.strip()
