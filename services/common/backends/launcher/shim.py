"""The parent of one workload: starts it, passes SIGTERM on, kills what does not heed it, and records how it ended.

Run as `python -m services.common.backends.launcher.shim FOLDER`. It returns when the workload runs; a fork of it stays
behind as the parent, so that neither the launcher nor the service has to live as long. The workload begins when its
process is recorded and not before: one that nobody knows of would be started again. Files are written whole (a rename),
so a reader never sees half of one. It imports little: its start delays every launch.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
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
    held = None
    try:
        held = hold(manifest["command"], {**os.environ, **manifest["environment"]}, str(place))
        shim = {"shim_pid": os.getpid(), "shim_start_time": start_time(os.getpid())}
        write_json(place / "process.json", {"pid": held.pid, "start_time": start_time(held.pid), **shim})
        held.release()
    except OSError as error:
        if held is not None:
            held.drop()
        end = {"exit_code": 127, "message": f"It could not be started: {error}."}
    else:
        os.close(ready_writer)
        exit_code = _wait(held.pid, stopping, manifest["grace_s"])
        _signal(held.pid, signal.SIGKILL)  # what the workload left behind in its group
        end = {"exit_code": exit_code if exit_code >= 0 else 128 - exit_code}
    write_json(place / "exit.json", end)
    write_json(place / "manifest.json", {**manifest, "environment": {}})  # nobody needs its secrets any more


@dataclass(frozen=True)
class Held:
    """A process that is there and has not begun: it waits for a byte, and leaves where the shim dies first."""

    pid: int
    gate: int  # written to here, it begins
    said: int  # read from here: why it can't begin; nothing where it has begun

    def release(self) -> None:
        """Let it begin. Raises: OSError (it can't, in its own words)."""
        os.write(self.gate, b"!")
        if why := os.read(self.said, 4096):
            raise OSError(why.decode())

    def drop(self) -> None:
        """Let it leave, if it is still there."""
        os.close(self.gate)
        os.waitpid(self.pid, 0)


def hold(command: list[str], environment: dict[str, str], folder: str) -> Held:
    """Fork a process, in a session of its own, that becomes the command when it is released."""
    gate_reader, gate = os.pipe()
    said, said_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(gate)
            for number in (signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):  # those that the shim or Python has changed
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            os.write(said_writer, b"!")
            if os.read(gate_reader, 1):
                os.chdir(folder)
                os.execvpe(command[0], command, environment)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a word
            os.write(said_writer, str(error).encode())
        finally:
            os._exit(127)
    os.close(gate_reader)
    os.close(said_writer)
    os.read(said, 1)  # from here on its group can be signalled
    return Held(pid, gate, said)


def _wait(pid: int, stopping: list[bool], grace_s: float) -> int:
    kill_s: float | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if stopping and kill_s is None:
            kill_s = time.monotonic() + grace_s
            _signal(pid, signal.SIGTERM)
        elif kill_s is not None and time.monotonic() > kill_s:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.05)


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
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(document, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staged, path)
    except OSError:
        os.unlink(staged)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
