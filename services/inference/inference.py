"""What inference's use cases and loops work with, put together in `__main__` or in a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from services.common.ports.database import Database
from services.common.ports.launcher import Launcher, Workload
from services.common.ports.model_server import ModelServer
from services.common.ports.object_store import ObjectStore
from services.inference.background import Background
from services.inference.clients import Evaluations
from services.inference.routes import RouteTable
from services.inference.servers import Server


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Inference:
    """The ports, and how a server is described to the launcher (`workload`) and reached (`connect`: URL, API key).

    `max_servers` bounds how many model servers run at once on this machine.
    """

    database: Database
    store: ObjectStore
    launcher: Launcher
    evaluations: Evaluations
    cache: Path
    workload: Callable[[Server, Path], Workload]
    connect: Callable[[str, str], ModelServer]
    routes: RouteTable
    max_servers: int = 4
    background: Background = field(default_factory=Background)
    clock: Callable[[], datetime] = _now
