"""What a job leaves behind and how it rests, as the `openai` SDK sees it: checkpoints, result files, pauses."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from services.trainer.job import KIND
from tests.builders import eventually
from tests.rpc.jobs_world import ADAPTER, World, jobs_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with jobs_world(tmp_path) as running:
        yield running


async def test_checkpoints_are_listed_with_their_metrics_and_answer(world: World) -> None:
    jobs = world.client.fine_tuning.jobs
    job = await jobs.create(training_file=await world.upload(), model="tiny")
    record = await world.trainer.database.get(KIND, f"projects/default/fineTuningJobs/{job.id}")
    assert record.document["asked_recipe"]["published_checkpoint_count"] == 3
    await world.status(job.id, "running")
    assert (await jobs.checkpoints.list(job.id)).data == []
    world.inference.replicas["projects/default/models/m0"] = [world.upstream.replica(ADAPTER)]
    await world.train(job.id)
    await world.status(job.id, "succeeded")
    first = await jobs.checkpoints.list(job.id, limit=2)
    assert [c.step_number for c in first.data] == [5, 4]
    assert first.has_more
    everything = [checkpoint async for checkpoint in jobs.checkpoints.list(job.id, limit=2)]
    assert [c.step_number for c in everything] == [5, 4, 2]
    newest = everything[0]
    assert (newest.object, newest.fine_tuning_job_id) == ("fine_tuning.job.checkpoint", job.id)
    assert newest.fine_tuned_model_checkpoint == "ft:base:default::3:ckpt-step-5"
    assert newest.metrics.model_dump() == {
        "step": 5, "train_loss": 0.5, "train_mean_token_accuracy": 0.75, "valid_loss": 0.625, "valid_mean_token_accuracy": 0.5,
        "full_valid_loss": 0.625, "full_valid_mean_token_accuracy": 0.5,
    }  # fmt: skip
    with pytest.raises(openai.BadRequestError):
        await jobs.checkpoints.list(job.id, after="ftckpt-none")
    await world.serve(newest.fine_tuned_model_checkpoint, "projects/default/models/m3")
    answer = await world.client.chat.completions.create(
        model=newest.fine_tuned_model_checkpoint, messages=[{"role": "user", "content": "Is 4 even?"}]
    )
    assert answer.choices[0].message.content == "Is 4 even?"


async def test_the_metrics_are_a_result_file_to_download(world: World) -> None:
    job = await world.client.fine_tuning.jobs.create(training_file=await world.upload(), model="tiny")
    world.inference.replicas["projects/default/models/m0"] = [world.upstream.replica(ADAPTER)]
    await world.train(job.id)
    (result,) = (await world.status(job.id, "succeeded")).result_files
    file = await world.client.files.retrieve(result)
    assert (file.purpose, file.filename) == ("fine-tune-results", "step_metrics.csv")
    (row,) = csv.DictReader(io.StringIO((await world.client.files.content(result)).text))
    assert row == {
        "step": "5", "train_loss": "0.5", "train_accuracy": "0.75", "valid_loss": "0.625", "valid_mean_token_accuracy": "0.5",
    }  # fmt: skip
    assert [f.id async for f in world.client.files.list(purpose="fine-tune-results")] == [result]


async def test_a_job_can_be_paused_and_resumed(world: World) -> None:
    jobs = world.client.fine_tuning.jobs
    job = await jobs.create(training_file=await world.upload(), model="tiny")
    with pytest.raises(openai.BadRequestError):
        await jobs.resume(job.id)
    await world.status(job.id, "running")
    assert (await jobs.pause(job.id)).status == "paused"  # type: ignore[comparison-overlap]
    world.launcher.end(f"{job.id}-1", 75)
    paused = await eventually(lambda: _state_is(world, job.id, "PAUSED"))
    assert paused
    assert (await jobs.retrieve(job.id)).finished_at is None
    assert (await jobs.resume(job.id)).status == "queued"
    await eventually(lambda: f"{job.id}-2" in world.launcher.manifests)
    await world.train(job.id)
    await world.status(job.id, "running")
    world.inference.replicas["projects/default/models/m0"] = [world.upstream.replica(ADAPTER)]
    assert (await world.status(job.id, "succeeded")).fine_tuned_model


async def _state_is(world: World, job_id: str, state: str) -> bool:
    record = await world.trainer.database.get(KIND, f"projects/default/fineTuningJobs/{job_id}")
    return bool(record.document["state"] == state)


async def test_a_job_has_succeeded_before_its_model_is_compared_and_who_wants_no_comparison_says_so(world: World) -> None:
    jobs, file = world.client.fine_tuning.jobs, await world.upload()
    for wanted, status in (({}, "in_progress"), ({"evaluation": "auto"}, "in_progress"), ({"evaluation": "none"}, None)):
        job = await jobs.create(training_file=file, model="tiny", extra_body=wanted)
        model = f"projects/default/models/m{len(world.inference.models)}"
        world.inference.replicas[model] = [world.upstream.replica(ADAPTER)]
        await world.train(job.id)
        done = await world.status(job.id, "succeeded")  # the evaluator is away
        assert done.fine_tuned_model
        told = (done.model_extra or {})["evaluation"]
        assert (told["status"] if told else None) == status
    for wrong in ("Not an id!", 7, ["a"]):
        with pytest.raises(openai.BadRequestError) as caught:
            await jobs.create(training_file=file, model="tiny", extra_body={"evaluation": wrong})
        assert caught.value.param == "evaluation"
