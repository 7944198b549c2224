"""`afina logs`: what a program, a worker or a model server of this machine has said."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import click

from services.cli import workloads
from services.cli.call import Call, last, verb
from services.cli.home import LAUNCHING, PROGRAMS, Home
from services.cli.output import print_json
from services.common.errors import NotFound

LOOK_S = 0.3
SUPERVISOR = "up"
_commands = click.Group("logs")


@verb(_commands, "logs", in_project=False)
@click.argument("name")
@click.option("--lines", "count", type=click.IntRange(min=0), default=100, show_default=True, help="The last so many; 0 for all.")
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on with what is said from now on, until Ctrl-C or its end.")
async def logs(call: Call, name: str, count: int, follows: bool) -> None:
    """Print the log of NAME: a program, a job or an evaluation (its newest attempt), or a workload that `afina status` shows."""
    path = path_of(call.home, name)
    told = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    shown = told[-count:] if count else told
    if call.as_json:
        print_json(call.out, [_text(line).rstrip("\n") for line in shown])
        return
    call.out.file.writelines(_text(line) for line in shown)
    if follows:
        await _follow(call, path, sum(map(len, told)))


def path_of(home: Home, name: str) -> Path:
    """Return the file of a log. Raises: NotFound, with what there is."""
    if name in (*PROGRAMS, SUPERVISOR):
        return home.logs / f"{name}.log"
    found = max(_attempts(home, last(name)), default=None, key=lambda attempt: attempt[0])
    if found is not None:
        return found[1] / "output.log"
    running = ", ".join(workload.key for workload in workloads.running(home)) or "none"
    raise NotFound(
        f"Nothing called {name} has a log in {home.path}; programs: {', '.join(PROGRAMS)}; running workloads: {running}.",
        reason="LOG_NOT_FOUND",
        metadata={"name": name},
    )


def _attempts(home: Home, name: str) -> Iterator[tuple[int, Path]]:
    """Yield number and folder of every launch of a workload: its very key, or a resource's id with the attempt behind it."""
    for program in LAUNCHING:
        for folder in home.processes(program).glob("*"):
            number = re.fullmatch(re.escape(name) + r"-(\d+)", folder.name)
            if folder.name == name or number:
                yield int(number[1]) if number else 0, folder


async def _follow(call: Call, path: Path, position: int) -> None:
    """Print what is appended, until the workload has ended and all was printed; a program's log has no end."""
    while True:
        has_ended = (path.parent / "exit.json").exists()  # before reading: what it said last is there then
        with path.open("rb") as stream:
            stream.seek(position)
            data = stream.read()
        call.out.file.write(_text(data))
        call.out.file.flush()
        position += len(data)
        if has_ended:
            return
        await asyncio.sleep(LOOK_S)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
