"""Kill anything in the middle of the main job, each alone: it ends right, once, with nothing lost.

One world serves all, one victim after the other; everything serves again before the next. Each main job is of a project of its
own, since a Model is known by its digest there and all jobs here learn the same. Pairs: `python -m tests.e2e.kills`.
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
from tests.e2e.main_job import ANSWER, Kill, MainJob, Story, ask
from tests.e2e.outcome import check
from tests.e2e.world import DATABASE, EVALUATION_WORKER, SERVER, STORE, VICTIMS, WORKER, World, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.asyncio(loop_scope="module")]

NOBODY = "nobody"
MOMENTS = {  # of every victim the part of the job that matters to it
    "dataset": "upload",
    "trainer": "training",
    DATABASE: "training",
    STORE: "training",
    "inference": "proving",
    "evaluator": "evaluation",
    EVALUATION_WORKER: "evaluation",
    SERVER: "evaluation",
    "gateway": "chat",
}


@dataclass
class Setting:
    """The world, with the main job that nobody disturbed and the digest of its adapter's weights."""

    world: World
    undisturbed: Story
    adapter_sha256: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setting]:
    async with opened(tmp_path_factory.mktemp("kills"), is_warm=False) as world:
        _, story = await asyncio.gather(world.warm(), MainJob(world, NOBODY).run())
        yield Setting(world, story, await check(world, story))


async def test_everybody_is_a_victim() -> None:
    assert {*MOMENTS, WORKER} == set(VICTIMS)


@pytest.mark.parametrize("victim", MOMENTS)
async def test_the_main_job_ends_right_though_one_is_killed_in_the_middle(setting: Setting, victim: str) -> None:
    world = setting.world
    before = world.log_counts()
    story = await MainJob(world, _project(victim), [Kill(victim, MOMENTS[victim])]).run()
    assert len(story.done) == 1
    await check(world, story, setting.adapter_sha256)
    assert not world.errors(before)


async def test_a_killed_worker_is_followed_by_another_and_changes_nothing_when_it_comes_back(setting: Setting) -> None:
    world = setting.world
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
    assert ghost.returncode == 1
    assert b" is over." in said  # it is not even signed a look at its spec
    await job.evaluate()
    await check(world, await job.serve(), setting.adapter_sha256)
    assert not world.errors(before)


async def test_a_proven_model_answers_while_every_program_but_the_gateway_is_frozen(setting: Setting) -> None:
    world = setting.world
    client = await world.openai(NOBODY)
    frozen = [pid for program in PROGRAMS if program != "gateway" for pid in await world.pids(program)]
    try:
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        for name in ("rooms", setting.undisturbed.job.fine_tuned_model):
            assert await asyncio.to_thread(ask, client, name) == ANSWER
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    await world.all_serve()


def _project(victim: str) -> str:
    return victim.lower().replace(" ", "-")
