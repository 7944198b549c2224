"""Suites and evaluations on the command line: criteria in short words, results as tables, answers as a file."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from afina.v1 import evaluation_pb2 as pb
from afina.v1 import resources_pb2

from tests.rpc.scripted_programs import BASE, TUNED, World, scripted_programs
from tests.rpc.test_cli import run, run_json

NAME = "projects/default/evaluations/eval-1"
LINES = b'{"item": 0}\n{"item": 1}\n'


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Programs that run, and hold one finished evaluation."""
    async with scripted_programs(tmp_path) as programs:
        programs.evaluations["1"] = evaluation()
        yield programs


def metric(name: str, value: float, label: str = "") -> pb.Metric:
    return pb.Metric(name=name, label=label, value=value, low=value - 0.1, high=value + 0.1)


def score(model: str, prompt: str, accuracy: float, confusion: list[int], *, is_chosen: bool) -> pb.Score:
    each = [metric(name, 0.5, label) for label in ("no", "yes") for name in ("precision", "recall", "f1")]
    return pb.Score(
        model=model, prompt=prompt, accuracy=accuracy, item_count=10, confusion=confusion, is_chosen=is_chosen,
        metrics=[metric("accuracy", accuracy), metric("exact_match", 0.3), metric("macro_f1", 0.456), *each],
        validation=metric("accuracy", 0.654),
    )  # fmt: skip


def evaluation() -> pb.Evaluation:
    mcnemar, bootstrap = pb.Difference.TEST_MCNEMAR, pb.Difference.TEST_PAIRED_BOOTSTRAP
    comparison = pb.Comparison(
        champion=BASE, champion_prompt="few-shot", candidate=TUNED, candidate_prompt="plain", item_count=10,
        differences=[
            pb.Difference(effect=metric("accuracy", 0.4), p_value=0.04, test=mcnemar),
            pb.Difference(effect=metric("macro_f1", 0.25), p_value=0.031, test=bootstrap),
        ],
    )  # fmt: skip
    return pb.Evaluation(
        name=NAME, state=pb.Evaluation.STATE_SUCCEEDED, suite="projects/default/suites/s", labels=["no", "yes"],
        deciding_metric="accuracy", choice=pb.Evaluation.CHOICE_VALIDATION, comparisons=[comparison],
        scores=[
            score(BASE, "plain", 0.2, [1, 2, 2, 1, 1, 3], is_chosen=False),
            score(BASE, "few-shot", 0.5, [31, 1, 0, 3, 24, 0], is_chosen=True),
            score(TUNED, "plain", 0.9, [47, 0, 0, 1, 44, 0], is_chosen=True),
        ],
    )  # fmt: skip


async def test_a_suites_criteria_and_words_are_written_in_short(world: World, tmp_path: Path) -> None:
    (tmp_path / "template.txt").write_text("Review: {{question}}\nAnswer:")
    create = (
        "suites",
        "create",
        "mine",
        "--dataset",
        "ds-1",
        "--part",
        "validation",
        "--prompt",
        "a:generate",
        "--prompt",
        "b:generate",
    )
    words = ("--instruction", "a=Be brief = short.", "--template", f"b=@{tmp_path}/template.txt")
    criteria = ("--criterion", "bleu:zh,lowercase", "--criterion", "exact-match:keep-case,drop-articles", "--criterion", "chrf")
    suite = await run_json(world, *create, *words, *criteria)
    assert suite["part"] == "VALIDATION"
    assert [prompt["instruction"] for prompt in suite["prompts"]] == ["Be brief = short.", ""]
    assert [prompt["template"] for prompt in suite["prompts"]] == ["", "Review: {{question}}\nAnswer:"]
    assert suite["criteria"][0] == {"bleu": {"tokenizer": "ZH", "lowercase": True}}
    assert suite["criteria"][1]["exact_match"] == {
        "keep_case": True, "keep_space": False, "keep_final_punctuation": False, "drop_punctuation": False, "drop_articles": True,
    }  # fmt: skip
    shown = (await run(world, "suites", "get", "mine")).stdout
    for told in ("bleu:zh,lowercase", "exact-match:keep-case,drop-articles", "chrf", "its own words", "validation rows"):
        assert told in shown


async def test_an_evaluation_shows_scores_confusion_and_the_deciding_comparison(world: World) -> None:
    shown = (await run(world, "evaluations", "get", "eval-1")).stdout
    for told in (
        "few-shot ✓",
        "90.0%",
        "80.0% … 100.0%",
        "45.6%",
        "65.4%",
        "best on the validation rows",
        "+40.0%",
        "0.04",
        "mcnemar",
    ):
        assert told in shown
    assert "25.0%" not in shown
    matrix = [line.split() for line in shown.splitlines() if line.startswith(("no", "yes"))]
    assert matrix == [["no", "31", "1", "0"], ["yes", "3", "24", "0"], ["no", "47", "0", "0"], ["yes", "1", "44", "0"]]


async def test_all_of_an_evaluation_shows_each_label_metric_and_test(world: World) -> None:
    shown = (await run(world, "evaluations", "get", "eval-1", "--all")).stdout
    for told in ("50.0% (40.0% … 60.0%)", "+25.0%", "0.031", "paired bootstrap"):
        assert told in shown


async def test_an_evaluation_is_whole_as_json(world: World) -> None:
    found = await run_json(world, "evaluations", "get", "eval-1")
    assert (found["deciding_metric"], found["choice"], len(found["scores"])) == ("accuracy", "VALIDATION", 3)
    assert found["comparisons"][0]["differences"][1]["test"] == "PAIRED_BOOTSTRAP"
    assert len(found["scores"][0]["metrics"]) == 9


def keep_answers(world: World) -> resources_pb2.Artifact:
    artifact = world.store.put("evaluations/eval-1/files", io.BytesIO(LINES))
    world.evaluations["1"].answers.CopyFrom(resources_pb2.Artifact(**vars(artifact)))
    return world.evaluations["1"].answers  # type: ignore[no-any-return]


async def test_answers_are_downloaded_whole_and_never_over_a_file(world: World, tmp_path: Path) -> None:
    keep_answers(world)
    path = tmp_path / "answers.jsonl"
    done = await run(world, "evaluations", "download", "eval-1", "-o", str(path))
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["item"] for line in path.read_text().splitlines()] == [0, 1]
    again = await run(world, "evaluations", "download", "eval-1", "-o", str(path))
    assert again.exit_code != 0
    assert "exists; name a file that does not" in again.stderr
    nowhere = await run(world, "evaluations", "download", "eval-1", "-o", str(tmp_path / "none" / "a.jsonl"))
    assert "make it first" in nowhere.stderr


async def test_answers_with_other_bytes_than_their_digest_says_are_not_downloaded(world: World, tmp_path: Path) -> None:
    keep_answers(world).sha256 = "0" * 64
    done = await run(world, "evaluations", "download", "eval-1", "-o", str(tmp_path / "a.jsonl"))
    assert "other bytes than its digest says" in done.stderr
    assert not list(tmp_path.glob("*a.jsonl*"))


async def test_an_evaluation_without_answers_says_so(world: World, tmp_path: Path) -> None:
    done = await run(world, "evaluations", "download", "eval-1", "-o", str(tmp_path / "a.jsonl"))
    assert done.exit_code != 0
    assert "has no answers" in done.stderr
