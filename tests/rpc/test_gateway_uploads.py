"""Files that come in parts: the `openai` SDK, through the gateway, to the real dataset service."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from services.common.errors import WrongState
from services.common.reconcile import Reconciler
from services.dataset.upload import KIND, MAX_PART_BYTES, PART_KIND
from services.dataset.uploading import add_part, reconcile_upload
from tests.rpc.jobs_world import ROWS, World, jobs_world

MIDDLE = len(ROWS) // 2


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[World]:
    async with jobs_world(tmp_path, clock) as running:
        yield running


async def _open(world: World, size_bytes: int = len(ROWS)) -> Any:
    uploads = world.client.uploads
    return await uploads.create(bytes=size_bytes, filename="rows.jsonl", mime_type="application/jsonl", purpose="fine-tune")


async def _refused(call: Any, kind: type[openai.APIStatusError] = openai.BadRequestError) -> Any:
    with pytest.raises(kind) as refused:
        await call
    return refused.value


def _part_keys(world: World) -> list[str]:
    return list(world.store.list("uploads/"))


async def _clear(world: World, clock: Clock) -> None:
    async def step(record: Any) -> Any:
        return await reconcile_upload(world.uploads, record)

    clearing = Reconciler(world.uploads.library.database, KIND, step, clock=clock)
    while await clearing.run_once():
        pass


async def test_the_sdks_chunked_upload_makes_a_file_that_a_job_can_use(world: World) -> None:
    done = await world.client.uploads.upload_file_chunked(
        file=ROWS, filename="rows.jsonl", bytes=len(ROWS), mime_type="application/jsonl", purpose="fine-tune",
        part_size=700, md5=hashlib.md5(ROWS).hexdigest(),
    )  # fmt: skip
    assert done.status == "completed"
    assert done.file is not None
    assert (done.file.bytes, done.file.filename, done.file.purpose) == (len(ROWS), "rows.jsonl", "fine-tune")
    assert (await world.client.files.content(done.file.id)).content == ROWS
    job = await world.client.fine_tuning.jobs.create(training_file=done.file.id, model="tiny")
    await world.status(job.id, "running")


async def test_parts_come_at_once_and_are_put_together_in_the_order_that_is_named(world: World, clock: Clock) -> None:
    client, upload = world.client, await _open(world)
    assert (upload.object, upload.status, upload.file) == ("upload", "pending", None)
    assert upload.expires_at - upload.created_at in range(3590, 3602)
    later, sooner = await asyncio.gather(
        *(client.uploads.parts.create(upload.id, data=data) for data in (ROWS[MIDDLE:], ROWS[:MIDDLE]))
    )
    assert (later.object, later.upload_id) == ("upload.part", upload.id)
    done = await client.uploads.complete(upload.id, part_ids=[sooner.id, later.id])
    assert (await client.files.content(done.file.id)).content == ROWS  # type: ignore[union-attr]
    again = await client.uploads.complete(upload.id, part_ids=[sooner.id, later.id])
    assert again.file == done.file
    assert [file.id async for file in client.files.list()] == [done.file.id]  # type: ignore[union-attr]
    assert len(_part_keys(world)) == 2
    await _clear(world, clock)
    assert _part_keys(world) == []
    assert await world.uploads.library.database.list(PART_KIND, "") == []
    assert (await client.files.content(done.file.id)).content == ROWS  # type: ignore[union-attr]


async def test_two_completions_at_once_make_one_file(world: World) -> None:
    uploads, upload = world.client.uploads, await _open(world)
    part = await uploads.parts.create(upload.id, data=ROWS)
    done = await asyncio.gather(*(uploads.complete(upload.id, part_ids=[part.id]) for _ in range(4)))
    assert len({answer.file.id for answer in done if answer.file}) == 1
    assert len([file async for file in world.client.files.list()]) == 1


async def test_of_two_completions_of_other_parts_with_the_same_bytes_the_winners_file_stays(world: World) -> None:
    uploads, upload = world.client.uploads, await _open(world)
    parts = [await uploads.parts.create(upload.id, data=ROWS) for _ in range(2)]  # as after an answer that was lost
    done = await asyncio.gather(*(uploads.complete(upload.id, part_ids=[part.id]) for part in parts), return_exceptions=True)
    (won,) = [answer for answer in done if not isinstance(answer, BaseException)]
    assert won.file is not None
    assert (await world.client.files.content(won.file.id)).content == ROWS


async def test_a_cancellation_that_comes_first_wins_over_the_completion_beside_it(world: World) -> None:
    uploads, upload = world.client.uploads, await _open(world)
    part = await uploads.parts.create(upload.id, data=ROWS)
    completing, cancelling = await asyncio.gather(
        uploads.complete(upload.id, part_ids=[part.id]), uploads.cancel(upload.id), return_exceptions=True
    )
    assert isinstance(completing, openai.BadRequestError) is not isinstance(cancelling, openai.BadRequestError)
    assert len([file async for file in world.client.files.list()]) == (not isinstance(completing, openai.BadRequestError))


async def test_parts_that_are_not_the_file_are_refused_and_the_upload_stays_open(world: World) -> None:
    uploads, upload = world.client.uploads, await _open(world)
    first = await uploads.parts.create(upload.id, data=ROWS[:MIDDLE])
    second = await uploads.parts.create(upload.id, data=ROWS[MIDDLE:])
    short = await _refused(uploads.complete(upload.id, part_ids=[first.id]))
    assert (short.param, f"{len(ROWS):,}" in short.message) == ("part_ids", True)
    assert (await _refused(uploads.complete(upload.id, part_ids=[]))).param == "part_ids"
    assert "twice" in (await _refused(uploads.complete(upload.id, part_ids=[first.id, first.id]))).message
    unknown = await _refused(uploads.complete(upload.id, part_ids=[first.id, "part-none", "../x"]))
    assert "part-none, ../x" in unknown.message
    wrong = await _refused(uploads.complete(upload.id, part_ids=[second.id, first.id], md5=hashlib.md5(ROWS).hexdigest()))
    assert (wrong.param, wrong.code) == ("md5", "md5_mismatch")
    assert "32 hex digits" in (await _refused(uploads.complete(upload.id, part_ids=[first.id], md5="xyz"))).message
    assert [file async for file in world.client.files.list()] == []
    done = await uploads.complete(upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(ROWS).hexdigest().upper())
    assert done.status == "completed"


async def test_an_upload_that_has_ended_takes_nothing_more(world: World, clock: Clock) -> None:
    uploads = world.client.uploads
    cancelled, expiring = await _open(world), await _open(world)
    part = await uploads.parts.create(cancelled.id, data=ROWS)
    kept = await uploads.parts.create(expiring.id, data=ROWS)
    assert (await uploads.cancel(cancelled.id)).status == "cancelled"
    clock.now += timedelta(hours=1)
    for upload, its, code in ((cancelled, part, "upload_cancelled"), (expiring, kept, "upload_expired")):
        for call in (
            uploads.parts.create(upload.id, data=b"x"),
            uploads.complete(upload.id, part_ids=[its.id]),
            uploads.cancel(upload.id),
        ):
            refused = await _refused(call)
            assert refused.code == code
            assert "open another one" in refused.message
    await _clear(world, clock)
    assert len(_part_keys(world)) == 1  # a completion that began in time may still read the one that expired
    clock.now += timedelta(minutes=15)
    await _clear(world, clock)
    assert _part_keys(world) == []
    assert (await _refused(uploads.cancel(expiring.id))).code == "upload_expired"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"purpose": "assistants"}, "purpose", "send 'fine-tune'"),
        ({"purpose": "fine-tune-results"}, "purpose", "send 'fine-tune'"),
        ({"bytes": 0}, "bytes", "1 to"),
        ({"bytes": 9 << 30}, "bytes", "1 to"),
        ({"bytes": "many"}, "bytes", "whole number"),
        ({"bytes": 2**64 - 1}, "bytes", "out of all bounds"),
        ({"filename": "../rows.jsonl"}, "filename", "path"),
        ({"mime_type": "a\nb"}, "mime_type", "printed"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3600}}, "expires_after", "until they are deleted"),
    ],
)
async def test_an_upload_that_can_not_be_opened_is_refused_in_words(
    world: World, fields: dict[str, Any], param: str, words: str
) -> None:
    usual: dict[str, Any] = {"bytes": 10, "filename": "rows.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    refused = await _refused(world.client.uploads.create(**{**usual, **fields}))
    assert refused.param == param
    assert words in refused.message


async def test_a_part_that_is_empty_too_large_or_for_nothing_is_refused(world: World) -> None:
    uploads, upload = world.client.uploads, await _open(world)
    assert (await _refused(uploads.parts.create(upload.id, data=b""))).param == "data"
    large = await _refused(uploads.parts.create(upload.id, data=b"x" * (MAX_PART_BYTES + 1)), openai.APIStatusError)
    assert (large.status_code, "64" in large.message or "67" in large.message) == (413, True)
    for upload_id in ("upload-none", "..%2Fx"):
        for call in (
            uploads.parts.create(upload_id, data=b"x"),
            uploads.complete(upload_id, part_ids=["x"]),
            uploads.cancel(upload_id),
        ):
            assert (await _refused(call, openai.NotFoundError)).code in ("upload_not_found", "unknown_url")


async def test_the_synchronous_sdk_sends_a_file_from_disk_in_parts(world: World, tmp_path: Path) -> None:
    (tmp_path / "big.jsonl").write_bytes(ROWS)

    def send() -> Any:
        with openai.OpenAI(base_url=f"{world.gateway.url}/v1", api_key=world.gateway.secret, max_retries=0) as client:
            return client.uploads.upload_file_chunked(
                file=tmp_path / "big.jsonl", mime_type="application/jsonl", purpose="fine-tune", part_size=1000
            )

    done = await asyncio.to_thread(send)
    assert (done.status, done.file.filename) == ("completed", "big.jsonl")


async def test_a_completion_that_is_repeated_after_its_file_was_deleted_still_says_that_it_was_done(world: World) -> None:
    uploads, upload = world.client.uploads, await _open(world)
    part = await uploads.parts.create(upload.id, data=ROWS)
    done = await uploads.complete(upload.id, part_ids=[part.id])
    await world.client.files.delete(done.file.id)  # type: ignore[union-attr]
    again = await uploads.complete(upload.id, part_ids=[part.id])
    assert (again.status, again.file) == ("completed", None)


async def test_a_part_that_comes_too_late_takes_no_bytes_from_its_twin(world: World, clock: Clock) -> None:
    upload = await _open(world)
    part = await world.client.uploads.parts.create(upload.id, data=ROWS)
    name = f"projects/default/uploads/{upload.id}"

    async def ends_while_the_bytes_come() -> AsyncIterator[bytes]:
        yield ROWS
        await world.client.uploads.cancel(upload.id)

    with pytest.raises(WrongState):
        await add_part(world.uploads, name, ends_while_the_bytes_come())
    assert len(_part_keys(world)) == 1  # who began to read it in time reads on
    assert await world.uploads.library.database.get(PART_KIND, f"{name}/parts/{part.id}")
    await _clear(world, clock)
    clock.now += timedelta(minutes=15)
    await _clear(world, clock)
    assert _part_keys(world) == []
    assert await world.uploads.library.database.list(PART_KIND, "") == []
