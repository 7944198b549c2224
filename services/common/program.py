"""How a program begins and runs: settings, probes, what it needs, and one line instead of a traceback where it can't.

The gRPC services ask who calls, but what is shown to them travels in clear, and the probes ask nobody. So they serve this
machine only, unless whoever runs them says that the network itself keeps strangers out.

A program does not wait for its database or its object store: it begins, says what it waits for in its log and under
/readyz, answers UNAVAILABLE meanwhile, and works when they are there.
"""

import asyncio
import ipaddress
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from services.common import telemetry
from services.common.backends.measured import measured
from services.common.errors import AfinaError, ArtifactNotFound, InvalidInput, Unavailable, WrongState
from services.common.metrics import Metrics
from services.common.ports.database import Database
from services.common.ports.launcher import Launcher
from services.common.ports.object_store import ObjectStore
from services.common.reconcile import Reconciler
from services.common.settings import masked, parse
from services.common.transport.grpc_server import GrpcServer, serve_until_stopped
from services.common.transport.probes import Probes, Readiness

T = TypeVar("T")
EXIT_FAILED, EXIT_SETTINGS = 1, 2  # after the second, starting again would not help
REPEAT_S = 2.0
_logger = logging.getLogger("afina")


class Program:
    """One running program: what it counts, what it needs, and how it serves."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.readiness = Readiness(self.metrics)

    def database(self, database: Database) -> Database:
        """Return a database that is measured, and that the program is not ready without."""
        self.readiness.needs("database", lambda: database.list("", "", limit=1))
        return measured(database, "database", self.metrics)

    def store(self, store: ObjectStore) -> ObjectStore:
        """Return an object store that is measured, and that the program is not ready without."""
        self.readiness.needs("object store", lambda: asyncio.to_thread(_reach, store))
        return measured(store, "object_store", self.metrics)

    def launcher(self, launcher: Launcher) -> Launcher:
        """Return a launcher that is measured."""
        return measured(launcher, "launcher", self.metrics)

    async def serve(
        self,
        server: GrpcServer,
        *loops: Callable[[], Awaitable[None]],
        reconcilers: Sequence[Reconciler] = (),
        probes: str = "",
    ) -> None:
        """Serve, reconcile, run other loops, and answer probes at an address where one is given; until SIGTERM or SIGINT."""

        async def refresh() -> None:
            for reconciler in reconcilers:
                await reconciler.count()

        door = Probes(probes, self.metrics, self.readiness, refresh) if probes else None
        if door is not None:
            door.start()
            telemetry.log(_logger, logging.INFO, "probes", address=door.address, port=door.port)
        try:
            await serve_until_stopped(server, self.readiness.watch, *(one.run for one in reconcilers), *loops)
        finally:
            if door is not None:
                door.stop()


def main(
    name: str,
    settings_class: type[T],
    run: Callable[[T, Program], Awaitable[None]],
    run_loop: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """Run a program until it is stopped. What it can't begin with is one line and an exit code.

    `run_loop` runs it in an event loop: uvloop's, for a program that has chosen it.
    """
    settings = begin(name, settings_class)
    try:
        run_loop(_run(run, settings))
    except AfinaError as error:
        print(f"{name}: {error.message}", file=sys.stderr)
        raise SystemExit(EXIT_SETTINGS if isinstance(error, InvalidInput | WrongState) else EXIT_FAILED) from None


async def _run(run: Callable[[T, Program], Awaitable[None]], settings: T) -> None:
    await run(settings, Program())


async def until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Do a piece of work of a program's beginning, again and again while what it needs is away."""
    while True:
        try:
            return await work()
        except Unavailable:  # the readiness has said so
            await asyncio.sleep(REPEAT_S)


def begin(name: str, settings_class: type[T]) -> T:
    """Return the settings of a program, or end it with exit code 2 and a line for each mistake."""
    telemetry.configure(name)
    try:
        settings = parse(settings_class)
    except InvalidInput as error:
        for violation in error.violations:
            print(f"{name}: {violation.description}", file=sys.stderr)
        raise SystemExit(EXIT_SETTINGS) from None
    for what in ("ADDRESS", "METRICS_ADDRESS"):
        _refuse_strangers(name, f"{name.upper()}_{what}", os.environ)
    telemetry.log(_logger, logging.INFO, "settings", **masked(settings))
    return settings


def _reach(store: ObjectStore) -> None:
    """Ask a store for an object that nobody writes. Raises: Unavailable, PermissionDenied."""
    try:
        store.head("readiness")
    except ArtifactNotFound:
        return


def _refuse_strangers(name: str, variable: str, environ: Mapping[str, str]) -> None:
    """End a program whose address is not of this machine, unless AFINA_TRUST_NETWORK=1."""
    host = environ.get(variable, "127.0.0.1:0").rpartition(":")[0].strip("[]")
    if environ.get("AFINA_TRUST_NETWORK") == "1" or host == "localhost" or _is_loopback(host):
        return
    print(
        f"{name}: {variable} is open to other machines, and what travels there is in clear: use 127.0.0.1, or set "
        "AFINA_TRUST_NETWORK=1 where the network keeps strangers out.",
        file=sys.stderr,
    )
    raise SystemExit(EXIT_SETTINGS)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
