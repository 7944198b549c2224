"""`afina endpoints` against the real inference: promote, roll back, and read who did what and why."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import afina
from services.common.principal import OPERATOR
from tests.builders import SERVICE_TOKEN
from tests.rpc.inference_world import World, inference_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        made.parts["environ"] = {
            "AFINA_HOME": str(tmp_path / "home"),
            "AFINA_SERVICE_TOKEN": SERVICE_TOKEN,
            "INFERENCE_ADDRESS": made.address,
        }
        yield made


async def run(world: World, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, afina, ["endpoints", *arguments], obj=world.parts["environ"])


async def run_json(world: World, *arguments: str) -> Any:
    result = await run(world, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_promoting_rolling_back_and_reading_the_history(world: World) -> None:
    entry = await world.add_base()
    first, second = await world.add_adapter(), await world.add_adapter()
    assert (await run(world, "create", "support")).exit_code == 0
    assert "has not pointed to any model yet" in (await run(world, "history", "support")).stdout
    await world.evaluate(first, entry.model)
    await run_json(world, "promote", "support", "--model", first.public_id, "--evaluation", "eval-1")
    await world.evaluate(second, first.name, better=3, worse=9)
    evidence = ("--model", second.public_id, "--evaluation", "eval-1")
    refused = await run(world, "promote", "support", *evidence)
    assert refused.exit_code == 5
    assert "Not better" in refused.stderr
    overridden = await run_json(world, "promote", "support", *evidence, "--override-reason", "the first one is rude")
    assert (overridden["model"], overridden["promotion_count"]) == (second.name, 2)
    shown = await run(world, "get", "support")
    for words in ("s ago", OPERATOR.name, "the first one is rude", "NOT_BETTER: Not better", "override to", "first to"):
        assert words in shown.stdout, shown.stdout
    assert (await run_json(world, "rollback", "support", "--reason", "so is the second"))["model"] == first.name
    again = await run(world, "rollback", "support", "--reason", "and that")
    assert again.exit_code == 5
    assert "nothing to go back to" in again.stderr
    assert (await run_json(world, "rollback", "support", "--to", second.public_id, "--reason", "x"))["model"] == second.name
    told = await run_json(world, "history", "support")
    assert [change["kind"] for change in told] == ["FIRST", "OVERRIDE", "ROLLBACK", "ROLLBACK"]
    assert told[1]["evidence"]["champion_only_count"] == 9
    table = await run(world, "history", "support")
    for words in ("override", "so is the", "eval-1"):
        assert words in table.stdout, table.stdout


@pytest.mark.parametrize(
    "arguments", ["promote support --model m", "rollback support", "rollback support --to m", "promote support --evaluation e"]
)
async def test_a_change_without_evidence_or_reason_is_wrong_usage(world: World, arguments: str) -> None:
    result = await run(world, *arguments.split())
    assert result.exit_code == 2
    assert "Error: " in result.stderr
