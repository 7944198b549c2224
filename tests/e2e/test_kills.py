"""Kill anything in the middle of the main job, each alone: it ends right, once, with nothing lost.

One world serves all: jobs whose victim is killed later than their training are trained side by side while vLLM starts; then
one victim after the other is killed, and everything serves again before the next. Pairs: `python -m tests.e2e.kills`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from services.cli.home import PROGRAMS
from tests.e2e.main_job import ANSWER, Kill, MainJob, ask
from tests.e2e.outcome import check
from tests.e2e.world import DATABASE, EVALUATION_WORKER, SERVER, STORE, VICTIMS, WORKER, World, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.asyncio(loop_scope="module")]

NOBODY = "nobody"
LATE = {"gateway": "evaluation", "evaluator": "evaluation", EVALUATION_WORKER: "evaluation", SERVER: "evaluation"}
EARLY = {
    "dataset": "upload",
    "trainer": "training",
    "inference": "proving",
    DATABASE: "training",
    STORE: "training",
}


@dataclass
class Begun:
    """The world, with the main jobs that are trained already, by victim, and the adapter of the one that nobody disturbs."""

    world: World
    jobs: dict[str, MainJob]
    adapter_sha256: str = ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def begun(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Begun]:
    async with opened(tmp_path_factory.mktemp("kills"), is_warm=False) as world:
        jobs = {NOBODY: MainJob(world, NOBODY)}
        jobs |= {victim: MainJob(world, _project(victim), [Kill(victim, moment)]) for victim, moment in LATE.items()}

        async def begin(job: MainJob) -> None:
            await job.upload()
            await job.train()

        await asyncio.gather(world.warm(), *map(begin, jobs.values()))
        undisturbed = jobs[NOBODY]
        await undisturbed.evaluate()
        yield Begun(world, jobs, await check(world, await undisturbed.serve()))


async def test_everybody_is_a_victim() -> None:
    assert {*LATE, *EARLY, WORKER} == set(VICTIMS)


@pytest.mark.parametrize("victim", [*LATE, *EARLY])
async def test_the_main_job_ends_right_though_one_is_killed_in_the_middle(begun: Begun, victim: str) -> None:
    world = begun.world
    before = world.log_counts()
    job = begun.jobs.get(victim)
    if job is None:
        job = MainJob(world, _project(victim), [Kill(victim, EARLY[victim])])
        await job.upload()
        await job.train()
    await job.evaluate()
    story = await job.serve()
    assert len(story.done) == 1
    await check(world, story, begun.adapter_sha256)
    assert not world.errors(before)


async def test_a_killed_worker_is_followed_by_another_and_changes_nothing_when_it_comes_back(begun: Begun) -> None:
    world = begun.world
    before = world.log_counts()
    job = MainJob(world, _project(WORKER))
    await job.upload()
    name = await job.begin()
    await job.reached(name, "Saved a checkpoint")
    [pid] = await world.pids(WORKER, name.rpartition("/")[2])
    given = Path(f"/proc/{pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
    await world.kill(WORKER, name.rpartition("/")[2])
    await job.reached(name, "Attempt 2 runs")
    ghost = await asyncio.create_subprocess_exec(  # as on a node that was cut off and is back
        sys.executable, "-m", "services.trainer.worker",
        env=dict(variable.split("=", 1) for variable in given), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await job.ended()
    _, said = await ghost.communicate()
    assert (ghost.returncode == 1 and b"ATTEMPT_REVOKED" in said) or ghost.returncode == 0, said
    await job.evaluate()
    await check(world, await job.serve(), begun.adapter_sha256)
    assert not world.errors(before)


async def test_a_proven_model_answers_while_every_program_but_the_gateway_is_frozen(begun: Begun) -> None:
    world, asked = begun.world, begun.jobs[NOBODY]
    client = await world.openai(NOBODY)
    frozen = [pid for program in PROGRAMS if program != "gateway" for pid in await world.pids(program)]
    try:
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        for name in ("rooms", asked.story.job.fine_tuned_model):
            assert await asyncio.to_thread(ask, client, name) == ANSWER
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    await world.all_serve()


def _project(victim: str) -> str:
    return victim.lower().replace(" ", "-")
