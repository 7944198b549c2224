"""The report on one page of a terminal."""

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from services.cli.output import duration, size
from services.cli.report import Report, significance, snippets, total_s

BAR_WIDTHS = (16, 32)  # of a terminal below and above a hundred columns
ROLE_STYLES = {"tuned": "green", "base": "blue", "majority": "bright_black"}


def show(out: Console, report: Report, page: str) -> None:
    """Print the whole report; `page` is where the HTML is. What is to be copied is never broken into lines."""
    out.print(render(report, BAR_WIDTHS[out.width >= 100]))
    for text in snippets(report):
        out.print(Text(text), soft_wrap=True)
        out.print()
    out.print(Text.assemble(("The same with plots: ", "bold"), page), soft_wrap=True)


def render(report: Report, bar_width: int = BAR_WIDTHS[0]) -> RenderableType:
    """Return the report up to the commands to copy."""
    return Group(
        _verdict(report),
        _heading("Accuracy on held-out reviews, with 95% intervals"),
        _scores(report, bar_width),
        _heading("Time per phase · peak memory per program"),
        _costs(report),
        *([_heading("Held-out reviews, asked through the endpoint"), _examples(report)] if report.examples else []),
        _heading("Call it"),
    )


def _verdict(report: Report) -> RenderableType:
    lines = [Text(report.headline, style="bold")]
    if report.comparison:
        lines.append(Text(significance(report.comparison)))
    if report.is_promoted:
        lines.append(Text(f"Endpoint {report.endpoint} answers with {report.model}.", style="green"))
    else:
        lines.append(Text(f"The gate refused: endpoint {report.endpoint} does not point to {report.model}.", style="bold red"))
    lines.append(Text(report.verdict, style="dim"))
    colour = "green" if report.is_promoted else "red"
    title = "promoted" if report.is_promoted else "refused by the gate"
    return Panel(Group(*lines), title=title, border_style=colour, padding=(0, 1))


def _scores(report: Report, bar_width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("asked", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("accuracy", "95% interval", "macro F1", "exact"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in report.ranked:
        table.add_row(
            Text(score.label, style="bold" if score.role == "tuned" else ""),
            _bar(score.low, score.accuracy, score.high, bar_width, ROLE_STYLES[score.role]),
            f"{score.accuracy:.1%}",
            f"{score.low:.1%} … {score.high:.1%}",
            f"{score.macro_f1:.3f}",
            f"{score.exact_match:.1%}",
        )
    return table


def _bar(low: float, middle: float, high: float, width: int, style: str) -> Text:
    """Return a bar up to the value, with the interval drawn as a line over its end."""
    bar = Text()
    for i in range(width):
        place = (i + 0.5) / width
        if low <= place <= high:
            bar.append("━" if place <= middle else "─", style=f"bold {style}")
        else:
            bar.append("█" if place < middle else " ", style=style)
    return bar


def _costs(report: Report) -> Table:
    phases = Table(box=None, pad_edge=False, show_header=False)
    phases.add_column()
    phases.add_column(justify="right", no_wrap=True)
    phases.add_column(style="dim")
    for phase in report.phases:
        note = " · ".join(word for word in (phase.note, "earlier run" if phase.is_reused else "") if word)
        phases.add_row(phase.name, duration(phase.duration_s), note)
    phases.add_row(Text("after downloads", style="bold"), Text(duration(total_s(report.phases)), style="bold"), "")
    memory = Table(box=None, pad_edge=False, show_header=False)
    memory.add_column()
    memory.add_column(justify="right", no_wrap=True)
    for program, peak in sorted(report.memory_bytes.items(), key=lambda item: -item[1]):
        memory.add_row(program, size(peak))
    both = Table.grid(padding=(0, 4))
    both.add_row(phases, memory)
    return both


def _examples(report: Report) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for example in report.examples:
        is_right = example.answer.strip().lower() == example.reference.strip().lower()
        mark = Text("✓", style="green") if is_right else Text(f"✗ people say {example.reference}", style="red")
        table.add_row(Text(example.answer.strip(), style="bold"), Text.assemble(example.question, "  ", mark))
    return table


def _heading(text: str) -> RenderableType:
    return Group(Text(), Rule(text, align="left", style="dim"))
