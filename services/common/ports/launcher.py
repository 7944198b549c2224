"""The launcher: runs workloads somewhere – processes on this machine, pods on a cluster.

A manifest is a value (a dict that could be printed, compared, or sent to Kubernetes): `plan` makes it, `launch` acts on
it. A key names one launch for ever; launching a key twice is one launch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LaunchManifest = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """What is to run: a job ends by itself and waits for its turn, an errand is too small to wait for jobs, a server stays.

    `key` is a-z, 0-9 and -, at most 63 characters. `environment` may hold secrets; a launcher keeps them from other users.
    """

    key: str
    kind: str  # "job" | "errand" | "server"
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class WorkloadState(StrEnum):
    """Where a workload stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    GONE = "GONE"


@dataclass(frozen=True)
class Observation:
    """What the launcher sees: `exit_code` where it ended by itself, `message` for people, `position` of a PENDING one from 1."""

    state: WorkloadState
    exit_code: int | None = None
    message: str = ""
    position: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in (WorkloadState.SUCCEEDED, WorkloadState.FAILED, WorkloadState.GONE)


class Launcher(ABC):
    """Runs workloads by key. Nothing blocks for longer than starting or signalling takes; all verbs are coroutines but `plan`."""

    @abstractmethod
    def plan(self, workload: Workload) -> LaunchManifest:
        """Return exactly what `launch` will create. Pure."""

    @abstractmethod
    async def launch(self, manifest: LaunchManifest) -> None:
        """Start what a manifest describes; adopt it where it exists already, whatever its state.

        Workloads outlive the service that launched them. Raises: Unavailable (full disk, cluster away) – nothing was started.
        """

    @abstractmethod
    async def observe(self, key: str) -> Observation:
        """Say where a workload stands; GONE for one that was never launched or has been removed. Never raises for absence."""

    @abstractmethod
    async def stop(self, key: str) -> None:
        """Ask a workload to end (SIGTERM), and see to it that it does (SIGKILL after its grace period). The absent: success."""

    @abstractmethod
    async def logs(self, key: str, after: int = 0) -> tuple[bytes, int]:
        """Return up to 64 KiB of output after a byte offset, and the offset to go on from. The absent: empty."""
