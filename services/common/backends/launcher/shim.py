"""The parent of one workload: starts it, passes SIGTERM on, kills what does not heed it, and records how it ended.

Run as `python -m services.common.backends.launcher.shim FOLDER`. It returns when the workload runs; a fork of it stays
behind as the parent, so that neither the launcher nor the service has to live as long. Files are written whole (a
rename), so a reader never sees half of one. It imports little: its start delays every launch.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(place: Path) -> None:
    """Start the workload of a folder and stay until it has ended."""
    manifest = read_json(place / "manifest.json")
    if manifest is None:
        raise SystemExit(f"{place} holds no manifest.json")
    ready_reader, ready_writer = os.pipe()
    if os.fork():
        os.close(ready_writer)
        os.read(ready_reader, 1)  # returns when process.json is there, or when the shim died
        os._exit(0)
    os.close(ready_reader)
    os.setsid()
    stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    try:
        process = subprocess.Popen(
            manifest["command"],
            env={**os.environ, **manifest["environment"]},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=place,
        )
    except OSError as error:
        write_json(place / "exit.json", {"exit_code": 127, "message": f"It could not be started: {error}."})
        return
    write_json(
        place / "process.json",
        {
            "pid": process.pid,
            "start_time": start_time(process.pid),
            "shim_pid": os.getpid(),
            "shim_start_time": start_time(os.getpid()),
        },
    )
    os.close(ready_writer)
    exit_code = _wait(process, stopping, manifest["grace_s"])
    _signal(process.pid, signal.SIGKILL)  # what the workload left behind in its group
    write_json(place / "exit.json", {"exit_code": exit_code if exit_code >= 0 else 128 - exit_code})


def _wait(process: subprocess.Popen[bytes], stopping: list[bool], grace_s: float) -> int:
    while True:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stopping:
                break
    _signal(process.pid, signal.SIGTERM)
    try:
        return process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        _signal(process.pid, signal.SIGKILL)
        return process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where there is none. Source: proc(5), field 22 of stat."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def is_alive(pid: int, began: int | None) -> bool:
    """Whether that very process still runs; a zombie does not."""
    return began is not None and start_time(pid) == began


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's document, or None where it is not there (yet)."""
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        return document
    except FileNotFoundError:
        return None


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document whole, readable by its owner only: it may hold secrets."""
    descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=".write-")
    with os.fdopen(descriptor, "w") as stream:
        json.dump(document, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(staged, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
