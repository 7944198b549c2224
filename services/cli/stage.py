"""The stage on which the demo plays: says what happens, takes the time, and remembers both for the next run.

What an earlier run did is not done again, so its time is kept in `demo.json` and shown as an earlier run's.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from services.cli.call import Call
from services.cli.home import Home
from services.cli.output import duration
from services.cli.report import Phase
from services.common.backends.launcher.shim import read_json, write_json


@dataclass
class Act:
    """One phase while it lasts: what to say of it, and what is known better than the clock here."""

    note: str = ""
    is_reused: bool = False
    duration_s: float | None = None


class Stage:
    """Where the demo's phases share the call, the clock and the memory of earlier runs."""

    def __init__(self, call: Call, home: Home) -> None:
        self.call, self.home = call, home
        self.out: Console = call.err if call.as_json else call.out
        self.phases: list[Phase] = []
        self._file: Path = home.path / "demo.json"
        self._known: dict[str, Any] = read_json(self._file) or {}

    @property
    def folder(self) -> Path:
        """Where downloads are kept."""
        return self.home.path / "demo"

    def memory(self, job: str) -> dict[str, int]:
        """Return the peaks that an earlier run saw while this job was made."""
        return dict(self._known.get("memory", {}).get(job, {}))

    def remember_memory(self, job: str, peaks: dict[str, int]) -> None:
        """Keep the peaks of a job."""
        self._known["memory"] = {job: peaks}
        write_json(self._file, self._known)

    @contextlib.contextmanager
    def phase(self, name: str, what: str) -> Iterator[Act]:
        """Say that a phase begins, and at its end how long it took."""
        self.out.print(f"[bold]{name}[/bold]  {what}")
        act = Act()
        begin = time.monotonic()
        yield act
        known = self._known.get("phases", {}).get(name)
        if act.duration_s is not None:
            lasted_s = act.duration_s
        elif act.is_reused and known:
            lasted_s, act.note = known["duration_s"], act.note or known["note"]
        else:
            lasted_s = time.monotonic() - begin
        done = Phase(name, lasted_s, act.note, act.is_reused)
        self.phases.append(done)
        if not act.is_reused:
            self._known.setdefault("phases", {})[name] = asdict(done)
            write_json(self._file, self._known)
        told = "is there already" if act.is_reused else duration(lasted_s)
        self.out.print(f"  [green]✓[/green] {told}" + (f" · {act.note}" if act.note else ""), highlight=False)
