"""The report as one HTML file that needs nothing else: no network, no scripts, plots inline, light and dark."""

import html
from collections.abc import Iterable, Sequence

from services.cli import plots
from services.cli.output import duration, size
from services.cli.report import Report, significance, snippets, total_s

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1d2430; --soft: #5a6475; --line: #d9dce3;
  --tuned: #16803c; --base: #2f66c4; --muted: #8a93a3; --bad: #b3261e; --code: #f1f2f5; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --card: #1c2028; --ink: #e7eaf0; --soft: #a3acbb;
  --line: #39404d; --tuned: #4cc27a; --base: #6f9ff0; --muted: #7d8797; --bad: #f2857d; --code: #12151a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
header p { margin: 0; color: var(--soft); }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.02em; margin: 4px 0 20px; text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
h3 { font-size: 0.95rem; margin: 0 0 6px; color: var(--soft); font-weight: 600; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; margin: 20px 0; }
.verdict { border-left: 6px solid var(--tuned); }
.verdict.refused { border-left-color: var(--bad); }
.verdict p { margin: 6px 0; }
.word { display: inline-block; font-weight: 700; color: var(--tuned); }
.refused .word { color: var(--bad); }
.numbers { display: flex; flex-wrap: wrap; gap: 12px 40px; margin: 14px 0 4px; }
.numbers div { min-width: 110px; }
.numbers b { display: block; font-size: 1.9rem; line-height: 1.15; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.numbers span { color: var(--soft); font-size: 0.88rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 20px 36px; }
.wide { display: flex; flex-wrap: wrap; gap: 20px 36px; align-items: start; }
.wide > figure { flex: 3 1 440px; } .wide > div { flex: 1 1 200px; }
.two > div { min-width: 0; }
svg { width: 100%; height: auto; display: block; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; margin-top: 10px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
tr:last-child > * { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr.tuned > * { font-weight: 700; }
tr.tuned > :first-child { color: var(--tuned); }
td.fact { overflow-wrap: anywhere; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  white-space: pre-wrap; overflow-wrap: anywhere;
  font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: 0 0 16px; }
blockquote { margin: 0 0 10px; padding: 0; }
.right { color: var(--tuned); font-weight: 700; } .wrong { color: var(--bad); font-weight: 700; }
.soft, figcaption { color: var(--soft); font-size: 0.9rem; }
figure { margin: 0; overflow-x: auto; }
figure.broad svg { min-width: 600px; }
th[scope="row"] { white-space: nowrap; }
"""


def render(report: Report) -> str:
    """Return the page."""
    title = f"{report.base}, fine-tuned on reviews"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Afina: {_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header><p>Afina · the main job, from data to endpoint · {_text(report.create_time)}</p><h1>{_text(title)}</h1></header>
{_verdict(report)}
{_accuracy(report)}
{_confusions(report)}
{_training(report)}
{_examples(report)}
{_call(report)}
{_costs(report)}
{_facts(report)}
</main>
</body>
</html>
"""


def _verdict(report: Report) -> str:
    tuned, best, comparison = report.tuned, report.best_baseline, report.comparison
    numbers = [
        (f"{tuned.accuracy:.1%}", "fine-tuned"),
        (f"{best.accuracy:.1%}", f"best baseline: {best.label}"),
    ]
    if comparison:
        numbers += [
            (f"{100 * comparison.effect:+.1f}", f"points, 95% {100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}"),
            ("< 0.0001" if comparison.p_value < 0.0001 else f"{comparison.p_value:.2g}", "p, exact McNemar test"),
        ]
    cells = "".join(f"<div><b>{_text(number)}</b><span>{_text(what)}</span></div>" for number, what in numbers)
    word = "Promoted." if report.is_promoted else "Refused by the gate."
    what = (
        f"Endpoint {report.endpoint} answers with {report.model}."
        if report.is_promoted
        else f"Endpoint {report.endpoint} does not point to {report.model}."
    )
    told = f"<p>{_text(significance(comparison))}</p>" if comparison else ""
    return f"""<section class="verdict{"" if report.is_promoted else " refused"}" aria-label="Verdict">
<p><span class="word">{word}</span> {_text(report.headline)}</p>
<div class="numbers">{cells}</div>
{told}
<p class="soft">{_text(what)} The gate: {_text(report.verdict)}</p>
</section>"""


def _accuracy(report: Report) -> str:
    rows = [
        [
            s.label,
            f"{s.accuracy:.1%}",
            f"{s.low:.1%} to {s.high:.1%}",
            f"{s.macro_f1:.3f}",
            f"{s.exact_match:.1%}",
            str(s.item_count),
        ]
        for s in report.ranked
    ]
    classes = ["tuned"] + [""] * len(report.baselines)
    table = _table(["asked", "accuracy", "95% interval", "macro F1", "exact match", "items"], rows, classes)
    return f"""<section>
<h2>Before and after</h2>
<figure class="broad">{plots.accuracies(report)}</figure>
<p class="soft">Accuracy on reviews that no training step saw. Lines are Wilson 95% intervals. The base is asked in every
way that could make it look good; the fine-tuned model answers the plain question.</p>
{table}
</section>"""


def _confusions(report: Report) -> str:
    shown = [report.tuned, *(s for s in reversed(report.baselines) if s.role == "base")][:2]
    figures = "".join(f"<div><h3>{_text(s.label)}</h3><figure>{plots.confusion(s, report.labels)}</figure></div>" for s in shown)
    return f"""<section>
<h2>What is taken for what</h2>
<div class="two">{figures}</div>
</section>"""


def _training(report: Report) -> str:
    rows = [[str(point["step"]), f"{point['loss']:.4f}"] for point in report.validation]
    table = _table(["step", "validation loss"], rows) if rows else ""
    return f"""<section>
<h2>Learning</h2>
<div class="wide"><figure>{plots.losses(report)}</figure><div>{table}</div></div>
</section>"""


def _examples(report: Report) -> str:
    if not report.examples:
        return ""
    told = []
    for example in report.examples:
        is_right = example.answer.strip().lower() == example.reference.strip().lower()
        people = "as people say" if is_right else f"people say {example.reference}"
        told.append(
            f'<blockquote>“{_text(example.question)}”<br><span class="{"right" if is_right else "wrong"}">'
            f'{_text(example.answer.strip())}</span> <span class="soft">({_text(people)})</span></blockquote>'
        )
    return f"""<section>
<h2>Held-out reviews, asked through the endpoint</h2>
{"".join(told)}
</section>"""


def _call(report: Report) -> str:
    curl, python = snippets(report)
    return f"""<section>
<h2>Call it</h2>
<h3>curl</h3>
<pre>{_text(curl)}</pre>
<h3>Python, the unmodified openai package</h3>
<pre>{_text(python)}</pre>
</section>"""


def _costs(report: Report) -> str:
    phases = [[p.name, duration(p.duration_s), p.note + (" (an earlier run)" if p.is_reused else "")] for p in report.phases]
    phases.append(["after downloads", duration(total_s(report.phases)), ""])
    ordered = sorted(report.memory_bytes.items(), key=lambda item: -item[1])
    peaks = [[program, size(peak)] for program, peak in ordered]
    memory = f"<figure>{plots.memory(report.memory_bytes)}</figure>" if peaks else ""
    return f"""<section>
<h2>What it cost</h2>
<div class="two">
<div><h3>Time per phase</h3><figure>{plots.times(report.phases)}</figure>
{_table(["phase", "time", "note"], phases, left=(2,))}</div>
<div><h3>Peak memory per program</h3>{memory}{_table(["program", "peak"], peaks)}</div>
</div>
</section>"""


def _facts(report: Report) -> str:
    rows = "".join(f'<tr><th scope="row">{_text(k)}</th><td class="fact">{_text(v)}</td></tr>' for k, v in report.facts.items())
    return f"""<section>
<h2>Where it comes from</h2>
<div class="scroll"><table>{rows}</table></div>
</section>"""


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = (), left: Sequence[int] = ()) -> str:
    """Return a table whose first column names the row and whose others are numbers, but those in `left`."""
    kinds = ["" if i == 0 or i in left else ' class="n"' for i in range(len(names))]
    head = "".join(f'<th scope="col"{kind}>{_text(name)}</th>' for name, kind in zip(names, kinds, strict=True))
    body = []
    for i, row in enumerate(rows):
        cells = f'<th scope="row">{_text(row[0])}</th>'
        cells += "".join(f"<td{kind}>{_text(value)}</td>" for value, kind in zip(row[1:], kinds[1:], strict=True))
        body.append(f'<tr class="{classes[i]}">{cells}</tr>' if classes else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _text(value: str) -> str:
    return html.escape(value)
