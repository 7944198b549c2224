"""What a command line refuses before it asks anybody, and how values are printed."""

import json

import pytest
from afina.v1 import fine_tuning_job_pb2, suite_pb2
from click.testing import CliRunner
from rich.console import Console

from services.cli import output
from services.cli.__main__ import afina
from services.cli.failure import EXIT_CODES, Failure, as_document, as_text, from_document
from services.common import errors

AWAY = "Nothing answers at 127.0.0.1:1 (connection refused by this and that); is the program running?"


@pytest.mark.parametrize(
    "arguments",
    [
        "jobs create",
        "jobs create --base-model x --rank much",
        "jobs create --base-model x --schedule steep",
        "datasets create /nowhere/reviews.jsonl",
        "suites create s --dataset d --prompt zero-shot",
        "suites create s --dataset d --prompt p:guess",
        "suites create s --dataset d --prompt p:generate:many",
        "suites create s --dataset d --prompt p:generate --criterion meteor",
        "suites create s --dataset d --prompt p:generate --criterion exact-match:fuzzy",
        "suites create s --dataset d --prompt p:generate --template {{question}}",
        "suites create s --dataset d --prompt p:generate --template q={{question}}",
        "suites create s --dataset d --prompt p:generate --template p=@/nowhere/template",
        "suites create s --dataset d --prompt p:generate --part train",
        "evaluations create --suite s",
        "evaluations download e",
        "endpoints promote reviews --model m",
        "keys create me --days 0",
        "up --accelerator tpu",
        "nonsense",
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_word_about_it(arguments: str) -> None:
    result = CliRunner().invoke(afina, arguments.split(), obj={"AFINA_HOME": "/nowhere"})
    assert result.exit_code == 2
    assert "Error: " in result.stderr


@pytest.mark.parametrize("noun", ["datasets", "files", "jobs", "models", "suites", "evaluations", "endpoints", "keys"])
def test_every_verb_has_help_and_json(noun: str) -> None:
    group = afina.commands[noun]
    for verb in group.commands.values():  # type: ignore[attr-defined]
        assert verb.help
        assert any("--json" in parameter.opts for parameter in verb.params)


def test_chat_without_a_key_says_where_one_comes_from() -> None:
    result = CliRunner().invoke(afina, ["chat", "m", "hello"], obj={"AFINA_HOME": "/nowhere"})
    assert result.exit_code == 6
    assert "AFINA_API_KEY" in result.stderr


def test_every_kind_of_error_has_an_exit_code_that_is_not_success() -> None:
    assert all(1 < Failure(kind("x")).exit_code < 10 for kind in EXIT_CODES)
    assert Failure(errors.AfinaError("x")).exit_code == 1
    assert Failure(errors.ArtifactNotFound("x")).exit_code == 3


def test_a_program_that_is_away_is_one_line_with_the_fix() -> None:
    assert as_text(errors.Unavailable(AWAY, reason="UNREACHABLE")) == (
        "afina: Nothing answers at 127.0.0.1:1. Start the programs with `afina up`; `afina status` says what runs."
    )


def test_violations_have_a_line_each_and_the_rest_is_counted() -> None:
    violations = [errors.Violation("line 3", "NOT_JSON", "It is not JSON."), errors.Violation("line 4", "NO_ROLE", "No role.")]
    told = as_text(errors.InvalidInput("The file is wrong.", violations=violations, violation_count=70))
    assert told.splitlines() == ["afina: The file is wrong.", "  line 3: It is not JSON.", "  line 4: No role.", "  … 70 in all."]


def test_an_error_survives_being_written_and_read() -> None:
    error = errors.WrongState("Not now.", reason="UP_ALREADY", violations=[errors.Violation("a", "B", "c")])
    read = from_document(as_document(error))
    assert isinstance(read, errors.WrongState)
    assert (read.message, read.reason, read.violations) == (error.message, error.reason, error.violations)
    assert from_document("some line of a log") is None


def test_json_has_the_protos_names_short_states_and_whole_numbers() -> None:
    job = fine_tuning_job_pb2.FineTuningJob(name="j", state="STATE_RUNNING", metadata={"a": "b"})
    job.progress.trained_tokens = 12345678901
    job.create_time.seconds = 1_800_000_000
    document = json.loads(json.dumps(output.document(job)))
    assert document["state"] == "RUNNING"
    assert document["metadata"] == {"a": "b"}
    assert document["progress"]["trained_tokens"] == 12345678901
    assert "validation_loss" not in document["progress"]
    assert document["create_time"] == "2027-01-15T08:00:00Z"
    assert document["suffix"] == ""


def test_what_a_table_shows_is_never_read_as_markup() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    suites = [suite_pb2.Suite(name="[bold]x[/bold]")]
    console.print(output.table({"id": lambda s: s.name}, suites))
    assert "[bold]x[/bold]" in console.export_text()


@pytest.mark.parametrize(("seconds", "told"), [(0.5, "0.5 s"), (45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_told_as_people_tell_them(seconds: float, told: str) -> None:
    assert output.duration(seconds) == told


@pytest.mark.parametrize(("size", "told"), [(12, "12 B"), (351_000, "351 kB"), (269e6, "269 MB"), (3.2e9, "3.2 GB")])
def test_sizes_are_told_as_people_tell_them(size: float, told: str) -> None:
    assert output.size(size) == told
