"""What a job leaves behind, as the trainer's clients see it: published checkpoints and its metrics as a file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb

from services.common import errors
from tests.rpc.trainer_world import World, trainer_world

METRICS = [
    {"step": 1, "epoch": 0.5, "train_loss": 1.5, "train_accuracy": 0.25, "learning_rate": 1e-3},
    {"step": 2, "epoch": 1.0, "train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.25, "validation_accuracy": 0.375},
]
PUBLISHED = [
    {"step": step, "manifest_key": f"jobs/j/checkpoints-published/{step}.json", "metrics": METRICS[1]} for step in (2, 4)
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trainer_world(tmp_path) as running:
        yield running


async def test_published_checkpoints_become_models_after_the_jobs_own(world: World) -> None:
    job = await world.create(suffix="reviews", recipe=pb.Recipe(published_checkpoint_count=2))
    await world.move(job.name, "RUNNING")
    assert (await world.get(job.name)).effective_recipe.published_checkpoint_count == 2
    world.commit_result(job.name, metrics=METRICS, published_checkpoints=PUBLISHED)
    await world.move(job.name, "SUCCEEDED")
    keys = [key for _, key, _ in world.peers.registered]
    assert keys == [f"jobs/{job.name.rpartition('/')[2]}/manifest.json", *(told["manifest_key"] for told in PUBLISHED)]
    checkpoints = (await world.get(job.name)).checkpoints
    assert [(c.step, c.public_id) for c in checkpoints] == [
        (2, "ft:tiny:default::m2:ckpt-step-2"), (4, "ft:tiny:default::m4:ckpt-step-4"),
    ]  # fmt: skip
    assert (checkpoints[0].train_loss, checkpoints[0].validation_loss, checkpoints[0].validation_accuracy) == (1.0, 1.25, 0.375)
    assert checkpoints[0].HasField("create_time")


async def test_a_checkpoint_that_can_not_be_served_is_a_warning_and_the_job_goes_on(world: World) -> None:
    world.peers.refused_steps = {2}
    job = await world.create()
    await world.move(job.name, "RUNNING")
    world.commit_result(job.name, published_checkpoints=PUBLISHED)
    await world.move(job.name, "SUCCEEDED")
    assert [c.step for c in (await world.get(job.name)).checkpoints] == [4]
    response = await world.jobs.ListFineTuningJobEvents(pb.ListFineTuningJobEventsRequest(name=job.name))
    assert any("step 2 can't be served" in event.message for event in response.events if event.type == "WARNING")


async def test_the_metrics_become_one_file_in_the_columns_of_openai(world: World) -> None:
    world.peers.proof_errors = [errors.Unavailable("starting"), errors.Unavailable("starting")]  # so several looks
    job = await world.create()
    await world.move(job.name, "RUNNING")
    world.commit_result(job.name, metrics=METRICS)
    await world.move(job.name, "SUCCEEDED")
    ((_, content),) = world.peers.results.items()
    assert content.decode() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,1.5,0.25,,\n2,1.0,0.5,1.25,0.375\n"
    )
    assert list((await world.get(job.name)).result_files) == ["projects/default/files/file-1"]


async def test_stopping_early_without_validation_rows_is_warned_about(world: World) -> None:
    job = await world.create(recipe=pb.Recipe(early_stopping_patience=3))
    await world.move(job.name, "PENDING")
    response = await world.jobs.ListFineTuningJobEvents(pb.ListFineTuningJobEventsRequest(name=job.name))
    assert any("no validation rows" in event.message for event in response.events if event.type == "WARNING")
    assert (await world.get(job.name)).effective_recipe.early_stopping_patience == 3


async def test_patience_and_count_have_bounds(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await world.create(recipe=pb.Recipe(early_stopping_patience=0, published_checkpoint_count=11))
    assert {v.field for v in caught.value.violations} == {"recipe.early_stopping_patience", "recipe.published_checkpoint_count"}
