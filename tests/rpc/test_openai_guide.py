"""OpenAI's fine-tuning guide, step by step, as somebody follows it who has changed nothing but the address and the key."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.rpc.jobs_world import ADAPTER, ALIASES, World, jobs_world

SYSTEM = "Marv is a factual chatbot that is also sarcastic."


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with jobs_world(tmp_path) as running:
        yield running


def _prepared(path: Path) -> Path:
    """Step 1: chats, one a line, with a system message and the answer that is wanted."""
    rows = [
        {"messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"What's the number after {n}?"},
            {"role": "assistant", "content": f"{n + 1}, as if nobody had told you before."},
        ]}
        for n in range(20)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def test_the_guide_goes_from_a_file_to_the_models_answer(world: World, tmp_path: Path) -> None:
    client = world.client
    file = await client.files.create(file=_prepared(tmp_path / "mydata.jsonl"), purpose="fine-tune")
    job = await client.fine_tuning.jobs.create(
        training_file=file.id, model="gpt-4o-mini-2024-07-18", suffix="custom-model-name",
        hyperparameters={"n_epochs": 2, "learning_rate_multiplier": 2},
    )  # fmt: skip
    assert job.model == "gpt-4o-mini-2024-07-18"
    assert [listed.id async for listed in client.fine_tuning.jobs.list(limit=10)] == [job.id]
    running = await world.status(job.id, "running")
    assert running.hyperparameters.learning_rate_multiplier == 2
    world.inference.replicas["projects/default/models/m0"] = [world.upstream.replica(ADAPTER)]
    await world.train(job.id)
    done = await world.status(job.id, "succeeded")
    messages = [event.message async for event in client.fine_tuning.jobs.list_events(job.id, limit=10)]
    assert any(told.startswith("learning_rate = ") and "2 × the automatic rate" in told for told in messages)
    checkpoints = [c async for c in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert [c.step_number for c in checkpoints] == [5, 4, 2]
    metrics = await client.files.content(done.result_files[0])
    assert metrics.text.startswith("step,train_loss")
    await world.serve(done.fine_tuned_model, "projects/default/models/m0")
    completion = await client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Well then?"}]
    )
    assert completion.choices[0].message.content == "Well then?"
    answer = await client.responses.create(model=done.fine_tuned_model, instructions=SYSTEM, input="Well then?")
    assert answer.output_text == "Well then?"
    with pytest.raises(openai.BadRequestError, match="name its base") as continued:
        await client.fine_tuning.jobs.create(training_file=file.id, model=done.fine_tuned_model)
    assert continued.value.param == "model"
    datasets = await world.uploads.library.database.list("dataset", "projects/default")
    assert (await client.files.delete(file.id)).deleted
    assert await world.uploads.library.database.list("dataset", "projects/default") == datasets != []
    assert (await client.fine_tuning.jobs.retrieve(job.id)).training_file == file.id
    assert (await client.models.delete(done.fine_tuned_model)).deleted


async def test_the_guides_synchronous_code_creates_and_cancels_a_job(world: World, tmp_path: Path) -> None:
    data = _prepared(tmp_path / "mydata.jsonl")

    def follow(step: Callable[[openai.OpenAI], Any]) -> Any:
        with openai.OpenAI(base_url=f"{world.gateway.url}/v1", api_key=world.gateway.secret, max_retries=0) as client:
            return step(client)

    def begin(client: openai.OpenAI) -> str:
        with data.open("rb") as stream:
            file = client.files.create(file=stream, purpose="fine-tune")
        client.files.wait_for_processing(file.id, poll_interval=0.01)
        job = client.fine_tuning.jobs.create(
            training_file=file.id,
            model="gpt-3.5-turbo",
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        )
        return job.id

    job_id = await asyncio.to_thread(follow, begin)
    await world.status(job_id, "running")
    cancelled = await asyncio.to_thread(follow, lambda client: client.fine_tuning.jobs.cancel(job_id))
    assert cancelled.status == "cancelled"
    events = await asyncio.to_thread(follow, lambda client: list(client.fine_tuning.jobs.list_events(fine_tuning_job_id=job_id)))
    assert events[-1].message == "The job was created; its data are validated next."


@pytest.mark.parametrize("kind", ["dpo", "reinforcement"])
async def test_the_guides_other_methods_are_refused_in_words(world: World, kind: Any) -> None:
    method: Any = {"type": kind, kind: {"hyperparameters": {"beta": 0.1}}}
    with pytest.raises(openai.BadRequestError, match="use 'supervised'") as refused:
        await world.client.fine_tuning.jobs.create(training_file=await world.upload(), model="gpt-4o-mini", method=method)
    assert refused.value.param == "method.type"


async def test_old_code_runs_under_the_names_that_it_knows(world: World) -> None:
    client, file = world.client, await world.upload()
    await world.serve_base("tiny", *ALIASES)
    listed = {model.id: model async for model in client.models.list()}
    assert set(listed) == {"tiny", *ALIASES}
    for alias in ALIASES:
        assert (await client.fine_tuning.jobs.create(training_file=file, model=alias)).model == alias
        assert (await client.models.retrieve(alias)).owned_by == "afina"
        answer = await client.chat.completions.create(model=alias, messages=[{"role": "user", "content": "hi"}])
        assert (answer.model, answer.choices[0].message.content) == (alias, "hi")
        with pytest.raises(openai.BadRequestError, match="only fine-tuned models"):
            await client.models.delete(alias)
    completion = await client.completions.create(model="davinci-002", prompt="Once upon")
    assert completion.choices[0].text == "Once upon"
