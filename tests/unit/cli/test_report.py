"""The report: its numbers are the measured ones, its page needs nothing else, and what users wrote stays text."""

import dataclasses
import html.parser
import re
import shlex
from typing import Any

import pytest
from rich.console import Console

from services.cli import plots, report_html, report_terminal
from services.cli.report import Comparison, Example, Phase, Report, ScoredPrompt, significance, snippets, total_s

VOID = {"meta", "br", "img", "link", "hr"}


def scored(role: str, prompt: str, accuracy: float) -> ScoredPrompt:
    right = round(200 * accuracy)
    return ScoredPrompt(
        role,
        f"models/{role}",
        prompt,
        accuracy,
        accuracy - 0.05,
        accuracy + 0.05,
        0.5,
        0.6,
        200,
        (right, 200 - right, 0, 0, 0, 0),
    )


REPORT = Report(
    base="Tiny-1M",
    model="ft:Tiny-1M:default:reviews:1",
    endpoint="reviews",
    is_promoted=True,
    verdict="Better: p = 0.001.",
    gateway_url="http://127.0.0.1:8080",
    api_key_file="/home/ada/.afina/api_key",
    create_time="24 November 2026, 08:00 UTC",
    labels=("good", "bad"),
    scores=(
        scored("majority", "majority", 0.475),
        scored("base", "zero-shot", 0.065),
        scored("base", "few-shot", 0.58),
        scored("base", "label-scored", 0.535),
        scored("tuned", "zero-shot", 0.745),
    ),
    comparison=Comparison("few-shot", "zero-shot", 200, 51, 18, 0.165, 0.085, 0.242, 0.0001),
    metrics=tuple({"step": n, "train_loss": 2.0 / n} for n in range(1, 9)),
    validation=({"step": 4, "loss": 0.61}, {"step": 8, "loss": 0.44}),
    phases=(Phase("download", 30.0), Phase("train", 109.0, "50 steps"), Phase("evaluate", 61.0, is_reused=True)),
    memory_bytes={"inference.server": 3_200_000_000, "gateway": 70_000_000},
    examples=(Example("<script>alert('it broke')</script> & more", "bad", "bad"), Example("fine", "good", "bad")),
    prompt="Is it good? Don't say more.",
    facts={"dataset": "projects/default/datasets/<b>ds</b>"},
)


def terminal(report: Report, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report_terminal.show(console, report, "/home/ada/.afina/report.html")
    return console.export_text()


def test_every_baseline_and_the_tuned_model_stand_in_both_reports_with_their_intervals() -> None:
    page, text = report_html.render(REPORT), terminal(REPORT)
    for score in REPORT.scores:
        for shown in (page, text):
            assert score.label in shown
            assert f"{score.accuracy:.1%}" in shown
            assert f"{score.low:.1%}" in shown
            assert f"{score.high:.1%}" in shown


def test_the_paired_test_stands_in_both_reports() -> None:
    for shown in (report_html.render(REPORT), terminal(REPORT, width=300)):
        assert significance(REPORT.comparison) in shown  # type: ignore[arg-type]
        assert "Better: p = 0.001." in shown


def test_the_best_baseline_is_the_strongest_of_all_also_the_constant_answer() -> None:
    weaker = [s for s in REPORT.scores if s.prompt not in ("few-shot", "label-scored")]
    assert REPORT.best_baseline.prompt == "few-shot"
    assert dataclasses.replace(REPORT, scores=tuple(weaker)).best_baseline.role == "majority"


def test_of_equal_baselines_the_one_of_the_paired_test_is_named() -> None:
    scores = (*REPORT.scores, scored("base", "also-good", 0.58))
    assert dataclasses.replace(REPORT, scores=scores).best_baseline.prompt == "few-shot"


def test_what_users_wrote_stays_text() -> None:
    page = report_html.render(REPORT)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;it broke&#x27;)&lt;/script&gt; &amp; more" in page
    assert "&lt;b&gt;ds&lt;/b&gt;" in page
    assert "[bold]" not in page


def test_markup_in_what_users_wrote_is_printed_as_it_is() -> None:
    report = dataclasses.replace(REPORT, examples=(Example("[red]not red[/red]", "good", "good"),))
    assert "[red]not red[/red]" in terminal(report)


def test_the_page_asks_the_network_for_nothing() -> None:
    page = report_html.render(REPORT)
    references = re.findall(r"""(?:src|href|data)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(r"url\(([^)]+)\)", page)
    assert [found for found in references if not found.startswith("#")] == []
    assert "@import" not in page


def test_the_page_is_well_formed_and_names_every_plot() -> None:
    class Checker(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.ids: list[str] = []
            self.plots: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
            attributes = dict(attrs)
            self.ids += [attributes["id"]] if "id" in attributes else []
            if tag == "svg":
                self.plots.append(attributes["aria-label"])
            if tag not in VOID:
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[Any]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(report_html.render(REPORT))
    assert checker.open == []
    assert len(checker.plots) == 6
    assert all(checker.plots)
    assert len(checker.ids) == len(set(checker.ids))


def test_plots_take_their_colours_from_the_theme() -> None:
    page = report_html.render(REPORT)
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--ink)" in drawn
    assert not any(placeholder in drawn for placeholder in plots.VARIABLES)


def test_a_refusal_is_said_plainly() -> None:
    refused = dataclasses.replace(REPORT, is_promoted=False, examples=(), verdict="Too thin: p = 0.2.")
    for shown in (report_html.render(refused), terminal(refused)):
        assert "refused" in shown.lower()
        assert "Too thin: p = 0.2." in shown
        assert "does not point to" in shown


def test_the_curl_command_survives_a_shell_and_keeps_the_secret_in_its_file() -> None:
    curl, _ = snippets(REPORT)
    words = shlex.split(curl.replace("\\\n", ""))
    assert words[1] == "http://127.0.0.1:8080/v1/chat/completions"
    assert "Is it good? Don't say more." in words[-1]
    assert '$(cat "/home/ada/.afina/api_key")' in curl


def test_the_python_program_is_five_lines_that_compile() -> None:
    _, program = snippets(REPORT)
    compile(program, "snippet", "exec")
    assert len(program.splitlines()) == 5


def test_commands_to_copy_are_not_broken_into_lines() -> None:
    narrow = terminal(REPORT, width=60)
    for snippet in snippets(REPORT):
        assert snippet in narrow


def test_downloads_do_not_count_as_time() -> None:
    assert total_s(REPORT.phases) == 170.0


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0]])
def test_smoothing_a_constant_leaves_it(values: list[float]) -> None:
    assert plots.smooth(values) == pytest.approx(values)


def test_smoothing_weighs_as_a_corrected_moving_average() -> None:
    # By hand, with memory 1/2: (0.5·1)/(1-0.5) = 1, then (0.25·1 + 0.5·4)/(1-0.25) = 3.
    assert plots.smooth([1.0, 4.0], memory=0.5) == pytest.approx([1.0, 3.0])


def test_the_headline_names_the_baseline_that_was_chosen_on_other_rows_though_another_is_stronger_here() -> None:
    scores = (*REPORT.scores, scored("base", "lucky", 0.6))
    report = dataclasses.replace(REPORT, scores=scores, is_chosen_on_validation=True)
    assert "the best prompt of its base (few-shot), chosen on validation rows, gets 58.0%" in report.headline
    assert "lucky" in terminal(report)
