"""Keeps programs running: starts them, starts a crashed one again after a growing pause, ends them all together.

A program gets a session of its own, so that Ctrl-C reaches the supervisor alone, which then ends things in order. If the
supervisor is killed, the kernel ends its programs (Linux: PR_SET_PDEATHSIG), so nothing is left that nobody watches.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.backends.launcher.shim import start_time
from services.common.errors import Unavailable

PR_SET_PDEATHSIG = 1  # Source: prctl(2), linux/prctl.h
EXIT_SETTINGS = 2  # what `services.common.program` ends with; starting again would not help
MAX_EARLY_EXITS = 3
STEADY_S = 60.0  # who ran that long begins with the short pause again


@dataclass(frozen=True)
class Program:
    """What is started, with its whole environment; `address` is where its gRPC health is asked."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    address: str = ""


class Supervisor:
    """Runs programs until `stop`. `probe(program)` says whether one is ready; `changed` is told when a process came or went."""

    def __init__(
        self,
        programs: Sequence[Program],
        logs: Path,
        probe: Callable[[Program], Awaitable[bool]],
        *,
        changed: Callable[[], None] = lambda: None,
        cwd: Path | None = None,
        pause_s: float = 0.5,
        max_pause_s: float = 30.0,
        grace_s: float = 20.0,
    ) -> None:
        self._programs, self._logs, self._probe, self._changed, self._cwd = programs, logs, probe, changed, cwd
        self._pause_s, self._max_pause_s, self._grace_s = pause_s, max_pause_s, grace_s
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._exits: dict[str, list[int]] = {program.name: [] for program in programs}
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return pid, start time and restarts of every program that runs."""
        return {
            name: {"pid": process.pid, "start_time": start_time(process.pid), "restarts": len(self._exits[name])}
            for name, process in self._processes.items()
        }

    def start(self) -> None:
        """Start every program."""
        self._tasks = [asyncio.ensure_future(self._keep(program)) for program in self._programs]

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Return when every program is ready. Raises: Unavailable (one keeps ending, or is late), with its last words."""
        deadline = time.monotonic() + timeout_s
        for program in self._programs:
            while not (program.name in self._processes and await self._probe(program)):
                broken = self._broken()
                if broken:
                    raise self._complaint(broken, f"ended with exit code {self._exits[broken][-1]}")
                if time.monotonic() > deadline:
                    raise self._complaint(program.name, f"was not ready after {timeout_s:g} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._stopping.wait()
                if self._stopping.is_set():
                    raise Unavailable("Stopped before everything was ready.", reason="STOPPED")

    async def stop(self) -> None:
        """End every program: SIGTERM, and SIGKILL after the grace."""
        self._stopping.set()
        for process in list(self._processes.values()):
            _signal(process, signal.SIGTERM)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._grace_s)
            for process in list(self._processes.values()) if late else []:
                _signal(process, signal.SIGKILL)
            for task in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(task, BaseException):
                    raise task

    async def _keep(self, program: Program) -> None:
        pause_s = self._pause_s
        while not self._stopping.is_set():
            began = time.monotonic()
            self._exits[program.name].append(await self._run(program))
            if time.monotonic() - began > STEADY_S:
                pause_s = self._pause_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, self._max_pause_s)

    async def _run(self, program: Program) -> int:
        parent = os.getpid()
        with (self._logs / f"{program.name}.log").open("ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *program.command,
                    env=dict(program.environment),
                    cwd=self._cwd,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=lambda: _die_with(parent),
                )
            except OSError as error:
                log.write(f"{program.command[0]} could not be started: {error}\n".encode())
                return 127
        self._processes[program.name] = process
        if self._stopping.is_set():  # it was being started while `stop` looked around
            _signal(process, signal.SIGTERM)
        self._changed()
        code = await process.wait()
        del self._processes[program.name]
        self._changed()
        return code

    def _broken(self) -> str | None:
        for name, exits in self._exits.items():
            if len(exits) >= MAX_EARLY_EXITS or EXIT_SETTINGS in exits:
                return name
        return None

    def _complaint(self, name: str, what: str) -> Unavailable:
        log = self._logs / f"{name}.log"
        words = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        told = "".join(f"\n  {line[:300]}" for line in words)
        return Unavailable(
            f"The program {name} {what}; read {log}. Its last words:{told or ' none.'}",
            reason="PROGRAM_FAILED",
            metadata={"program": name, "log": str(log)},
        )


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # opened here: not between fork and exec


def _die_with(parent: int) -> None:
    """Run in the child before its program: ask the kernel for SIGTERM when the supervisor dies."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(143)


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
