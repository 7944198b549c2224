"""The command line as a person and a program use it: real gRPC, real HTTP, the real `openai` SDK."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from afina.v1 import endpoint_pb2
from click.testing import CliRunner, Result

from services.cli.__main__ import afina
from services.common import scopes
from tests.builders import chat, eventually, free_port, jsonl
from tests.rpc.scripted_programs import BASE, TUNED, World, at, scripted_programs

REVIEWS = [chat(f"Classify.\n\nreview {n}", ("positive", "neutral", "negative")[n % 3]) for n in range(120)]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Programs that run."""
    async with scripted_programs(tmp_path) as programs:
        yield programs


async def run(world: World, *arguments: str, stdin: str = "") -> Result:
    """Run a command in a thread of its own, as it has a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, afina, arguments, input=stdin, obj=world.environ)


async def run_json(world: World, *arguments: str) -> Any:
    """Run a command that has to succeed and return its document."""
    result = await run(world, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def reviews(folder: Path, lines: bytes = b"") -> str:
    """A file of chats."""
    path = folder / "reviews.jsonl"
    path.write_bytes(jsonl(REVIEWS) + lines)
    return str(path)


async def test_a_dataset_is_made_of_a_file_and_found_again(world: World, tmp_path: Path) -> None:
    fractions = ("--train-fraction", "0.5", "--validation-fraction", "0.25", "--test-fraction", "0.25")
    made = await run_json(world, "datasets", "create", reviews(tmp_path), *fractions)
    assert (made["train"]["row_count"], made["validation"]["row_count"], made["test"]["row_count"]) == (60, 30, 30)
    again = await run_json(world, "datasets", "get", made["name"].rpartition("/")[2])
    assert again == made
    assert [d["name"] for d in await run_json(world, "datasets", "list")] == [made["name"]]
    assert [f["dataset"] for f in await run_json(world, "files", "list")] == [made["name"]]


async def test_people_get_a_table(world: World, tmp_path: Path) -> None:
    await run(world, "datasets", "create", reviews(tmp_path))
    result = await run(world, "datasets", "list")
    assert "validation" in result.stdout
    assert "120" in result.stdout


async def test_fractions_that_do_not_belong_together_are_a_usage_error(world: World, tmp_path: Path) -> None:
    result = await run(world, "datasets", "create", reviews(tmp_path), "--train-fraction", "0.5")
    assert result.exit_code == 2
    assert "also give --validation-fraction, --test-fraction" in result.stderr


async def test_every_wrong_line_of_a_file_is_told(world: World, tmp_path: Path) -> None:
    result = await run(world, "datasets", "create", reviews(tmp_path, b'{"messages": [\n{"messages": []}\n'))
    assert result.exit_code == 2
    assert "line 121" in result.stderr
    assert "line 122" in result.stderr


async def test_an_error_is_an_object_for_programs(world: World) -> None:
    result = await run(world, "datasets", "get", "nothing", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stderr)["error"]["reason"] == "NOT_FOUND"


async def test_a_program_that_is_away_is_exit_code_4_and_names_the_fix(world: World) -> None:
    world.environ["TRAINER_ADDRESS"] = f"127.0.0.1:{free_port()}"
    result = await run(world, "jobs", "list")
    assert result.exit_code == 4
    assert "afina up" in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_a_job_is_created_with_its_recipe_watched_and_listed(world: World) -> None:
    created = await run_json(
        world,
        "jobs",
        "create",
        "--base-model",
        "base",
        "--dataset",
        "ds-1",
        "--learning-rate",
        "1e-3",
        "--target-module",
        "q_proj",
        "--early-stopping-patience",
        "3",
        "--published-checkpoint-count",
        "2",
    )
    assert (created["recipe"]["early_stopping_patience"], created["recipe"]["published_checkpoint_count"]) == (3, 2)
    assert created["recipe"]["learning_rate"] == 1e-3
    assert created["recipe"]["target_modules"] == ["q_proj"]
    assert "epochs" not in created["recipe"]
    assert created["dataset"] == "projects/default/datasets/ds-1"
    watched = await run_json(world, "jobs", "watch", "ftjob-1")
    assert watched["state"] == "SUCCEEDED"
    assert [job["name"] for job in await run_json(world, "jobs", "list")] == [created["name"]]


async def test_an_answer_that_is_lost_on_its_way_makes_neither_a_second_job_nor_a_second_evaluation(world: World) -> None:
    for command in (
        ("jobs", "create", "--base-model", "base", "--dataset", "ds-1"),
        ("evaluations", "create", "--suite", "s", "--model", "base"),
    ):
        world.create_breaks = 1
        assert (await run(world, *command)).exit_code == 0
        assert world.create_breaks == 0
    assert (len(world.jobs), len(world.evaluations)) == (1, 1)
    await run(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1")
    assert len(world.jobs) == 2


async def test_a_job_is_paused_and_resumed(world: World) -> None:
    await run(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1")
    assert (await run_json(world, "jobs", "pause", "ftjob-1"))["state"] == "PAUSING"
    assert (await run_json(world, "jobs", "resume", "ftjob-1"))["state"] == "PENDING"
    result = await run(world, "jobs", "resume", "ftjob-1")
    assert result.exit_code == 5
    assert "not paused" in result.stderr


async def test_a_watch_that_breaks_is_taken_up_after_the_last_event(world: World) -> None:
    await run(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1")
    world.watch_breaks = 1
    result = await run(world, "jobs", "watch", "ftjob-1")
    assert result.exit_code == 0
    assert world.watch_sequences == [0, 2]


async def test_watching_a_job_shows_the_verdict_on_its_model_and_so_do_lists(world: World) -> None:
    await run(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1", "--suite", "mine", "--candidate-prompt", "a")
    settings = world.job("projects/default/fineTuningJobs/ftjob-1").evaluation_settings
    assert (settings.suite, list(settings.candidate_prompts)) == ("projects/default/suites/mine", ["a"])
    watching = asyncio.create_task(run(world, "jobs", "watch", "ftjob-1"))
    (evaluation,) = await eventually(lambda: list(world.evaluations.values()), timeout_s=30)
    evaluation.end_time.CopyFrom(at(260))
    result = await watching
    assert result.exit_code == 0, result.output
    assert "The model answers as ft:base:default:reviews:tuned. It is compared with its base now; Ctrl-C" in result.stdout
    for words in ("jobs get ftjob-1", "jobs list", f"models judge {TUNED} eval-1"):
        assert "BETTER" in (await run(world, *words.split())).stdout
    assert (await run_json(world, "jobs", "get", "ftjob-1"))["verdict"]["answer"] == "BETTER"


async def test_a_job_is_created_without_a_comparison_where_that_is_asked(world: World) -> None:
    created = await run_json(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1", "--no-evaluate")
    assert created["evaluation_settings"]["is_disabled"] is True


async def test_watching_a_job_that_fails_is_exit_code_1_with_the_reason(world: World) -> None:
    world.job_end = "FAILED"
    result = await run(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1", "--watch")
    assert result.exit_code == 1
    assert "The loss is NaN." in result.stdout


async def test_events_leave_the_steps_out_unless_asked(world: World) -> None:
    await run(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1")
    assert [e["type"] for e in await run_json(world, "jobs", "events", "ftjob-1")] == ["STATE_CHANGED", "STATE_CHANGED"]
    assert "STEP" in [e["type"] for e in await run_json(world, "jobs", "events", "ftjob-1", "--steps")]


async def test_a_job_is_cancelled(world: World) -> None:
    await run(world, "jobs", "create", "--base-model", "base", "--dataset", "ds-1")
    assert (await run_json(world, "jobs", "cancel", "ftjob-1"))["state"] == "CANCELLING"


async def test_importing_a_base_puts_its_files_before_its_manifest(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text(name)
    entry = await run_json(world, "models", "import", str(folder), "--id", "tiny", "--alias", "small")
    assert entry["manifest_key"] == f"manifests/bases/{entry['digest']}.json"
    assert entry["aliases"] == ["small"]
    assert len(list(world.store.list("bases/"))) == 4


async def test_a_folder_without_weights_is_refused(world: World, tmp_path: Path) -> None:
    result = await run(world, "models", "import", str(tmp_path), "--id", "tiny")
    assert result.exit_code == 2
    assert "*.safetensors" in result.stderr


async def test_a_suite_is_written_as_short_words(world: World) -> None:
    prompts = ("--prompt", "plain:generate", "--prompt", "few:score-labels:6:1")
    suite = await run_json(world, "suites", "create", "reviews", "--dataset", "ds-1", *prompts)
    assert suite["prompts"] == [
        {"id": "plain", "method": "GENERATE", "shots": 0, "seed": 0, "instruction": "", "template": ""},
        {"id": "few", "method": "SCORE_LABELS", "shots": 6, "seed": 1, "instruction": "", "template": ""},
    ]


async def test_an_evaluation_ends_with_scores_and_intervals(world: World) -> None:
    result = await run(
        world, "evaluations", "create", "--suite", "s", "--model", "base", "--model", f"{TUNED}=zero-shot", "--watch"
    )
    assert result.exit_code == 0, result.output
    assert "80.0%" in result.stdout
    assert "0.0022" in result.stdout
    [evaluation] = await run_json(world, "evaluations", "list")
    assert evaluation["subjects"][1] == {"model": TUNED, "prompts": ["zero-shot"], "digest": ""}


async def test_a_refused_promotion_is_exit_code_5_with_the_gates_words(world: World) -> None:
    await run_json(world, "endpoints", "create", "reviews", "--min-effect", "0.1")
    world.refusal = "Not better: effect -0.01."
    promote = ("endpoints", "promote", "reviews", "--model", TUNED, "--evaluation", "eval-1")
    result = await run(world, *promote)
    assert result.exit_code == 5
    assert "Not better: effect -0.01." in result.stderr
    world.refusal = ""
    assert (await run_json(world, *promote))["model"] == TUNED


async def test_a_keys_secret_is_shown_once_and_alone_on_standard_output(world: World) -> None:
    result = await run(world, "keys", "create", "me")
    assert result.stdout.startswith("afina-")
    assert len(result.stdout.split()) == 1
    [key] = await run_json(world, "keys", "list")
    assert "secret" not in key
    await run_json(world, "keys", "delete", key["name"])
    assert await run_json(world, "keys", "list") == []
    await run(world, "keys", "create", "ci", "--scope", "jobs.write", "--scope", "endpoints.promote")
    await run(world, "keys", "create", "dashboard", "--read-only")
    dashboard, ci = await run_json(world, "keys", "list")
    assert ci["scopes"] == ["jobs.read", "jobs.write", "endpoints.read", "endpoints.promote"]
    assert dashboard["scopes"] == list(scopes.READ_ONLY)
    shown = (await run(world, "keys", "list")).stdout
    assert "jobs.write" in shown.replace("\n", " ")
    assert (await run(world, "keys", "create", "x", "--scope", "all")).exit_code == 2


async def test_chat_streams_an_answer_with_the_key_from_the_home(world: World) -> None:
    result = await run(world, "chat", "reviews", "How is it?")
    assert result.stdout == "positive\n"
    assert world.asked[0]["authorization"] == "Bearer afina-secret"


async def test_a_conversation_remembers_what_was_said(world: World) -> None:
    await run(world, "chat", "reviews", stdin="one\ntwo\n")
    assert [m["content"] for m in world.asked[1]["messages"]] == ["one", "positive", "two"]


async def test_chat_with_a_model_that_is_not_there_is_exit_code_3(world: World) -> None:
    result = await run(world, "chat", "nothing", "hello")
    assert result.exit_code == 3
    assert "afina models list" in result.stderr


def prepare_demo(world: World) -> Path:
    """Put the reviews where an earlier run would have left them."""
    home = Path(world.environ["AFINA_HOME"])
    (home / "demo").mkdir()
    (home / "demo" / "reviews-1200.jsonl").write_bytes(jsonl(REVIEWS))
    return home


async def test_the_demo_ends_with_a_report_and_a_second_one_reuses_everything(world: World) -> None:
    home = prepare_demo(world)
    first = await run(world, "demo")
    assert first.exit_code == 0, first.output
    for words in ("80.0% of 100 held-out reviews right", "base, few-shot", "majority class", "p = 0.0022", "curl http"):
        assert words in first.stdout
    page = (home / "report.html").read_text()
    assert "BETTER: p = 0.0022." in page
    assert "afina-secret" not in page + first.stdout
    assert [body["model"] for body in world.asked] == ["reviews"] * 3
    second = await run_json(world, "demo")
    assert len(world.jobs) == len(world.evaluations) == len(world.suites) == 1
    assert len(world.endpoints["projects/default/endpoints/reviews"].promotions) == 1
    phases = {phase["name"]: phase for phase in second["phases"]}
    assert phases["train"]["duration_s"] == 90.0
    assert phases["prove"]["duration_s"] == 30.0
    assert phases["evaluate"]["duration_s"] == 60.0
    assert all(phase["is_reused"] for phase in second["phases"])


async def test_a_demo_that_the_gate_refuses_says_so_shows_all_baselines_and_fails(world: World) -> None:
    prepare_demo(world)
    world.refusal = "Too thin: p = 0.3."
    result = await run(world, "demo")
    assert result.exit_code == 1
    assert "The gate refused" in result.stdout
    assert "Too thin: p = 0.3." in result.stdout
    for baseline in ("base, zero-shot", "base, few-shot", "base, label-scored", "majority class"):
        assert baseline in result.stdout
    assert world.asked == []


async def test_a_demo_asks_the_model_that_is_in_place_in_every_way_too(world: World) -> None:
    prepare_demo(world)
    name, champion = "projects/default/endpoints/reviews", "projects/default/models/champion"
    world.endpoints[name] = endpoint_pb2.Endpoint(name=name, model=champion)
    result = await run(world, "demo")
    assert result.exit_code == 0, result.output
    of_job, evaluation = world.evaluations.values()
    assert [subject.model for subject in of_job.subjects] == [BASE, TUNED]
    asked = {subject.model: list(subject.prompts) for subject in evaluation.subjects}
    assert asked == {BASE: [], TUNED: ["zero-shot"], champion: []}


async def test_a_demo_whose_job_failed_before_trains_anew(world: World) -> None:
    prepare_demo(world)
    world.job_end = "FAILED"
    failed = await run(world, "demo")
    assert failed.exit_code == 1
    assert "The loss is NaN." in failed.stderr
    world.job_end = "SUCCEEDED"
    assert (await run(world, "demo")).exit_code == 0
    assert len(world.jobs) == 2
