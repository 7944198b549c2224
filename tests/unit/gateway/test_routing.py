"""Routing: by which table a gateway answers for endpoints, with a clock and an inference of the test's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from afina.v1 import model_pb2 as pb

from services.common.errors import NotFound, Unavailable
from services.common.transport.grpc_client import Client
from services.gateway.routing import Routes
from tests.builders import eventually

BELIEVED_S = 60.0


class Inference(Client):
    """Inference as a client sees it: the newest table, a stream that a test feeds, and a line that it cuts."""

    def __init__(self) -> None:
        super().__init__(lambda channel: None, "nowhere")
        self.newest = table(1, "old")
        self.streamed: asyncio.Queue[pb.WatchRoutesResponse] = asyncio.Queue()
        self.is_away = False
        self.acknowledged: list[int] = []
        self.forgotten: list[str] = []
        self.models: dict[str, pb.Model] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def _streaming(self) -> AsyncIterator[pb.WatchRoutesResponse]:
        while True:
            yield await self.streamed.get()

    def WatchRoutes(self, request: Any, timeout_s: float) -> AsyncIterator[pb.WatchRoutesResponse]:
        return self._streaming()

    async def AcknowledgeRoutes(self, request: Any, timeout_s: float) -> pb.AcknowledgeRoutesResponse:
        if self.is_away:
            raise Unavailable("nobody answers")
        self.acknowledged.append(request.revision)
        is_newest = request.revision == self.newest.revision
        await self.may_answer.wait()
        if is_newest:
            return pb.AcknowledgeRoutesResponse(believed_s=BELIEVED_S)
        return pb.AcknowledgeRoutesResponse(table=self.newest)

    async def ForgetRoutes(self, request: Any, timeout_s: float) -> None:
        self.forgotten.append(request.watcher)

    async def GetModel(self, request: Any, timeout_s: float) -> pb.Model:
        if request.name in self.models:
            return self.models[request.name]
        raise NotFound(f"There is no {request.name}.")


def table(revision: int, model: str, *more: str) -> pb.WatchRoutesResponse:
    """Return a table in which the endpoint `support` points to a model, and so do the endpoints in `more`; `base` is a base."""
    routes = [pb.Route(public_id=name, project="p", model=model, digest=model, kind="endpoint") for name in ("support", *more)]
    return pb.WatchRoutesResponse(routes=[*routes, pb.Route(public_id="base", model="b", kind="base")], revision=revision)


class Gateway:
    """Routes with their table, and a clock."""

    def __init__(self) -> None:
        self.inference, self.now = Inference(), 0.0
        self.routes = Routes(self.inference, clock=lambda: self.now)
        self._watching: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._watching = asyncio.ensure_future(self.routes.watch())
        self.inference.streamed.put_nowait(self.inference.newest)
        await eventually(lambda: self.inference.acknowledged)

    async def end(self) -> None:
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def model(self, public_id: str = "support") -> str:
        return (await self.routes.find("p", public_id)).model


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    await gateway.begin()
    yield gateway
    await gateway.end()


async def test_a_table_is_acknowledged_once_it_has_come_and_believed_without_asking(gateway: Gateway) -> None:
    assert [await gateway.model() for _ in range(3)] == ["old"] * 3
    assert gateway.inference.acknowledged == [1]
    gateway.inference.newest = table(2, "new")
    gateway.inference.streamed.put_nowait(gateway.inference.newest)
    await eventually(lambda: gateway.inference.acknowledged == [1, 2])
    assert await gateway.model() == "new"


async def test_a_model_that_inference_finds_is_answered_for_in_its_own_project_alone(gateway: Gateway) -> None:
    for name, owner in (
        ("ft:tiny:p::1", "projects/p/models/1"),
        ("ft:tiny:q::2", "projects/q/models/2"),
        ("new-base", "models/3"),
    ):
        gateway.inference.models[name] = pb.Model(name=owner, digest="d" * 64, kind=pb.Model.KIND_ADAPTER)
    assert await gateway.model("ft:tiny:p::1") == "projects/p/models/1"
    assert await gateway.model("new-base") == "models/3"
    with pytest.raises(NotFound):
        await gateway.model("ft:tiny:q::2")


async def test_past_its_leave_a_gateway_asks_before_it_answers_and_finds_the_new_model(gateway: Gateway) -> None:
    gateway.inference.newest = table(2, "new")
    gateway.now += BELIEVED_S - 0.1
    assert await gateway.model() == "old"  # it may: who promoted waits until then
    gateway.now += 0.1
    assert await gateway.model() == "new"
    assert gateway.inference.acknowledged == [1, 1, 2]  # the old one, in vain, and what came for an answer


async def test_a_leave_counts_from_before_it_was_asked_for(gateway: Gateway) -> None:
    gateway.now += BELIEVED_S
    gateway.inference.may_answer.clear()
    asking = asyncio.ensure_future(gateway.model())
    await eventually(lambda: len(gateway.inference.acknowledged) == 2)
    gateway.now += BELIEVED_S  # the answer takes as long as it is good for
    gateway.inference.may_answer.set()
    assert await asking == "old"
    gateway.inference.is_away = True
    with pytest.raises(Unavailable):
        await gateway.model()


async def test_without_inference_endpoints_are_refused_past_the_leave_and_other_names_are_not(gateway: Gateway) -> None:
    gateway.inference.is_away = True
    assert await gateway.model() == "old"
    gateway.now += BELIEVED_S
    for name in ("support", "nobody"):
        with pytest.raises(Unavailable) as refused:
            await gateway.model(name)
        assert refused.value.reason == "ROUTES_UNCONFIRMED"
        assert float(refused.value.metadata["retry_after_s"]) > 0
    assert await gateway.model("base") == "b"
    gateway.inference.is_away = False
    assert await gateway.model() == "old"
    with pytest.raises(NotFound):
        await gateway.model("nobody")


async def test_a_name_that_is_not_in_an_old_table_is_looked_for_in_the_newest(gateway: Gateway) -> None:
    gateway.inference.newest = table(2, "new", "sales")
    gateway.now += BELIEVED_S
    assert await gateway.model("sales") == "new"


async def test_an_older_table_from_a_replica_that_is_behind_is_not_taken(gateway: Gateway) -> None:
    gateway.inference.newest = table(3, "new")
    gateway.inference.streamed.put_nowait(gateway.inference.newest)
    await eventually(lambda: gateway.inference.acknowledged == [1, 3])
    gateway.inference.may_answer.clear()  # so that nothing mends what the stream does
    gateway.inference.streamed.put_nowait(table(2, "old"))
    await eventually(gateway.inference.streamed.empty)
    assert await gateway.model() == "new"
    gateway.inference.may_answer.set()
    gateway.inference.streamed.put_nowait(table(3, "new", "seen"))
    await eventually(lambda: "seen" in [route.public_id for route in gateway.routes.list("p")])
    assert await gateway.model() == "new"


async def test_after_a_database_was_restored_the_gateway_follows_it_back(gateway: Gateway) -> None:
    gateway.inference.newest = table(0, "restored")
    gateway.now += BELIEVED_S
    assert await gateway.model() == "restored"


async def test_requests_at_once_ask_once(gateway: Gateway) -> None:
    gateway.now += BELIEVED_S
    assert set(await asyncio.gather(*(gateway.model() for _ in range(20)))) == {"old"}
    assert gateway.inference.acknowledged == [1, 1]


async def test_a_gateway_that_stops_says_so_and_answers_for_no_endpoint_any_more(gateway: Gateway) -> None:
    await gateway.routes.leave()
    assert len(gateway.inference.forgotten) == 1
    gateway.inference.is_away = True
    with pytest.raises(Unavailable):
        await gateway.model()


async def test_every_start_of_a_gateway_watches_under_a_name_of_its_own() -> None:
    gateways = [Gateway() for _ in range(3)]
    for gateway in gateways:
        await gateway.routes.leave()
    assert len({gateway.inference.forgotten[0] for gateway in gateways}) == 3
