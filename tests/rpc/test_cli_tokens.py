"""`afina datasets tokens` against the trainer; the errand counts as told."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import afina
from services.common import errors
from services.common.ports.launcher import LaunchManifest
from tests.builders import SERVICE_TOKEN
from tests.fakes import scripted_count
from tests.rpc.trainer_world import World, trainer_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trainer_world(tmp_path) as running:
        counting = asyncio.ensure_future(running.counting.run())
        yield running
        counting.cancel()


async def run(world: World, home: Path, *arguments: str) -> Result:
    environ = {"AFINA_HOME": str(home), "AFINA_SERVICE_TOKEN": SERVICE_TOKEN, "TRAINER_ADDRESS": world.counts.address}
    command = ("datasets", "tokens", "ds-1", "--model", "tiny", *arguments)
    return await asyncio.to_thread(CliRunner().invoke, afina, command, obj=environ)


async def test_people_get_totals_a_histogram_and_what_lengths_would_cut(world: World, tmp_path: Path) -> None:
    world.launcher.run_errand = scripted_count(world.store, [20] * 90 + [100] * 9 + [300], 500)
    result = await run(world, tmp_path, "--max-length", "150")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.replace("\u202f", "").splitlines()]
    assert ["train", "100", "3000", "500", "20", "20", "100", "300"] in lines
    assert ["≤", "25", "90", "█" * 40] in lines
    assert ["150", "1", "150"] in lines
    assert "never cuts" in result.stdout


async def test_programs_get_the_same_as_a_document(world: World, tmp_path: Path) -> None:
    result = await run(world, tmp_path, "--json")
    count = json.loads(result.stdout)
    assert (count["state"], count["train"]["token_count"], count["train"]["longest_length"]) == ("SUCCEEDED", 20, 20)


async def test_what_can_not_be_counted_is_an_error_with_every_row(world: World, tmp_path: Path) -> None:
    violations = [errors.Violation(f"train[{n}]", "TEMPLATE_REFUSED", f"no system message in row {n}") for n in (2, 5)]
    error = errors.InvalidInput("2 rows can't be read.", reason="ROWS_INVALID", violations=violations, violation_count=7)

    def refuse(manifest: LaunchManifest) -> None:
        spec = json.loads(world.store.read(manifest["environment"]["AFINA_SPEC"]))
        world.store.commit(spec["result_key"], json.dumps({"error": error.to_document()}).encode())

    world.launcher.run_errand = refuse
    result = await run(world, tmp_path)
    assert result.exit_code == 2
    assert "no system message in row 5" in result.stderr
    assert "7 in all" in result.stderr
