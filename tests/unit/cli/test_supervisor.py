"""The supervisor with tiny programs: it starts them, starts them again, tells why one does not come up, and ends them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.cli.supervisor import Program, Supervisor
from services.common.backends.launcher.shim import is_alive, start_time
from services.common.errors import Unavailable
from tests.builders import eventually

STAYS = "import signal, pathlib, os; pathlib.Path({ready!r}).write_text(str(os.getpid())); signal.pause()"


def program(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-c", code), {"PATH": os.environ["PATH"]}, "")


def staying(name: str, folder: Path) -> Program:
    return program(name, STAYS.format(ready=str(folder / f"{name}.ready")))


@contextlib.asynccontextmanager
async def supervising(
    folder: Path, *programs: Program, grace_s: float = 10.0, pause_s: float = 0.05
) -> AsyncIterator[Supervisor]:
    async def is_ready(asked: Program) -> bool:
        return (folder / f"{asked.name}.ready").exists()

    supervisor = Supervisor(programs, folder, is_ready, pause_s=pause_s, max_pause_s=0.1, grace_s=grace_s)
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def test_it_waits_until_every_program_is_ready(tmp_path: Path) -> None:
    async with supervising(tmp_path, staying("one", tmp_path), staying("two", tmp_path)) as supervisor:
        await supervisor.wait_until_ready(20)
        assert set(supervisor.processes()) == {"one", "two"}


async def test_a_program_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with supervising(tmp_path, staying("one", tmp_path)) as supervisor:
        await supervisor.wait_until_ready(20)
        first = supervisor.processes()["one"]["pid"]
        os.kill(first, signal.SIGKILL)
        second = await eventually(lambda: supervisor.processes().get("one", {}).get("pid") not in (None, first) and supervisor)
        assert second.processes()["one"]["restarts"] == 1


async def test_a_program_that_keeps_crashing_is_told_with_its_last_words(tmp_path: Path) -> None:
    broken = program("broken", "raise SystemExit('the database is a teapot')")
    async with supervising(tmp_path, broken) as supervisor:
        with pytest.raises(Unavailable, match=r"(?s)broken ended with exit code 1.*teapot"):
            await supervisor.wait_until_ready(20)


async def test_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    unset = program("broken", "print('Set DATABASE'); raise SystemExit(2)")
    async with supervising(tmp_path, unset, pause_s=60) as supervisor:
        with pytest.raises(Unavailable, match="Set DATABASE"):
            await supervisor.wait_until_ready(20)
        assert len((tmp_path / "broken.log").read_text().splitlines()) == 1


async def test_a_program_that_can_not_be_started_is_told(tmp_path: Path) -> None:
    async with supervising(tmp_path, Program("gone", ("/nowhere/python",), {})) as supervisor:
        with pytest.raises(Unavailable, match="could not be started"):
            await supervisor.wait_until_ready(20)


async def test_a_program_that_is_late_is_told(tmp_path: Path) -> None:
    async with supervising(tmp_path, program("late", "import signal; signal.pause()")) as supervisor:
        with pytest.raises(Unavailable, match=r"late was not ready after 0.3 s"):
            await supervisor.wait_until_ready(0.3)


async def test_stopping_ends_every_program_also_one_that_ignores_sigterm(tmp_path: Path) -> None:
    deaf = textwrap.dedent(f"""
        import pathlib, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path({str(tmp_path / "deaf.ready")!r}).touch()
        signal.pause()
    """)
    async with supervising(tmp_path, staying("one", tmp_path), program("deaf", deaf), grace_s=0.5) as supervisor:
        await supervisor.wait_until_ready(20)
        processes = supervisor.processes()
    assert supervisor.processes() == {}
    assert not any(is_alive(p["pid"], p["start_time"]) for p in processes.values())


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the kernel ends the programs of a killed supervisor")
async def test_programs_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, pathlib, sys
        from services.cli.supervisor import Program, Supervisor

        async def main():
            async def probe(program): return True
            program = Program("one", (sys.executable, "-c", {STAYS.format(ready=str(tmp_path / "one.ready"))!r}), {{}})
            supervisor = Supervisor([program], pathlib.Path({str(tmp_path)!r}), probe)
            supervisor.start()
            await asyncio.Event().wait()

        asyncio.run(main())
    """)
    supervisor = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-c", script])
    ready = tmp_path / "one.ready"
    pid = int(await eventually(lambda: ready.exists() and ready.read_text(), timeout_s=20))
    began = start_time(pid)
    assert is_alive(pid, began)
    supervisor.kill()
    await asyncio.to_thread(supervisor.wait)
    await eventually(lambda: not is_alive(pid, began))
