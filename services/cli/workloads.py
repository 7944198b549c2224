"""The workloads of this machine: workers and model servers, as their launchers' folders know them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from services.cli.home import LAUNCHING, Home
from services.common.backends.launcher.process import GRACE_S, ProcessLauncher
from services.common.backends.launcher.shim import is_alive, read_json

# What a person calls the workloads that each program launches.
KINDS: Mapping[str, str] = {
    "trainer": "trainer.worker",
    "evaluator": "evaluator.worker",
    "inference": "inference.server",
}
LOOK_S = 0.2


@dataclass(frozen=True)
class RunningWorkload:
    """One workload that runs: its launcher's key, what it is, and its first process."""

    key: str
    kind: str
    pid: int


def running(home: Home) -> list[RunningWorkload]:
    """Return the workloads that run now."""
    found = []
    for program in LAUNCHING:
        for path in sorted(home.processes(program).glob("*/process.json")):
            process = read_json(path)
            if process and is_alive(process["pid"], process["start_time"]):
                found.append(RunningWorkload(path.parent.name, KINDS[program], process["pid"]))
    return found


async def stop_all(home: Home, timeout_s: float = GRACE_S + 15) -> list[str]:
    """Stop every workload, wait for their end, and return their keys. Call it when nobody launches any more."""
    stopped = []
    for program in LAUNCHING:
        if not home.processes(program).is_dir():
            continue
        launcher = ProcessLauncher(home.processes(program))
        launched = launcher.keys()
        keys = [key for key in launched if not (home.processes(program) / key / "exit.json").exists()]
        for key in keys:
            await launcher.stop(key)
        stopped += keys
    deadline = asyncio.get_running_loop().time() + timeout_s
    while running(home) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - processes send no events
        await asyncio.sleep(LOOK_S)
    return stopped
