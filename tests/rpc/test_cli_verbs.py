"""Every verb of every noun, from the parser itself: a table for people, JSON for programs, help, and errors with the fix.

A verb that is added to the command line and has no line here fails the first test.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from services.cli.__main__ import afina
from tests.builders import chat, eventually, free_port, jsonl
from tests.rpc.scripted_programs import TUNED, World, scripted_programs

ROWS = jsonl(chat(f"Is {n} even?", "yes" if n % 2 == 0 else "no") for n in range(60))
# In this order: what is made is found again. {file} and {base} are on disk, the other words are what was made before.
USES = {
    "datasets create": "{file}",
    "datasets list": "",
    "datasets get": "{dataset}",
    "datasets tokens": "",
    "files upload": "{file}",
    "files list": "",
    "files get": "{uploaded}",
    "files content": "{uploaded}",
    "files delete": "{uploaded}",
    "jobs create": "--base-model base --dataset {dataset}",
    "jobs list": "",
    "jobs get": "ftjob-1",
    "jobs events": "ftjob-1",
    "jobs pause": "ftjob-1",
    "jobs resume": "ftjob-1",
    "jobs cancel": "ftjob-1",
    "jobs watch": "ftjob-1",
    "sweeps create": "",
    "sweeps list": "",
    "sweeps get": "",
    "sweeps watch": "",
    "sweeps cancel": "",
    "suites create": "parity --dataset {dataset} --prompt plain:generate",
    "suites list": "",
    "suites get": "parity",
    "evaluations create": "--suite parity --model base",
    "evaluations list": "",
    "evaluations get": "eval-1",
    "evaluations watch": "eval-1",
    "evaluations download": "",
    "evaluations cancel": "eval-1",
    "models import": "{base} --id tiny",
    "models list": "",
    "models get": "base",
    "models judge": f"{TUNED} eval-1",
    "models serve": "base",
    "models prove": "",
    "models download": "",
    "models create": "",
    "models update": "",
    "models delete": "",
    "endpoints create": "support",
    "endpoints list": "",
    "endpoints get": "support",
    "endpoints promote": f"support --model {TUNED} --evaluation eval-1",
    "endpoints rollback": "support --reason rude",
    "endpoints history": "support",
    "keys create": "me",
    "keys list": "",
    "keys delete": "{key}",
    "status": "",
    "logs": "dataset",
}
# Proven elsewhere: `up`, `down` and `demo` start and end programs; chat speaks HTTP; completion prints a script.
ELSEWHERE = {"up", "down", "demo", "chat", "completion"}
# What the scripted programs do not do; tests of their own show them.
UNSCRIPTED = {
    "datasets tokens", "evaluations cancel", "evaluations download",
    "models create", "models delete", "models download", "models prove", "models serve", "models update",
    "sweeps cancel", "sweeps create", "sweeps get", "sweeps list", "sweeps watch",
}  # fmt: skip
ONCE = {"files delete", "jobs resume", "keys delete"}  # a second time is refused
NO_DOCUMENT = {"files content"}  # what it prints is the file itself


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with scripted_programs(tmp_path) as programs:
        (tmp_path / "home" / "logs").mkdir()
        (tmp_path / "home" / "logs" / "dataset.log").write_text("serving\n")
        yield programs


def verbs(group: click.Group = afina, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command of the parser that does something, by the words that lead to it."""
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from verbs(command, words)
        else:
            yield words, command


async def run(world: World, words: str, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, afina, [*words.split(), *arguments], obj=world.environ)


async def arguments_of(world: World, words: str) -> list[str]:
    found = {"file": world.folder / "rows.jsonl", "base": world.folder / "base", "dataset": "", "uploaded": "", "key": ""}
    for noun, kind in (("datasets", "dataset"), ("files", "uploaded"), ("keys", "key")):
        listed = json.loads((await run(world, f"{noun} list", "--json")).stdout)
        found[kind] = listed[0]["name"].rpartition("/")[2] if listed else "none"
    return USES[words].format(**found).split()


def test_every_verb_of_the_parser_has_a_line_in_the_table() -> None:
    assert {words for words, _ in verbs()} == set(USES) | ELSEWHERE


