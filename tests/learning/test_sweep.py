"""A sweep with real workers: the recipe that learns wins, and the tokens were known before the first of them began."""

from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import sweep_pb2

from services.common.ports.manifest import Manifest
from tests.builders import eventually
from tests.learning.builders import desk, uneven_chats
from tests.learning.real_trainer import real_trainer
from tests.rpc.trainer_world import DATASET, World

RATES = (1e-6, 2e-2)  # one that teaches nothing in twelve steps, and one that does


@pytest.mark.slow
async def test_of_two_recipes_the_one_that_learns_wins(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path / "desk", base, uneven_chats(12), uneven_chats(4))
    recipes = [pb.Recipe(learning_rate=rate, epochs=4, batch_size=4, rank=4, published_checkpoint_count=1) for rate in RATES]
    asked = sweep_pb2.Sweep(base_model="tiny", dataset=DATASET, recipes=recipes)
    async with real_trainer(tmp_path, job) as world:
        request = sweep_pb2.CreateSweepRequest(parent="projects/default", sweep=asked)
        name = (await world.sweeps.CreateSweep(request)).name
        assert await eventually(lambda: _has_succeeded(world, name), 240)
        sweep = await world.sweeps.GetSweep(sweep_pb2.GetSweepRequest(name=name))
        events = await world.jobs.ListFineTuningJobEvents(pb.ListFineTuningJobEventsRequest(name=sweep.winner, page_size=100))
    assert [member.rank for member in sweep.members] == [2, 1]
    assert sweep.winner == sweep.members[1].job
    manifests = [Manifest.from_json(job.store.read(f"jobs/{m.job.rpartition('/')[2]}/manifest.json")) for m in sweep.members]
    for member, manifest in zip(sweep.members, manifests, strict=True):
        assert member.validation_loss == min(measured["loss"] for measured in manifest.data["validation"])
    counted = next(event.data for event in events.events if event.type == "TOKENS_COUNTED")
    assert counted["tokens_per_epoch"] * 4 == manifests[1].data["trained_tokens"]
    types = [event.type for event in events.events]
    assert types.index("TOKENS_COUNTED") < types.index("LOADED")


async def _has_succeeded(world: World, name: str) -> bool:
    sweep = await world.sweeps.GetSweep(sweep_pb2.GetSweepRequest(name=name))
    assert sweep.error.message == ""
    return bool(sweep.state == sweep_pb2.Sweep.STATE_SUCCEEDED)
