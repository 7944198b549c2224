"""The real trainer with real workers, on the base and the rows of a desk; only `dataset` and `inference` do as told."""

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from services.common.backends.launcher.process import ProcessLauncher
from services.common.reconcile import Reconciler
from services.trainer import job, sweep, token_count
from services.trainer.attempts import reconcile_job
from services.trainer.sweeps import reconcile_sweep
from services.trainer.token_counts import reconcile_count
from services.trainer.worker_environment import RECOMMENDED
from tests.learning.builders import Desk
from tests.rpc.trainer_world import ScriptedPeers, World, trainer_world

ENVIRONMENT = {**RECOMMENDED, "AFINA_CHECKPOINT_INTERVAL_S": "1e9", "OMP_NUM_THREADS": "1"}
STEPS = {job.KIND: reconcile_job, token_count.KIND: reconcile_count, sweep.KIND: reconcile_sweep}


class DeskPeers(ScriptedPeers):
    """Peers that know the base and the rows of a desk."""

    def __init__(self, told: Desk) -> None:
        super().__init__("")
        self._spec = told.spec

    async def base(self, public_id: str) -> dict[str, Any]:
        return self._spec.base

    async def dataset(self, name: str) -> dict[str, Any]:
        return {**self._spec.dataset, "test": None, "warnings": []}


@contextlib.asynccontextmanager
async def real_trainer(folder: Path, told: Desk) -> AsyncIterator[World]:
    """Run the trainer's loops, with workers as processes of this machine."""
    async with trainer_world(folder) as world:
        trainer = dataclasses.replace(
            world.trainer,
            store=told.store,
            launcher=ProcessLauncher(folder / "processes"),
            peers=DeskPeers(told),
            worker_environment={**ENVIRONMENT, "AFINA_CACHE": str(told.cache), "AFINA_REPORT_TO": world.jobs.address},
        )
        loops = [
            Reconciler(trainer.database, kind, functools.partial(step, trainer), idle_s=0.05).run()
            for kind, step in STEPS.items()
        ]
        running = [asyncio.ensure_future(loop) for loop in loops]
        world.peers.validation = told.spec.dataset["validation"]  # what the API looks at
        try:
            yield world
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
