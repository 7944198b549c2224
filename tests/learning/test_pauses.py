"""A job that was paused ends with the weights of one that was not: the real trainer, launcher and workers."""

from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb

from services.common.ports.manifest import Manifest
from services.common.ports.object_store import ObjectStore
from tests.builders import eventually
from tests.learning.builders import desk, uneven_chats
from tests.learning.real_trainer import real_trainer
from tests.rpc.trainer_world import World

RECIPE = pb.Recipe(learning_rate=1e-3, epochs=20, batch_size=1, rank=4, dropout=0.1)  # 240 steps


@pytest.mark.slow
async def test_a_paused_and_resumed_job_gives_the_very_same_weights(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path / "desk", base, uneven_chats(12), uneven_chats(3))
    async with real_trainer(tmp_path, job) as world:
        paused = await world.create(recipe=RECIPE)
        await eventually(lambda: _step(world, paused.name), 240)
        await world.pause(paused.name)
        assert await eventually(lambda: _is(world, paused.name, "PAUSED"), 180)
        assert 0 < (await world.get(paused.name)).progress.step < 240
        straight = await world.create(recipe=RECIPE)  # the pause gave its place free
        assert await eventually(lambda: _is(world, straight.name, "SUCCEEDED"), 300)
        await world.resume(paused.name)
        assert await eventually(lambda: _is(world, paused.name, "SUCCEEDED"), 300)
        assert (await world.get(paused.name)).attempt == 2
    ours, theirs = (_manifest(job.store, name) for name in (paused.name, straight.name))
    assert ours.digest == theirs.digest
    assert [m["train_loss"] for m in ours.data["metrics"]] == [m["train_loss"] for m in theirs.data["metrics"]]


async def _step(world: World, name: str) -> int:
    return (await world.get(name)).progress.step


async def _is(world: World, name: str, state: str) -> bool:
    job = await world.get(name)
    assert job.error.message == ""
    return bool(job.state == pb.FineTuningJob.State.Value(f"STATE_{state}"))


def _manifest(store: ObjectStore, name: str) -> Manifest:
    return Manifest.from_json(store.read(f"jobs/{name.rpartition('/')[2]}/manifest.json"))
