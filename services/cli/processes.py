"""What the kernel says about processes: who holds a port, who descends from whom, how much memory they take.

Read from /proc, so the command line needs no package for it; where there is no /proc the answers are "nobody knows".
"""

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"  # Source: proc(5), tcp states as in include/net/tcp_states.h


def holder_of(port: int) -> str | None:
    """Return `name (pid 123)` of the process that listens on a TCP port; None where that can't be seen."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets:
        return None
    for folder in _processes():
        try:
            for descriptor in (folder / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    return f"{describe(int(folder.name))} (pid {folder.name})"
        except OSError:
            continue
    return None


def describe(pid: int) -> str:
    """Return a process's command line, shortened."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "a process"
    text = " ".join(word for word in words if word)
    return text if len(text) <= 60 else text[:59] + "…"


def descendants(roots: Iterable[int]) -> list[int]:
    """Return the processes given and everything that descends from them, each once."""
    children: dict[int, list[int]] = {}
    for folder in _processes():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found: dict[int, None] = {}
    queue = list(roots)
    while queue:
        pid = queue.pop()
        if pid not in found:
            found[pid] = None
            queue += children.get(pid, [])
    return list(found)


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes together: shared pages once (PSS), or resident ones where only that can be read."""
    return sum(_pss(pid) or _rss(pid) for pid in pids)


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of processes together, shared pages once for each: more than they take, and cheap to ask."""
    return sum(_rss(pid) for pid in pids)


def _pss(pid: int) -> int:
    return _kilobytes(PROC / str(pid) / "smaps_rollup", "Pss:")


def _rss(pid: int) -> int:
    return _kilobytes(PROC / str(pid) / "status", "VmRSS:")


def _kilobytes(path: Path, field: str) -> int:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return 0


def _listening(port: int) -> set[str]:
    """Return the inodes of listening sockets. Source: proc(5), /proc/net/tcp: local address in hex, state, inode."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _processes() -> list[Path]:
    return [folder for folder in PROC.iterdir() if folder.name.isdigit()] if PROC.is_dir() else []
