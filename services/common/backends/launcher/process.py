"""Workloads as processes of this machine: `process:///folder?jobs=1`.

Each workload has a folder named by its key. `manifest.json` exists from `launch` on, `process.json` just before it runs,
`exit.json` once it has ended (the manifest's environment, with its secrets, is blanked then), `stop.json` once somebody
asked it to end. A shim of its own (`shim.py`) is its parent, so it outlives the service, and its exit code is recorded
whoever is alive then. The start time beside each pid tells a process from a later one with the same number.

Of jobs, so many run at once, and as many errands beside them; the others are PENDING with their position and are started by
whoever observes one when a place is free. A lock on the folder makes that safe between two replicas.

When changing this: a SIGKILL between any two lines here must leave something that the next `observe` understands.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.common.backends.launcher.shim import is_alive, read_json, write_json
from services.common.errors import InvalidInput, Unavailable
from services.common.names import LOWER_ID
from services.common.ports.launcher import Launcher, LaunchManifest, Observation, Workload, WorkloadState

GRACE_S = 20.0
LOG_PAGE_BYTES = 64 << 10
# What a workload may see of its launcher's environment: the machine, not the launcher's own settings and secrets.
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV")
INHERITED_PREFIXES = ("CUDA_", "NVIDIA_", "PYTHON", "SSL_CERT_", "AFINA_ACCELERATOR")


class ProcessLauncher(Launcher):
    """Runs workloads as processes, `max_jobs` jobs at a time, and as many errands; servers are not counted."""

    def __init__(self, folder: Path, max_jobs: int = 1, grace_s: float = GRACE_S) -> None:
        self._folder, self._max_jobs, self._grace_s = folder, max_jobs, grace_s
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)

    def plan(self, workload: Workload) -> LaunchManifest:
        """See the port."""
        if not LOWER_ID.fullmatch(workload.key):
            raise InvalidInput(f"{workload.key!r} is not a key: use a-z, 0-9 and -, at most 63 characters.", reason="KEY_INVALID")
        return {
            "key": workload.key,
            "kind": workload.kind,
            "command": list(workload.command),
            "environment": dict(workload.environment),
            "labels": dict(workload.labels),
            "grace_s": self._grace_s,
        }

    async def launch(self, manifest: LaunchManifest) -> None:
        """See the port."""
        try:
            await asyncio.to_thread(self._launch, manifest)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Unavailable(f"{self._folder} is full; free some space, and it is launched.", reason="DISK_FULL") from error

    async def observe(self, key: str) -> Observation:
        """See the port."""
        return await asyncio.to_thread(self._observe, key)

    async def stop(self, key: str) -> None:
        """See the port."""
        await asyncio.to_thread(self._stop, key)

    async def logs(self, key: str, after: int = 0) -> tuple[bytes, int]:
        """See the port."""
        return await asyncio.to_thread(self._logs, key, after)

    def keys(self) -> list[str]:
        """The keys of all workloads that were ever launched here."""
        return sorted(place.name for place in self._places())

    def _launch(self, manifest: LaunchManifest) -> None:
        final = self._place(manifest["key"])
        staging = Path(tempfile.mkdtemp(prefix=".launch-", dir=self._folder))
        try:
            write_json(staging / "manifest.json", {**manifest, "launch_time_ns": time.time_ns()})
            with contextlib.suppress(OSError):  # the folder is there: it was launched before
                os.rename(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._start_what_may()

    def _observe(self, key: str) -> Observation:
        place = self._place(key)
        manifest = read_json(place / "manifest.json")
        if manifest is None:
            return Observation(WorkloadState.GONE, message="It was never launched here.")
        if read_json(place / "process.json") is None and read_json(place / "exit.json") is None:
            self._start_what_may()
        return self._enforce_stop(place, self._state(place))

    def _state(self, place: Path) -> Observation:
        process, end = read_json(place / "process.json"), read_json(place / "exit.json")
        if end is not None:
            code = end["exit_code"]
            state = WorkloadState.SUCCEEDED if code == 0 else WorkloadState.FAILED
            return Observation(state, code, end.get("message", f"It ended with exit code {code}."))
        if process is None:
            queue = [other for other in self._waiting() if _kind(other) == _kind(place)]
            position = 1 + next((i for i, other in enumerate(queue) if other == place), 0)
            return Observation(WorkloadState.PENDING, message=f"It waits for a place, at position {position}.", position=position)
        if is_alive(process["pid"], process["start_time"]):
            return Observation(WorkloadState.RUNNING, message=f"It runs as process {process['pid']}.")
        if is_alive(process["shim_pid"], process["shim_start_time"]):
            return Observation(WorkloadState.RUNNING, message="It has ended; its exit code is being recorded.")
        end = read_json(place / "exit.json")  # it may have been written since
        code = end["exit_code"] if end else None
        return Observation(
            WorkloadState.SUCCEEDED if code == 0 else WorkloadState.FAILED, code, "It was killed from outside, its shim with it."
        )

    def _enforce_stop(self, place: Path, seen: Observation) -> Observation:
        """Kill what outlived its grace; needed only where the shim is gone, which does this otherwise."""
        stop, process = read_json(place / "stop.json"), read_json(place / "process.json")
        if seen.state == WorkloadState.RUNNING and stop and process and time.time() > stop["time"] + self._grace_s + 5:
            _signal_group(process, signal.SIGKILL)
        return seen

    def _stop(self, key: str) -> None:
        place = self._place(key)
        if read_json(place / "manifest.json") is None or read_json(place / "exit.json") is not None:
            return
        with self._locked():
            if read_json(place / "stop.json") is None:
                write_json(place / "stop.json", {"time": time.time()})
            process = read_json(place / "process.json")
            if process is None:
                write_json(place / "exit.json", {"exit_code": 143, "message": "It was stopped before it began."})
                return
        if is_alive(process["shim_pid"], process["shim_start_time"]):
            os.kill(process["shim_pid"], signal.SIGTERM)
        else:
            _signal_group(process, signal.SIGTERM)

    def _logs(self, key: str, after: int) -> tuple[bytes, int]:
        try:
            with (self._place(key) / "output.log").open("rb") as stream:
                stream.seek(after)
                data = stream.read(LOG_PAGE_BYTES)
        except FileNotFoundError:
            return b"", after
        return data, after + len(data)

    def _start_what_may(self) -> None:
        with self._locked():
            running = Counter(
                _kind(place)
                for place in self._places()
                if (place / "process.json").exists() and not (place / "exit.json").exists() and not self._state(place).has_ended
            )
            for place in self._waiting():
                kind = _kind(place)
                if kind != "server" and running[kind] >= self._max_jobs:
                    continue
                running[kind] += 1
                self._start(place)

    def _start(self, place: Path) -> None:
        """Start a shim and wait until it has recorded its process: some tens of milliseconds."""
        inherited = {k: v for k, v in os.environ.items() if k in INHERITED or k.startswith(INHERITED_PREFIXES)}
        with (place / "output.log").open("ab") as output:
            subprocess.run(
                [sys.executable, "-m", "services.common.backends.launcher.shim", str(place)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=inherited,
                check=True,
                timeout=60,
            )

    def _waiting(self) -> list[Path]:
        places = [p for p in self._places() if not (p / "process.json").exists() and not (p / "exit.json").exists()]
        return sorted(places, key=lambda p: (read_json(p / "manifest.json") or {}).get("launch_time_ns", 0))

    def _places(self) -> list[Path]:
        """Folders of workloads; one that is still being staged has no key for a name and is not there yet."""
        return [path.parent for path in self._folder.glob("*/manifest.json") if LOWER_ID.fullmatch(path.parent.name)]

    def _place(self, key: str) -> Path:
        if not LOWER_ID.fullmatch(key):
            raise InvalidInput(f"{key!r} is not a key.", reason="KEY_INVALID")
        return self._folder / key

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _kind(place: Path) -> str:
    return str((read_json(place / "manifest.json") or {}).get("kind", ""))


def _signal_group(process: dict[str, Any], number: int) -> None:
    if is_alive(process["pid"], process["start_time"]):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process["pid"], number)
