"""Real programs for the tests: `python -m services.NAME` as `afina up` starts them, with what a test changes."""

import asyncio
import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.cli import environment
from services.cli.home import ADDRESS_VARIABLES, Home, find
from services.cli.supervisor import Supervisor
from services.cli.up import is_serving
from tests.builders import free_port

ROOT = Path(__file__).parents[1]


@dataclass
class Programs:
    """What runs, and where it keeps things."""

    home: Home
    supervisor: Supervisor

    def address(self, program: str) -> str:
        """Where a program's gRPC is."""
        return self.home.addresses[program]

    def pid(self, program: str) -> int:
        """The process of a program."""
        return int(self.supervisor.processes()[program]["pid"])

    def lines(self, program: str) -> list[dict[str, Any]]:
        """What a program has logged. Fails where there is a line that is not one of ours: a traceback."""
        return [json.loads(line) for line in (self.home.logs / f"{program}.log").read_text().splitlines()]

    async def probe(self, program: str, path: str) -> tuple[int, str]:
        """Ask a program's probes."""
        return await asyncio.to_thread(_get, f"{self.home.probes_url(program)}{path}")


@contextlib.asynccontextmanager
async def running_programs(folder: Path, *names: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Programs]:
    """Run programs in a folder, on ports of their own, until the block ends. Jobs wait for a place for ever: none is trained."""
    given = {**os.environ, **{variable: f"127.0.0.1:{free_port()}" for variable in ADDRESS_VARIABLES.values()}}
    given |= {"AFINA_HOME": str(folder / "home"), "PYTHONPATH": f"{ROOT}:{ROOT / 'proto' / 'gen'}", **(environ or {})}
    home = find(given)
    home.make()
    planned = [program for program in environment.programs(home, given, "cpu") if program.name in names]
    placeless = {name: f"process://{home.processes(name)}?jobs=0" for name in names}
    started = [replace(p, environment={**p.environment, "LAUNCHER": placeless[p.name]}) for p in planned]
    supervisor = Supervisor(started, home.logs, is_serving, cwd=ROOT)
    supervisor.start()
    try:
        await supervisor.wait_until_ready(60)
        yield Programs(home, supervisor)
    finally:
        await supervisor.stop()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