@pytest.mark.parametrize(("words", "command"), verbs(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_verb_says_in_its_help_what_it_does_and_what_each_option_means(words: str, command: click.Command) -> None:
    result = CliRunner().invoke(afina, [*words.split(), "--help"])
    assert result.exit_code == 0
    assert command.help
    assert command.help.rstrip().endswith((".", "fish | source."))
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert any("--json" in option.opts for option in options) or words == "completion"


async def test_every_verb_prints_something_for_people_and_a_document_for_programs(world: World) -> None:
    (world.folder / "rows.jsonl").write_bytes(ROWS)
    (world.folder / "base").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (world.folder / "base" / name).write_text("{}")
    for words in USES:
        if words in UNSCRIPTED:
            continue
        arguments = await arguments_of(world, words)
        people = await run(world, words, *arguments)
        assert people.exit_code == 0, (words, people.output)
        assert people.stdout.strip(), words
        if words in ONCE | NO_DOCUMENT:
            continue
        programs = await run(world, words, *arguments, "--json")
        assert programs.exit_code == 0, (words, programs.output)
        document = json.loads(programs.stdout)
        assert isinstance(document, list if words.endswith(("list", "events", "history", "logs")) else dict), words


@pytest.mark.parametrize(("words", "as_json"), [*((w, False) for w in USES if w.endswith(" list")), ("jobs get x", True)])
async def test_a_program_that_is_away_is_exit_code_4_with_the_fix_for_people_and_an_object_for_programs(
    world: World, words: str, as_json: bool
) -> None:
    names = ("DATASET", "TRAINER", "EVALUATOR", "INFERENCE", "GATEWAY")
    world.environ |= {f"{name}_ADDRESS": f"127.0.0.1:{free_port()}" for name in names}
    result = await run(world, words, *(["--json"] if as_json else []))
    assert result.exit_code == 4, (words, result.output)
    if as_json:
        assert json.loads(result.stderr)["error"]["reason"] == "UNREACHABLE"
    else:
        assert "afina up" in result.stderr
        assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "words", [words for words, command in verbs() if any(p.required for p in command.params) and words not in ELSEWHERE]
)
def test_what_a_verb_misses_is_exit_code_2_and_named(words: str) -> None:
    result = CliRunner().invoke(afina, words.split(), obj={"AFINA_HOME": "/nowhere"})
    assert result.exit_code == 2
    assert "Missing " in result.stderr


async def test_words_and_names_are_completed_in_bash(world: World, tmp_path: Path) -> None:
    await run(world, "jobs create", "--base-model", "base", "--dataset", "d")
    program = tmp_path / "afina"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m services.cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, **world.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    script = f"""
        eval "$(afina completion bash)"
        complete() {{
            COMPREPLY=(); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _afina_completion afina; echo "${{COMPREPLY[*]}}"
        }}
        complete afina jobs pa
        complete afina jobs get ""
        complete afina jobs create --base-model b
        export TRAINER_ADDRESS=127.0.0.1:{free_port()}
        complete afina jobs get ""
    """
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["pause", "ftjob-1", "base", ""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script_and_another_is_refused(shell: str) -> None:
    result = CliRunner().invoke(afina, ["completion", shell])
    assert result.exit_code == 0
    assert f"_AFINA_COMPLETE={shell}_complete" in result.stdout
    assert CliRunner().invoke(afina, ["completion", "tcsh"]).exit_code == 2


def test_logs_are_those_of_the_newest_attempt_and_an_unknown_name_says_what_there_is(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        folder = tmp_path / "processes" / "trainer" / f"ftjob-ab-{number}"
        folder.mkdir(parents=True)
        (folder / "output.log").write_text("".join(f"attempt {number}, line {n}\n" for n in range(3)))
        (folder / "exit.json").write_text("{}")
    environ = {"AFINA_HOME": str(tmp_path)}

    def logs(*arguments: str) -> Result:
        return CliRunner().invoke(afina, ["logs", *arguments], obj=environ)

    assert logs("ftjob-ab", "--lines", "1").stdout == "attempt 10, line 2\n"
    assert logs("projects/default/fineTuningJobs/ftjob-ab", "--follow").stdout.count("attempt 10") == 3
    assert logs("ftjob-ab-2", "--lines", "0").stdout.count("attempt 2") == 3
    unknown = logs("ftjob-a")
    assert unknown.exit_code == 3
    assert "trainer" in unknown.stderr


async def test_a_command_that_is_interrupted_is_exit_code_130(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log, said = tmp_path / "logs" / "trainer.log", tmp_path / "said"
    log.write_text("first\n")
    environment = {**os.environ, "AFINA_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with said.open("w") as output:
        following = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "logs", "trainer", "--follow"], env=environment, stdout=output
        )
    await eventually(lambda: "first" in said.read_text(), timeout_s=20)
    with log.open("a") as more:
        more.write("second\n")
    await eventually(lambda: "second" in said.read_text())
    following.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(following.wait, 20) == 130
