"""`afina sweeps` against the trainer; the workers end on cue."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import afina
from services.cli.recipes import read_recipes
from services.common.errors import InvalidInput
from tests.builders import SERVICE_TOKEN
from tests.rpc.test_sweeps import PART, Sweeps
from tests.rpc.trainer_world import trainer_world

YAML = "- {learning_rate: 1e-4, schedule: linear}\n- rank: 8\n  target_modules: [q_proj]\n"


@pytest.fixture
async def sweeps(tmp_path: Path) -> AsyncIterator[Sweeps]:
    async with trainer_world(tmp_path) as world:
        world.peers.validation = PART
        yield Sweeps(world)


async def run(sweeps: Sweeps, home: Path, *arguments: str) -> Result:
    environ = {"AFINA_HOME": str(home), "AFINA_SERVICE_TOKEN": SERVICE_TOKEN, "TRAINER_ADDRESS": sweeps.world.sweeps.address}
    return await asyncio.to_thread(CliRunner().invoke, afina, ("sweeps", *arguments), obj=environ)


async def create(sweeps: Sweeps, home: Path, *arguments: str) -> Any:
    (home / "recipes.yaml").write_text(YAML)
    told = ("--base-model", "tiny", "--dataset", "ds-1", "--file", str(home / "recipes.yaml"), "--json")
    result = await run(sweeps, home, "create", *told, *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_a_sweep_is_created_from_a_file_and_shown_ranked_by_its_losses(
    sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")  # wide enough that no cell is folded
    created = await create(sweeps, tmp_path)
    assert [(r.get("learning_rate"), r["schedule"], r.get("rank")) for r in created["recipes"]] == [
        (1e-4, "LINEAR", None), (None, "UNSPECIFIED", 8),
    ]  # fmt: skip
    name = created["name"]
    await sweeps.train(name, 0, 0.5)
    await sweeps.train(name, 1, 0.25)
    await sweeps.end(name, "SUCCEEDED")
    lines = (await run(sweeps, tmp_path, "get", name)).stdout.splitlines()
    (first,) = (i for i, line in enumerate(lines) if "2: rank=8" in line)
    (second,) = (i for i, line in enumerate(lines) if "1: learning" in line)
    assert first < second
    assert (lines[first].count("█"), lines[second].count("█")) == (12, 24)
    assert "ft:tiny:default::m" in (await run(sweeps, tmp_path, "list")).stdout


async def test_watching_tells_what_happens_and_ends_with_the_exit_code_of_the_sweep(sweeps: Sweeps, tmp_path: Path) -> None:
    name = (await create(sweeps, tmp_path))["name"]
    await sweeps.train(name, 0, None)
    await sweeps.train(name, 1, None)
    await sweeps.end(name, "FAILED")
    result = await run(sweeps, tmp_path, "watch", name)
    assert result.exit_code == 1
    assert "Recipe 2 of 2 is tried by" in result.stdout
    assert "None of the 2 recipes" in result.stdout


async def test_a_sweep_is_cancelled_by_its_id(sweeps: Sweeps, tmp_path: Path) -> None:
    name = (await create(sweeps, tmp_path))["name"]
    result = await run(sweeps, tmp_path, "cancel", name.rpartition("/")[2], "--json")
    assert json.loads(result.stdout)["state"] == "CANCELLING"
    await sweeps.end(name, "CANCELLED")
    assert (await run(sweeps, tmp_path, "cancel", name)).exit_code == 5


@pytest.mark.parametrize(("file", "text"), [
    ("r.json", '{"recipes": [{"rank": 8, "learning_rate": 0.001}, {"rank": 16}]}'),
    ("r.yaml", "recipes:\n- {rank: 8, learning_rate: 1e-3}\n- {rank: 16}\n"),
    ("r.yml", "[{rank: 8, learning_rate: '0.001'}, {rank: 16}]"),
])  # fmt: skip
def test_recipes_are_read_from_json_and_yaml(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    first, second = read_recipes(tmp_path / file)
    assert (first.rank, first.learning_rate, second.rank, second.HasField("learning_rate")) == (8, 1e-3, 16, False)


def test_every_mistake_in_a_file_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("- {learning_rat: 0.1, rank: eight}\n- 7\n- {schedule: sideways, epochs: 1.5}\n")
    with pytest.raises(InvalidInput) as caught:
        read_recipes(path)
    assert [violation.field for violation in caught.value.violations] == [
        "recipes[0].learning_rat", "recipes[0].rank", "recipes[1]", "recipes[2].schedule", "recipes[2].epochs",
    ]  # fmt: skip
    assert "did you mean learning_rate?" in caught.value.violations[0].description


@pytest.mark.parametrize("text", ["", "rank: 8", "[", "[]", "{recipes: 3}", "\x00", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_holds_no_recipes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InvalidInput):
        read_recipes(tmp_path / "r.yaml")
