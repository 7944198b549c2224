"""Two of each service on one database and one launcher: one is frozen past its lease and woken, and nothing happens twice.

SIGSTOP is the worst that a replica can do: it neither ends nor answers, and when it wakes it goes on in the middle of a line
with what it knew before. Both replicas take turns, so that each is frozen in a part of the job where it may hold a claim.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.home import ADDRESS_VARIABLES, PROGRAMS, find
from services.cli.supervisor import Supervisor
from services.cli.up import is_serving
from tests.builders import eventually, free_port
from tests.e2e.main_job import MainJob, ask
from tests.e2e.outcome import ONCE, check
from tests.e2e.world import LAUNCHED, ROOT, START_LIMIT_S, World, opened, planned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LEASE_S = 3.0


@contextlib.asynccontextmanager
async def twins(folder: Path) -> AsyncIterator[tuple[World, World]]:
    """Two replicas of each program: the second has ports of its own and shares everything else."""
    async with opened(folder, {"LEASE_S": str(LEASE_S), "ROUTES_BELIEVED_S": str(LEASE_S)}, is_warm=False) as first:
        environ = first.environ | {variable: f"127.0.0.1:{free_port()}" for variable in ADDRESS_VARIABLES.values()}
        home = find(environ)
        logs = folder / "second"
        logs.mkdir()
        supervisor = Supervisor(planned(home, environ), logs, is_serving, cwd=ROOT)
        supervisor.start()
        second = replace(first, environ=environ, home=home, supervisor=supervisor, calls={})
        try:
            await asyncio.gather(first.warm(), supervisor.wait_until_ready(START_LIMIT_S))
            yield first, second
        finally:
            await second.close()
            await supervisor.stop()


async def freeze(world: World) -> None:
    """Freeze all five programs of a world, and wake them when their leases are over."""
    pids = [pid for program in PROGRAMS for pid in await world.pids(program)]
    end_s = time.monotonic() + LEASE_S + 1
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await eventually(lambda: time.monotonic() > end_s, timeout_s=2 * LEASE_S)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_one_of_two_replicas_of_everything_freezes_past_its_lease_and_nothing_happens_twice(tmp_path: Path) -> None:
    async with twins(tmp_path) as (first, second):
        job = MainJob(first, "twins")
        await job.upload()
        name = await job.begin()
        await asyncio.gather(freeze(second), job.reached(name, "Attempt 1 runs"))
        job.world = second  # clients are sent to whoever answers
        await asyncio.gather(freeze(first), job.reached(name, "Saved a checkpoint"))  # the worker's own trainer among them
        job.world = first
        await asyncio.gather(freeze(second), job.ended())
        job.world = second
        await asyncio.gather(freeze(first), job.evaluate())
        job.world = first
        _, story = await asyncio.gather(freeze(second), job.serve())
        for world in (second, first):
            client = await world.openai("twins")
            assert await asyncio.to_thread(ask, client, "rooms") == story.answer
        await check(first, story)
        counts = Counter(event.type for event in story.events)
        assert {kind: counts[kind] for kind in ONCE} == dict.fromkeys(ONCE, 1)
        for program, resource in (("trainer", story.job.name), ("evaluator", story.evaluation.name)):
            launched = [path.name for path in first.home.processes(program).glob(f"{resource.rpartition('/')[2]}-*")]
            assert launched == [f"{resource.rpartition('/')[2]}-1"]
        assert len(story.endpoint.promotions) == 1
        assert len(list(first.home.processes(LAUNCHED["vLLM server"]).glob("server-*"))) == 1
