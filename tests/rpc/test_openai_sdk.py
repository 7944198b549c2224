"""Every method of the `openai` SDK over files, uploads, jobs, models, chats and responses: it works, or is refused in words.

The tables are held against the SDK itself: a method that a new version brings fails the test until somebody has decided
about it. Answers are validated strictly against the SDK's types.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from afina.v1 import model_pb2
from pydantic import BaseModel

from tests.builders import eventually
from tests.rpc.jobs_world import ADAPTER, ROWS, World, jobs_world

OURS = ("files", "uploads", "fine_tuning", "models", "chat", "completions", "responses", "embeddings")
TUNED = "ft:tiny:default::9"
SAYS: Any = [{"role": "user", "content": '{"answer": 4}'}]
Call = Callable[[Any, dict[str, Any]], Any]


class Answer(BaseModel):
    answer: int


# In the order in which they can be called: `seen` holds what the calls before gave.
COVERED: dict[str, Call] = {
    "files.create": lambda c, seen: c.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune"),
    "files.retrieve": lambda c, seen: c.files.retrieve(seen["files.create"].id),
    "files.list": lambda c, seen: c.files.list(purpose="fine-tune", limit=5, order="asc"),
    "files.content": lambda c, seen: c.files.content(seen["files.create"].id),
    "files.retrieve_content": lambda c, seen: c.files.retrieve_content(seen["files.create"].id),
    "files.wait_for_processing": lambda c, seen: c.files.wait_for_processing(seen["files.create"].id, poll_interval=0.01),
    "uploads.create": lambda c, seen: c.uploads.create(
        bytes=len(ROWS), filename="rows.jsonl", mime_type="application/jsonl", purpose="fine-tune"
    ),
    "uploads.parts.create": lambda c, seen: c.uploads.parts.create(seen["uploads.create"].id, data=ROWS),
    "uploads.complete": lambda c, seen: c.uploads.complete(seen["uploads.create"].id, part_ids=[seen["uploads.parts.create"].id]),
    "uploads.upload_file_chunked": lambda c, seen: c.uploads.upload_file_chunked(
        file=ROWS, filename="x.jsonl", bytes=len(ROWS), mime_type="application/jsonl", purpose="fine-tune", part_size=2000
    ),
    "fine_tuning.jobs.create": lambda c, seen: c.fine_tuning.jobs.create(
        training_file=seen["uploads.complete"].file.id, model="tiny", seed=1, suffix="sdk", metadata={"a": "b"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 2}}},
    ),
    "fine_tuning.jobs.retrieve": lambda c, seen: c.fine_tuning.jobs.retrieve(seen["fine_tuning.jobs.create"].id),
    "fine_tuning.jobs.list": lambda c, seen: c.fine_tuning.jobs.list(limit=1, metadata={"a": "b"}),
    "fine_tuning.jobs.list_events": lambda c, seen: c.fine_tuning.jobs.list_events(seen["fine_tuning.jobs.create"].id, limit=2),
    "fine_tuning.jobs.checkpoints.list": lambda c, seen: c.fine_tuning.jobs.checkpoints.list(seen["fine_tuning.jobs.create"].id),
    "fine_tuning.jobs.pause": lambda c, seen: c.fine_tuning.jobs.pause(seen["fine_tuning.jobs.create"].id),
    "fine_tuning.jobs.resume": lambda c, seen: c.fine_tuning.jobs.resume(seen["fine_tuning.jobs.create"].id),
    "fine_tuning.jobs.cancel": lambda c, seen: c.fine_tuning.jobs.cancel(seen["fine_tuning.jobs.create"].id),
    "models.list": lambda c, seen: c.models.list(),
    "models.retrieve": lambda c, seen: c.models.retrieve(TUNED),
    "chat.completions.create": lambda c, seen: c.chat.completions.create(
        model=TUNED, messages=SAYS, n=1, seed=7, stop=["\n\n"], logprobs=True, top_logprobs=2, temperature=0, max_tokens=8,
        response_format={"type": "json_object"}, store=False, user="me",
    ),
    "chat.completions.parse": lambda c, seen: c.chat.completions.parse(model=TUNED, messages=SAYS, response_format=Answer),
    "chat.completions.stream": lambda c, seen: c.chat.completions.stream(model=TUNED, messages=SAYS),
    "completions.create": lambda c, seen: c.completions.create(model=TUNED, prompt="one two", max_tokens=4, stop="x", seed=1),
    "responses.create": lambda c, seen: c.responses.create(model=TUNED, input="hi", store=False),
    "responses.parse": lambda c, seen: c.responses.parse(model=TUNED, input='{"answer": 4}', text_format=Answer),
    "responses.stream": lambda c, seen: c.responses.stream(model=TUNED, input="hi there"),
    "models.delete": lambda c, seen: c.models.delete(TUNED),
    "uploads.cancel": lambda c, seen: c.uploads.cancel(seen["uploads.another"].id),
    "files.delete": lambda c, seen: c.files.delete(seen["files.create"].id),
}  # fmt: skip

REFUSED: dict[str, tuple[Call, str]] = {
    "chat.completions.list": (lambda c, _: c.chat.completions.list(), "not stored"),
    "chat.completions.retrieve": (lambda c, _: c.chat.completions.retrieve("chatcmpl-1"), "not stored"),
    "chat.completions.update": (lambda c, _: c.chat.completions.update("chatcmpl-1", metadata={}), "not stored"),
    "chat.completions.delete": (lambda c, _: c.chat.completions.delete("chatcmpl-1"), "not stored"),
    "chat.completions.messages.list": (lambda c, _: c.chat.completions.messages.list("chatcmpl-1"), "not stored"),
    "responses.retrieve": (lambda c, _: c.responses.retrieve("resp_1"), "not stored"),
    "responses.delete": (lambda c, _: c.responses.delete("resp_1"), "not stored"),
    "responses.cancel": (lambda c, _: c.responses.cancel("resp_1"), "not stored"),
    "responses.input_items.list": (lambda c, _: c.responses.input_items.list("resp_1"), "not stored"),
    "responses.input_tokens.count": (lambda c, _: c.responses.input_tokens.count(model="tiny", input="x"), "counts its tokens"),
    "responses.compact": (lambda c, _: c.responses.compact(model="tiny", input="x"), "compacted"),
    # The SDK opens a websocket here, whose handshake is a GET.
    "responses.connect": (lambda c, _: c.get("/responses", cast_to=object), "no websocket"),
    "embeddings.create": (lambda c, _: c.embeddings.create(model="tiny", input="x"), "no embeddings"),
    "fine_tuning.checkpoints.permissions.create": (
        lambda c, _: c.fine_tuning.checkpoints.permissions.create("ft:x", project_ids=["p"]), "belongs to its project"),
    "fine_tuning.checkpoints.permissions.retrieve": (
        lambda c, _: c.fine_tuning.checkpoints.permissions.retrieve("ft:x"), "belongs to its project"),
    "fine_tuning.checkpoints.permissions.list": (
        lambda c, _: c.fine_tuning.checkpoints.permissions.list("ft:x"), "belongs to its project"),
    "fine_tuning.checkpoints.permissions.delete": (
        lambda c, _: c.fine_tuning.checkpoints.permissions.delete("c", fine_tuned_model_checkpoint="f"), "its project"),
    "fine_tuning.alpha.graders.run": (
        lambda c, _: c.fine_tuning.alpha.graders.run(grader={}, model_sample="x"), "no graders"),
    "fine_tuning.alpha.graders.validate": (lambda c, _: c.fine_tuning.alpha.graders.validate(grader={}), "no graders"),
}  # fmt: skip

# Whole resources that are not here, with a path of each and what its refusal says.
ELSEWHERE: dict[str, tuple[str, str]] = {
    "admin": ("/organization/users", "afina keys"),
    "audio": ("/audio/voices", "no audio"),
    "batches": ("/batches", "no batches"),
    "beta": ("/assistants", "no assistants"),
    "containers": ("/containers", "no containers"),
    "content_provenance_checks": ("/content_provenance_checks", "Invalid URL"),
    "conversations": ("/conversations/conv_1", "not stored"),
    "decisions": ("/decisions", "Invalid URL"),
    "evals": ("/evals", "afina evaluations"),
    "images": ("/images/generations", "no images"),
    "live": ("/live/sessions", "Invalid URL"),
    "moderations": ("/moderations", "no moderation"),
    "realtime": ("/realtime/calls", "no realtime"),
    "safety": ("/safety/identifiers", "Invalid URL"),
    "skills": ("/skills", "no skills"),
    "vector_stores": ("/vector_stores", "no vector stores"),
    "videos": ("/videos", "no videos"),
    "webhooks": ("/webhooks", "Invalid URL"),
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with jobs_world(tmp_path) as running:
        running.inference.models["projects/default/models/m9"] = _model()
        await running.serve(TUNED, "projects/default/models/m9")
        yield running


def _model() -> Any:
    kind = model_pb2.Model.KIND_ADAPTER
    return model_pb2.Model(name="projects/default/models/m9", kind=kind, digest=ADAPTER, public_id=TUNED)


def _is_resource(value: Any) -> bool:
    return isinstance(value, openai.resource.SyncAPIResource | openai.resource.AsyncAPIResource)  # type: ignore[attr-defined]


def _properties(thing: Any) -> dict[str, Any]:
    static = {name: inspect.getattr_static(type(thing), name) for name in dir(type(thing)) if not name.startswith(("_", "with_"))}
    return {name: value for name, value in static.items() if type(value).__name__ == "cached_property"}


def _methods(thing: Any, path: str) -> set[str]:
    """Return the dotted names of what can be called on a resource and on those below it."""
    found: set[str] = set()
    properties = _properties(thing)
    for name in properties:
        found |= _methods(getattr(thing, name), f"{path}.{name}")
    for name in dir(type(thing)):
        if not name.startswith(("_", "with_")) and name not in properties and callable(getattr(type(thing), name)):
            found.add(f"{path}.{name}")
    return found


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_no_method_of_the_sdk_is_unknown_here(kind: type[Any]) -> None:
    client = kind(api_key="none")
    methods = set().union(*(_methods(getattr(client, name), name) for name in OURS))
    assert methods == set(COVERED) | set(REFUSED)
    assert set(_properties(client)) == set(OURS) | set(ELSEWHERE)


@pytest.mark.parametrize("is_async", [False, True])
async def test_every_covered_method_answers_in_the_sdks_types(world: World, is_async: bool) -> None:
    seen: dict[str, Any] = {}
    async with _clients(world, is_async) as (client, lenient):
        for name, call in COVERED.items():
            await _before(world, name, seen, client)
            # The SDK has no word for `paused` in the status of a job, though OpenAI's service has.
            chosen = lenient if name == "fine_tuning.jobs.pause" else client
            try:
                seen[name] = await _finish(call, chosen, seen, is_async)
            except Exception as error:
                raise AssertionError(f"{name}: {error}") from error
    assert seen["files.content"].content == ROWS
    assert seen["files.retrieve_content"].encode() == ROWS
    assert seen["chat.completions.parse"].choices[0].message.parsed == Answer(answer=4)
    assert seen["responses.parse"].output_parsed == Answer(answer=4)
    assert seen["fine_tuning.jobs.cancel"].status == "cancelled"


@pytest.mark.parametrize("is_async", [False, True])
async def test_every_other_method_is_refused_in_words(world: World, is_async: bool) -> None:
    async with _clients(world, is_async) as (client, _):
        for name, (call, words) in REFUSED.items():
            with pytest.raises(openai.APIStatusError) as refused:
                await _finish(call, client, {}, is_async)
            assert words in refused.value.message, name
            assert refused.value.status_code in (404, 405), name


async def test_resources_that_are_not_here_say_so(world: World) -> None:
    for name, (path, words) in ELSEWHERE.items():
        with pytest.raises(openai.NotFoundError) as refused:
            await world.client.get(path, cast_to=object)
        assert words in refused.value.message, name


@contextlib.asynccontextmanager
async def _clients(world: World, is_async: bool) -> AsyncIterator[tuple[Any, Any]]:
    """Give a client that checks every answer against its types, and one that does not."""
    kind: Any = openai.AsyncOpenAI if is_async else openai.OpenAI
    reach: Any = {"base_url": f"{world.gateway.url}/v1", "api_key": world.gateway.secret, "max_retries": 0}
    clients = kind(**reach, _strict_response_validation=True), kind(**reach)
    yield clients
    for client in clients:
        closing = client.close()
        if closing is not None:
            await closing


async def _before(world: World, name: str, seen: dict[str, Any], client: Any) -> None:
    """Bring the world to where a method makes sense."""
    if name == "uploads.cancel":
        seen["uploads.another"] = await _finish(COVERED["uploads.create"], client, seen, isinstance(client, openai.AsyncOpenAI))
    job = seen["fine_tuning.jobs.create"].id if "fine_tuning.jobs.create" in seen else ""
    if name == "fine_tuning.jobs.pause":
        await world.status(job, "running")
    if name == "fine_tuning.jobs.resume":
        world.launcher.end(f"{job}-1", 75)

        async def is_paused() -> bool:
            record = await world.trainer.database.get("fineTuningJob", f"projects/default/fineTuningJobs/{job}")
            return bool(record.document["state"] == "PAUSED")

        await eventually(is_paused)


async def _finish(call: Call, client: Any, seen: dict[str, Any], is_async: bool) -> Any:
    """Make a call to its end, as a program of either kind does."""
    if not is_async:
        return await asyncio.to_thread(_finish_here, call, client, seen)
    result = call(client, seen)
    if hasattr(result, "__aenter__") and "StreamManager" in type(result).__name__:
        async with result as stream:
            return [event async for event in stream]
    return await result


def _finish_here(call: Call, client: Any, seen: dict[str, Any]) -> Any:
    result = call(client, seen)
    if "StreamManager" in type(result).__name__:
        with result as stream:
            return list(stream)
    return result
