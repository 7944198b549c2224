"""The SDK's own flow – upload, fine-tune, ask – through the gateway and the real dataset and trainer services.

The workers, the model server and `inference` do what the test says; all sockets are real.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from services.trainer.job import KIND
from tests.builders import eventually
from tests.fakes_upstream import DEAD_ADDRESS, running_gateway
from tests.rpc.jobs_world import ADAPTER, ROWS, World, jobs_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with jobs_world(tmp_path) as running:
        yield running


async def test_the_sdks_own_flow_goes_from_a_file_to_an_answer(world: World) -> None:
    client = world.client
    file = await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    job = await client.fine_tuning.jobs.create(
        training_file=file.id, model="gpt-4o-mini", suffix="Even-Odd", seed=7, metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
    )  # fmt: skip
    assert job.status == "validating_files"
    assert (job.object, job.training_file, job.model, job.seed) == ("fine_tuning.job", file.id, "gpt-4o-mini", 7)
    assert (job.metadata, job.fine_tuned_model, job.result_files) == ({"team": "a"}, None, [])
    await world.status(job.id, "running")
    world.inference.replicas["projects/default/models/m0"] = [world.upstream.replica(ADAPTER)]
    await world.train(job.id)
    done = await world.status(job.id, "succeeded")
    assert done.fine_tuned_model == "ft:base:default:even-odd:0"
    assert (done.trained_tokens, done.error) == (1234, None)
    assert done.finished_at >= done.created_at
    assert done.hyperparameters.model_dump(exclude_none=True) == {
        "n_epochs": 2, "batch_size": 6, "learning_rate_multiplier": 1.0,
    }  # fmt: skip
    await world.serve(done.fine_tuned_model, "projects/default/models/m0")
    raw = await client.chat.completions.with_raw_response.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "Is 4 even?"}]
    )
    assert raw.parse().choices[0].message.content == "Is 4 even?"
    assert raw.headers["afina-model-digest"] == ADAPTER
    stream = await client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "yes or no"}], stream=True
    )
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["yes ", "or ", "no "]


async def test_events_come_newest_first_and_page_by_id(world: World) -> None:
    job = await world.client.fine_tuning.jobs.create(training_file=await world.upload(), model="tiny")
    await world.status(job.id, "running")
    await world.train(job.id)
    first = await world.client.fine_tuning.jobs.list_events(job.id, limit=3)
    assert len(first.data) == 3
    everything = [event async for event in world.client.fine_tuning.jobs.list_events(job.id, limit=3)]
    numbers = [int(event.id.rpartition("-")[2]) for event in everything]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 1
    assert everything[-1].message == "The job was created; its data are validated next."
    steps = [event for event in everything if event.type == "metrics"]
    assert [event.data["train_loss"] for event in steps] == [0.5]  # type: ignore[index]
    with pytest.raises(openai.BadRequestError):
        await world.client.fine_tuning.jobs.list_events(job.id, after="ftevent-none")


async def test_content_errors_fail_the_job_and_list_every_line(world: World) -> None:
    rows = ROWS + b'{"messages": "none"}\n{"messages": [\n' + ROWS
    job = await world.client.fine_tuning.jobs.create(training_file=await world.upload(rows), model="tiny")
    failed = await world.status(job.id, "failed")
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert "line 61" in failed.error.message
    assert "line 62" in failed.error.message
    assert failed.fine_tuned_model is None
    listed = await world.client.files.content(failed.result_files[0])
    assert b"61" in listed.content
    assert (await world.client.files.retrieve(failed.result_files[0])).purpose == "fine-tune-results"


async def test_a_repeated_request_makes_one_job_and_its_trace_follows_into_the_trainer(world: World) -> None:
    trace = "7" * 32
    file, headers = await world.upload(), {"Idempotency-Key": "once", "traceparent": f"00-{trace}-{'1' * 16}-01"}
    ids = {
        (await world.client.fine_tuning.jobs.create(training_file=file, model="tiny", extra_headers=headers)).id for _ in range(2)
    }
    assert len(ids) == 1
    record = await world.trainer.database.get(KIND, f"projects/default/fineTuningJobs/{ids.pop()}")
    assert record.document["trace_id"] == trace


async def test_idempotency_keys_that_differ_only_at_a_far_end_are_two_requests(world: World) -> None:
    file, jobs = await world.upload(), world.client.fine_tuning.jobs
    ids = [
        (await jobs.create(training_file=file, model="tiny", extra_headers={"Idempotency-Key": "k" * 300 + end})).id
        for end in ("a", "b", "a")
    ]
    assert ids[0] == ids[2] != ids[1]


async def test_a_job_can_be_cancelled_once(world: World) -> None:
    job = await world.client.fine_tuning.jobs.create(training_file=await world.upload(), model="tiny")
    await world.status(job.id, "running")
    assert (await world.client.fine_tuning.jobs.cancel(job.id)).status == "cancelled"

    async def refused() -> str:
        try:
            await world.client.fine_tuning.jobs.cancel(job.id)
        except openai.BadRequestError as error:
            return error.message
        return ""

    assert "has ended" in await eventually(refused)


async def test_jobs_are_listed_newest_first_by_pages_and_by_metadata(world: World) -> None:
    file = await world.upload()
    made = [
        (await world.client.fine_tuning.jobs.create(training_file=file, model="tiny", metadata={"n": str(n)})).id
        for n in range(5)
    ]
    first = await world.client.fine_tuning.jobs.list(limit=2)
    assert [job.id for job in first.data] == [made[4], made[3]]
    assert first.has_more
    assert [job.id async for job in world.client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id async for job in world.client.fine_tuning.jobs.list(metadata={"n": "1"})] == [made[1]]
    with pytest.raises(openai.BadRequestError):
        await world.client.fine_tuning.jobs.list(after="ftjob-none")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"validation_file": "../x"}, "validation_file", "not the id of a file"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations", "There are none"),
        ({"extra_body": {"lora_rank": 8}}, "lora_rank", "Unknown parameter"),
        ({"suffix": "with space"}, "suffix", "letters, digits and hyphens"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "n_epochs is 0"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", "a whole number or 'auto'"),
        ({"hyperparameters": {"beta": 1}}, "hyperparameters.beta", "Unknown parameter"),
        ({"hyperparameters": {"batch_size": 10**12}}, "hyperparameters.batch_size", "out of all bounds"),
        ({"hyperparameters": {"learning_rate_multiplier": 1e9}}, "hyperparameters.learning_rate_multiplier", "0.0001 to 100"),
        ({"method": {"type": "dpo", "dpo": {}}}, "method.type", "supervised"),
        ({"metadata": {"k": "v" * 600}}, "metadata", "512"),
        ({"seed": -1}, "seed", "seed is -1"),
    ],
)
async def test_what_a_job_may_not_ask_for_is_refused_by_its_name(
    world: World, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await world.client.fine_tuning.jobs.create(training_file=await world.upload(), model="tiny", **fields)
    assert refused.value.param == param
    assert words in refused.value.message


async def test_a_validation_file_validates_and_the_training_file_loses_test_rows_only(world: World) -> None:
    rows = [json.dumps({"prompt": f"What is {i}?", "completion": f"It is number {i}."}) for i in range(110)]
    training = await world.upload("\n".join(rows[:100]).encode())
    validating = await world.upload("\n".join(rows[100:]).encode(), name="validation.jsonl")
    job = await world.client.fine_tuning.jobs.create(training_file=training, validation_file=validating, model="tiny")
    assert job.validation_file == validating
    await world.train(job.id)
    events = [event.message async for event in world.client.fine_tuning.jobs.list_events(job.id)]
    assert "The data are valid: 90 rows to train, 10 to validate, 10 held out." in events
    with pytest.raises(openai.NotFoundError) as refused:
        await world.client.fine_tuning.jobs.create(training_file=training, validation_file="file-none", model="tiny")
    assert (refused.value.param, refused.value.code) == ("validation_file", "file_not_found")
    with pytest.raises(openai.BadRequestError) as same:
        await world.client.fine_tuning.jobs.create(training_file=training, validation_file=training, model="tiny")
    assert same.value.param == "validation_file"


async def test_a_job_for_an_unknown_file_or_model_is_not_found(world: World) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await world.client.fine_tuning.jobs.create(training_file="file-none", model="tiny")
    assert (refused.value.param, refused.value.code) == ("training_file", "file_not_found")
    file = await world.upload()
    for model in ("gpt-none", "../etc"):
        with pytest.raises(openai.NotFoundError) as refused:
            await world.client.fine_tuning.jobs.create(training_file=file, model=model)
        assert (refused.value.param, refused.value.code) == ("model", "model_not_found")
    for job in ("ftjob-none", "%2e%2e"):
        with pytest.raises(openai.NotFoundError):
            await world.client.fine_tuning.jobs.retrieve(job)


async def test_a_file_is_given_back_unchanged_until_it_is_deleted(world: World) -> None:
    rows = ROWS * 300  # more than one chunk of gRPC
    file = await world.client.files.create(file=("zwei Wörter.jsonl", rows), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename, file.status) == ("file", len(rows), "zwei Wörter.jsonl", "processed")
    assert await world.client.files.retrieve(file.id) == file
    content = await world.client.files.content(file.id)
    assert content.content == rows
    assert (await world.client.files.delete(file.id)).deleted
    for call in (world.client.files.retrieve, world.client.files.content, world.client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(file.id)


async def test_files_are_listed_in_both_orders_and_by_purpose(world: World) -> None:
    made = [await world.upload(name=f"{n}.jsonl") for n in range(4)]
    assert [file.id async for file in world.client.files.list(limit=3)] == made[::-1]
    assert [file.id async for file in world.client.files.list(limit=2, order="asc")] == made
    assert [file.id async for file in world.client.files.list(purpose="batch")] == []


@pytest.mark.parametrize(
    ("file", "fields", "status", "param"),
    [
        (("rows.jsonl", ROWS), {"purpose": "assistants"}, 400, "purpose"),
        (("rows.jsonl", ROWS), {"purpose": "fine-tune-results"}, 400, "purpose"),
        (("a/b\x01.jsonl", ROWS), {"purpose": "fine-tune"}, 400, "file"),
        (("rows.jsonl", b""), {"purpose": "fine-tune"}, 400, "file"),
        (("rows.jsonl", ROWS), {"purpose": "fine-tune", "expires_after": {"anchor": "created_at", "seconds": 3600}}, 400, None),
        (("rows.jsonl", b"x" * (3 << 20)), {"purpose": "fine-tune"}, 413, None),
    ],
)
async def test_an_upload_that_can_not_be_kept_is_refused_in_words(
    world: World, file: Any, fields: dict[str, Any], status: int, param: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await world.client.files.create(file=file, **fields)
    assert refused.value.status_code == status
    if param:
        assert refused.value.param == param  # type: ignore[attr-defined]
    assert [file async for file in world.client.files.list()] == []


async def test_the_synchronous_sdk_walks_the_same_road(world: World) -> None:
    def walk() -> str:
        with openai.OpenAI(base_url=f"{world.gateway.url}/v1", api_key=world.gateway.secret, max_retries=0) as client:
            file = client.files.create(file=io.BytesIO(ROWS), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(training_file=file.id, model="tiny")
            assert client.fine_tuning.jobs.list_events(job.id).data
            assert client.files.list().data[0].id == file.id
            return client.fine_tuning.jobs.retrieve(job.id).id

    assert (await asyncio.to_thread(walk)).startswith("ftjob-")


async def test_while_another_program_is_away_the_answer_is_503_with_retry_after(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        client = gateway.client()
        calls: list[Any] = [
            client.files.list(),
            client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune"),
            client.fine_tuning.jobs.list(),
            client.models.retrieve("any"),
        ]
        for call in calls:
            with pytest.raises(openai.InternalServerError) as refused:
                await call
            assert refused.value.status_code == 503
            assert int(refused.value.response.headers["retry-after"]) > 0
            assert DEAD_ADDRESS not in str(refused.value)  # where our programs are is no client's business
