"""Peak memory of the programs and their workloads, sampled from beside while the demo runs."""

import os
import threading
from collections.abc import Mapping
from types import TracebackType

from services.cli import workloads
from services.cli.home import Home
from services.cli.processes import descendants, memory_bytes, resident_bytes

INTERVAL_S = 2.0
GROWTH = 1.01


class MemorySampler:
    """A context in which a thread notes, for every program and kind of workload, the most memory seen at a time."""

    def __init__(self, home: Home, known: Mapping[str, int], interval_s: float = INTERVAL_S) -> None:
        self._home, self._interval_s = home, interval_s
        self._peaks = dict(known)
        self._most_resident: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory sampler", daemon=True)

    @property
    def peaks(self) -> dict[str, int]:
        """Program or kind of workload → bytes."""
        return dict(self._peaks)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self.sample()

    def sample(self) -> None:
        """Look once."""
        roots = {"demo": [os.getpid()]}
        for name, process in (self._home.running() or {}).get("programs", {}).items():
            roots[name] = [process["pid"]]
        for workload in workloads.running(self._home):
            roots.setdefault(workload.kind, []).append(workload.pid)
        for name, pids in roots.items():
            # The demo's children are its own supervisor and helpers; what counts is its own process.
            of = pids if name == "demo" else descendants(pids)
            # Shared pages are counted once by asking for every page: only where the cheap number has grown.
            resident = resident_bytes(of)
            if resident > GROWTH * self._most_resident.get(name, 0):
                self._most_resident[name] = resident
                self._peaks[name] = max(memory_bytes(of), self._peaks.get(name, 0))

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.sample()
