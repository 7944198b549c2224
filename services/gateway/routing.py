"""Who answers for a name: the table of routes as `inference` streams it, and the way to a replica that can be asked.

The table is replaced whole, so between two tables nothing is ever half-changed; while `inference` is away the last one
stands, because model servers go on without it. Only what an endpoint points to has to be the newest, so that its part of the
table is believed for a time only (`belief.py`). A name that is not in the table is asked for once more at `inference`: a model
that was registered a moment ago may not be in the table yet.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from afina.v1 import model_pb2 as pb
from google.protobuf import timestamp_pb2

from services.common.errors import AfinaError, InvalidInput, NotFound, PermissionDenied, Unavailable
from services.common.telemetry import log
from services.common.transport.grpc_client import Client
from services.gateway.belief import Belief, boot_time

WATCH_RENEWAL_S = 300.0  # a stream whose other end froze is noticed no later than this
MAX_BACKOFF_S = 2.0
ENSURE_LOOK_S = 20.0
PAUSE_S = 0.5
CONFIRM_TIMEOUT_S = 5.0
MAX_CONFIRMATIONS = 10
ENDPOINT = "endpoint"
_logger = logging.getLogger("afina.routing")


@dataclass(frozen=True)
class Replica:
    """A model server on which the model is proven."""

    url: str
    served_name: str
    api_key: str


@dataclass(frozen=True)
class Route:
    """Who answers for a name. `project` is empty where every project may ask; `kind` is base, adapter, full or endpoint."""

    public_id: str
    project: str
    model: str
    digest: str
    kind: str
    create_time: datetime
    replicas: tuple[Replica, ...] = ()


class Routes:
    """The table, the watch that keeps it, and the choice of a replica."""

    def __init__(
        self, models: Client, *, ensure_timeout_s: float = 120.0, title: str = "", clock: Callable[[], float] = boot_time
    ) -> None:
        self._models, self._ensure_timeout_s, self._clock = models, ensure_timeout_s, clock
        self._table: dict[tuple[str, str], Route] | None = None
        self._revision = 0
        self._belief = Belief(models, title)
        self._is_new = asyncio.Event()  # a table that has not been acknowledged
        self._confirming: asyncio.Task[None] | None = None
        self._ensuring: dict[str, asyncio.Task[tuple[Replica, ...]]] = {}
        self._in_flight: Counter[str] = Counter()

    @property
    def are_known(self) -> bool:
        """Whether a table has come since the start."""
        return self._table is not None

    async def watch(self) -> None:
        """Keep the table, and the leave to believe it, until cancelled, whatever happens to `inference`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._renew())

    async def leave(self) -> None:
        """Tell `inference` that nobody is answered any more, so that no promotion waits for this gateway."""
        with contextlib.suppress(AfinaError):  # it finds out by itself
            await self._belief.end()

    def list(self, project: str) -> Sequence[Route]:
        """Return what a project may ask for, newest first. Raises: Unavailable (no table has come yet)."""
        names = {route.public_id: route for route in self._known().values() if not route.project}
        names.update({route.public_id: route for route in self._known().values() if route.project == project})
        return sorted(names.values(), key=lambda route: (-route.create_time.timestamp(), route.public_id))

    async def find(self, project: str, public_id: str) -> Route:
        """Return the route of a name; a project's own names come before everybody's.

        Raises: NotFound, Unavailable (`inference` is away, and it is an endpoint's name, or one that is not in the table).
        """
        route = self._look_up(project, public_id)
        if (route is None or route.kind == ENDPOINT) and not self._belief.holds(self._clock()):
            await self._confirmed(public_id)
            route = self._look_up(project, public_id)
        return route or await self._ask(project, public_id)

    async def replica(self, route: Route, avoid: Set[str] = frozenset()) -> Replica:
        """Return the replica with the fewest requests in flight, waiting until there is one.

        Replicas in `avoid` have just failed; they are taken again only when `inference` still vouches for them.
        Raises: Unavailable (none within the time), WrongState (the model is quarantined), NotFound.
        """
        good = [replica for replica in route.replicas if replica.url not in avoid]
        if not good:
            ensured = await self._ensured(route)
            good = [replica for replica in ensured if replica.url not in avoid]
            if not good:
                await asyncio.sleep(PAUSE_S)
                good = list(ensured)
        fewest = min(self._in_flight[replica.url] for replica in good)
        return random.choice([replica for replica in good if self._in_flight[replica.url] == fewest])

    async def ready(self, route: Route) -> Route:
        """Return a route with the replicas on which its model is proven, waiting until there is one. Raises: as `replica`."""
        return route if route.replicas else replace(route, replicas=await self._ensured(route))

    @contextmanager
    def occupied(self, replica: Replica) -> Iterator[None]:
        """Count a request in flight."""
        self._in_flight[replica.url] += 1
        try:
            yield
        finally:
            self._in_flight[replica.url] -= 1
            if not self._in_flight[replica.url]:
                del self._in_flight[replica.url]

    def _look_up(self, project: str, public_id: str) -> Route | None:
        table = self._known()
        return table.get((project, public_id)) or table.get(("", public_id))

    async def _follow(self) -> None:
        backoff_s = 0.1
        while True:
            try:
                async for response in self._models.WatchRoutes(pb.WatchRoutesRequest(), timeout_s=WATCH_RENEWAL_S):
                    if self._table is None or response.revision >= self._revision:  # else its sender is behind
                        self._adopt(response)
                        self._is_new.set()
                    backoff_s = 0.1
            except AfinaError as error:
                if error.reason != "DEADLINE_EXCEEDED":
                    log(_logger, logging.WARNING, "the routes are not watched", error=error.message)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)

    async def _renew(self) -> None:
        while True:
            pause_s = self._belief.pause_s if self._table is not None else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_new.wait()
            self._is_new.clear()
            had_leave = self._belief.holds(self._clock())
            try:
                await asyncio.shield(self._shared_confirm())
            except AfinaError as error:
                if had_leave and not self._belief.holds(self._clock()):
                    log(_logger, logging.WARNING, "endpoints are not answered: their models are not sure", error=error.message)

    def _adopt(self, table: pb.WatchRoutesResponse) -> None:
        self._table = {(route.project, route.public_id): _route(route) for route in table.routes}
        self._revision = table.revision

    async def _confirmed(self, public_id: str) -> None:
        """Return once the table is known to be the newest. Raises: Unavailable."""
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await asyncio.shield(self._shared_confirm())
        except (TimeoutError, Unavailable) as error:
            raise Unavailable(
                f"Which model answers for {public_id[:200]} is not sure, since inference is away; try again in a moment.",
                reason="ROUTES_UNCONFIRMED",
                metadata={"model": public_id[:200], "retry_after_s": "2"},
            ) from error

    def _shared_confirm(self) -> asyncio.Task[None]:
        """Return the one confirmation that is under way, so that an answer always belongs to the last question."""
        if self._confirming is None or self._confirming.done():
            self._confirming = asyncio.create_task(self._confirm())
            self._confirming.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._confirming

    async def _confirm(self) -> None:
        for _ in range(MAX_CONFIRMATIONS):
            newer = await self._belief.ask(self._revision, self._clock())
            if newer is None:
                return
            self._adopt(newer)  # an older one, too: a database that was restored knows no other, and there is no leave
        raise Unavailable("The table of models changes all the time.", reason="ROUTES_UNCONFIRMED")

    async def _ensured(self, route: Route) -> tuple[Replica, ...]:
        end = self._clock() + self._ensure_timeout_s
        last: Unavailable | None = None
        while (left_s := end - self._clock()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    return await asyncio.shield(self._shared_ensure(route.model))
            except TimeoutError:
                break
            except NotFound as error:
                raise model_not_found(route.public_id) from error
            except Unavailable as error:
                last = error
                await asyncio.sleep(min(PAUSE_S, max(0.0, end - self._clock())))
        raise Unavailable(
            f"{route.public_id} is not ready: no server had it loaded within {self._ensure_timeout_s:g} s. Try again."
            + (f" Last: {last.message}" if last and last.reason != "UNREACHABLE" else ""),
            reason="MODEL_NOT_READY",
            metadata={"model": route.public_id, "retry_after_s": "5"},
        ) from last

    def _shared_ensure(self, model: str) -> asyncio.Task[tuple[Replica, ...]]:
        """Return the one EnsureServed that is under way for a model; a client that leaves does not end it for others."""
        task = self._ensuring.get(model)
        if task is None or task.done():
            task = self._ensuring[model] = asyncio.create_task(self._ensure(model))
            task.add_done_callback(lambda done: self._ensure_over(model, done))
        return task

    def _ensure_over(self, model: str, task: asyncio.Task[tuple[Replica, ...]]) -> None:
        if self._ensuring.get(model) is task:
            del self._ensuring[model]
        if not task.cancelled():
            task.exception()  # asked for, so that nobody is told of it when all who waited have left

    async def _ensure(self, model: str) -> tuple[Replica, ...]:
        request = pb.EnsureServedRequest(name=model)
        response = await self._models.EnsureServed(request, timeout_s=min(ENSURE_LOOK_S, self._ensure_timeout_s))
        if not response.replicas:
            raise Unavailable(f"{model} has no replica yet.", reason="MODEL_NOT_READY")
        return _replicas(response.replicas)

    async def _ask(self, project: str, public_id: str) -> Route:
        try:
            model = await self._models.GetModel(pb.GetModelRequest(name=public_id, parent=f"projects/{project}"), timeout_s=10)
        except (NotFound, InvalidInput, PermissionDenied) as error:
            raise model_not_found(public_id) from error
        owner = model.name.split("/")[1] if model.name.startswith("projects/") else ""
        if owner not in ("", project):
            raise model_not_found(public_id)
        kind = pb.Model.Kind.Name(model.kind).removeprefix("KIND_").lower()
        return Route(public_id, owner, model.name, model.digest, kind, _time(model.create_time))

    def _known(self) -> dict[tuple[str, str], Route]:
        if self._table is None:
            raise Unavailable("The table of models has not come yet; is inference running?", reason="ROUTES_UNKNOWN")
        return self._table


def model_not_found(public_id: str) -> NotFound:
    """Return the error of a name that nothing answers for."""
    return NotFound(
        f"The model `{public_id[:200]}` does not exist or you do not have access to it.",
        reason="MODEL_NOT_FOUND",
        metadata={"param": "model"},
    )


def _route(route: pb.Route) -> Route:
    return Route(
        public_id=route.public_id,
        project=route.project,
        model=route.model,
        digest=route.digest,
        kind=route.kind,
        create_time=_time(route.create_time),
        replicas=_replicas(route.replicas),
    )


def _replicas(replicas: Iterable[pb.Replica]) -> tuple[Replica, ...]:
    return tuple(Replica(replica.url.rstrip("/"), replica.served_name, replica.api_key) for replica in replicas)


def _time(time: timestamp_pb2.Timestamp) -> datetime:
    told: datetime = time.ToDatetime(tzinfo=UTC)
    return told
