"""A trainer's workers on a real S3 server: what an attempt is given opens its job's keys, until the next attempt begins."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from services.common.backends import choose
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.ports.object_store import ObjectStore
from tests.fakes import scripted_count
from tests.rpc.trainer_world import World, trainer_world
from tests.servers import S3Server


@pytest.fixture
async def world(tmp_path: Path, s3_server: S3Server) -> AsyncIterator[World]:
    async with trainer_world(tmp_path, s3_server.store(tmp_path.name)) as running:
        running.peers.validation = {"key": "datasets/v", "size_bytes": 1, "sha256": "0" * 64, "row_count": 80}
        running.peers.test = {**running.peers.validation, "key": "datasets/test"}
        yield running


def opened(environment: dict[str, str]) -> ObjectStore:
    """The store as a workload opens it that has this environment and no other."""
    assert not any(name.startswith(("AWS_", "S3_")) for name in environment)
    return choose.object_store(environment["OBJECT_STORE"], environment)


async def refused(kind: type[Exception], verb: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(kind):
        await asyncio.to_thread(verb, *arguments)


async def test_an_attempt_reads_its_spec_its_rows_and_its_base_and_not_the_rows_that_are_held_out(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    job_id = job.name.rpartition("/")[2]
    for key in ("datasets/x", "datasets/v", "datasets/test"):
        await asyncio.to_thread(world.store.commit, key, b"{}")
    given = world.launcher.environment(f"{job_id}-1")
    store = opened(given)
    assert b'"attempt": 1' in await asyncio.to_thread(store.read, given["AFINA_SPEC"])
    base_files = await asyncio.to_thread(lambda: list(world.store.list("bases/")))
    for key in ("datasets/x", "datasets/v", "manifests/bases/b.json", *base_files):
        assert await asyncio.to_thread(store.read, key)
    await refused(PermissionDenied, store.read, "datasets/test")
    await refused(PermissionDenied, store.delete, f"jobs/{job_id}/manifest.json")
    await refused(PermissionDenied, store.commit, "jobs/ftjob-other/manifest.json", b"poison")


async def test_the_next_attempt_revokes_the_one_before_and_the_end_of_the_job_revokes_all(world: World) -> None:
    job = await world.create()
    await world.move(job.name, "RUNNING")
    job_id = job.name.rpartition("/")[2]
    first = opened(world.launcher.environment(f"{job_id}-1"))
    assert await asyncio.to_thread(first.commit, f"jobs/{job_id}/checkpoints/1.json", b"{}")
    world.launcher.end(f"{job_id}-1", 1)
    await world.move(job.name, "PENDING")
    await world.move(job.name, "RUNNING")
    second = opened(world.launcher.environment(f"{job_id}-2"))
    for verb, *arguments in (
        (first.read, "datasets/x"),
        (first.commit, f"jobs/{job_id}/manifest.json", b"late"),
        (first.delete, f"jobs/{job_id}/checkpoints/1.json"),
    ):
        await refused(Unauthenticated, verb, *arguments)
    assert await asyncio.to_thread(second.read, f"jobs/{job_id}/checkpoints/1.json") == b"{}"
    stranger = {
        **world.launcher.environment(f"{job_id}-1"),
        "OBJECT_STORE": world.launcher.environment(f"{job_id}-2")["OBJECT_STORE"],
    }
    await refused(Unauthenticated, opened(stranger).read, f"jobs/{job_id}/checkpoints/1.json")
    world.commit_result(job.name)
    await world.move(job.name, "SUCCEEDED")
    await refused(Unauthenticated, second.read, f"jobs/{job_id}/checkpoints/1.json")


async def test_an_errand_that_counts_touches_its_count_and_no_weights(world: World) -> None:
    world.launcher.run_errand = lambda manifest: None
    job = await world.create()
    for _ in range(2):
        await world.loop.run_once()
    await world.count()
    (manifest,) = world.launcher.errands.values()
    given = dict(manifest["environment"])
    store = opened(given)
    assert b"result_key" in await asyncio.to_thread(store.read, given["AFINA_SPEC"])
    await refused(PermissionDenied, store.read, f"jobs/{job.name.rpartition('/')[2]}/spec-1.json")
    await refused(PermissionDenied, store.delete, given["AFINA_SPEC"])
    scripted_count(world.store)(manifest)
    await world.count()
    await refused(Unauthenticated, store.read, given["AFINA_SPEC"])
