"""Candidacies: in whatever order a promotion and a deletion come to the database, no endpoint points to a model that is gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import AfinaError, NotFound, WrongState
from services.common.ports.database import Record
from services.inference import endpoint, model, promotions
from services.inference.endpoint import Endpoint
from services.inference.gate import Gate
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.records import change
from services.inference.routes import RouteTable
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Placement, Server, placement_name, server_name
from services.inference.use_cases import delete_model
from tests.fakes import ScriptedLauncher

BASE_DIGEST = "b" * 64
BASE = model.base_name(BASE_DIGEST)
SERVER = server_name(BASE_DIGEST)


class Turns:
    """Lets one of two tasks at a time come to the database: so often the first, so often the other, and so on by turns."""

    def __init__(self, *quanta: int) -> None:
        self._order = [number % 2 == 0 for number, quantum in enumerate(quanta) for _ in range(quantum)]
        self._running = 2
        self._first: asyncio.Task[Any] | None = None
        self._waiting: dict[bool, asyncio.Future[None]] = {}  # by whether it is the first one's

    async def wait(self) -> None:
        task = asyncio.current_task()
        self._first = self._first or task
        turn = self._waiting[task is self._first] = asyncio.get_running_loop().create_future()
        self._choose()
        await turn

    def leave(self) -> None:
        self._running -= 1
        self._choose()

    def _choose(self) -> None:
        if self._waiting and len(self._waiting) >= self._running:
            wanted = self._order.pop(0) if self._order else True
            self._waiting.pop(wanted if wanted in self._waiting else not wanted).set_result(None)


# One goes on for so long, then the other to its end, or for so long, too: every order with one change, and some with two.
QUANTA = [
    *((n, 99) for n in range(32)),
    *((0, n, 99) for n in range(1, 12)),
    *((n, m, 99) for n in range(8, 32, 2) for m in (3, 5)),
]


class OrderedDatabase(SqlDatabase):
    """A database that is asked in the order of the turns, where there are any."""

    turns: Turns | None = None
    before_delete: Callable[[], Awaitable[Any]] | None = None  # once

    async def delete(self, record: Record) -> None:
        meanwhile, self.before_delete = self.before_delete, None
        if meanwhile is not None:
            await meanwhile()
        await super().delete(record)

    async def _run(self, transaction: Any) -> Any:
        if self.turns is not None:
            await self.turns.wait()
        return await super()._run(transaction)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[OrderedDatabase]:
    database = OrderedDatabase(f"sqlite:///{tmp_path}/c.db")
    base = Model(BASE, "BASE", BASE_DIGEST, "tiny", "k", 1, max_length=512, has_chat_template=True)
    await database.create(model.KIND, BASE, base.to_document())
    server = Server(SERVER, BASE, BASE_DIGEST, "k", 512, state="ACTIVE", port=1, api_key="key")
    await database.create(SERVER_KIND, SERVER, server.to_document())
    other = Model("projects/p/models/other", "ADAPTER", "a" * 64, "ft:y", "k", 1, base=BASE, base_digest=BASE_DIGEST)
    await database.create(model.KIND, other.name, other.to_document())  # so that the base stays when the others go
    yield database
    await database.close()


async def put_model(database: OrderedDatabase, number: int) -> str:
    """Put a model that is proven, and an endpoint for it, into the database; return the model's name."""
    digest = f"{number:08x}" * 8
    name = f"projects/p/models/m-{number}"
    own = Model(name, "ADAPTER", digest, "ft:x", "k", 1, base=BASE, base_digest=BASE_DIGEST, proof={"is_distinguishable": True})
    place = Placement(placement_name(SERVER, name), SERVER, name, digest, BASE_DIGEST, "k", state="PROVEN", generation=1)
    pointing = Endpoint(f"projects/p/endpoints/e-{number}", Gate())
    await database.create(model.KIND, name, own.to_document())
    await database.create(PLACEMENT_KIND, place.name, place.to_document())
    await database.create(endpoint.KIND, pointing.name, pointing.to_document())
    return name


async def test_every_order_of_a_promotion_and_a_deletion_ends_with_one_of_the_two(
    database: OrderedDatabase, tmp_path: Path
) -> None:
    nobody = cast(Any, None)  # neither evidence nor engine is asked
    inference = Inference(database, nobody, ScriptedLauncher(), nobody, tmp_path, nobody, nobody, RouteTable(database))
    outcomes: Counter[str] = Counter()
    for number, quanta in enumerate(QUANTA):
        name, pointing = await put_model(database, number), f"projects/p/endpoints/e-{number}"
        database.turns = Turns(*quanta)

        async def in_turn(verb: Any, turns: Turns = database.turns) -> Any:
            try:
                return await verb
            except AfinaError as error:
                return error
            finally:
                turns.leave()

        promoting = promotions.promote(inference, pointing, name, "", "", 5.0, override_reason="a test")
        promoted, deleted = await asyncio.gather(in_turn(promoting), in_turn(delete_model(inference, name)))
        database.turns = None
        points_to = (await database.get(endpoint.KIND, pointing)).document["model"]
        try:
            state = (await database.get(model.KIND, name)).document["state"]
        except NotFound:
            state = "GONE"
        assert (points_to, state) in ((name, "ACTIVE"), ("", "GONE"), ("", "ACTIVE")), quanta
        assert isinstance(promoted, Record) == (points_to == name), (quanta, promoted)
        assert (deleted is None) == (state == "GONE"), (quanta, deleted)
        outcomes[state + (" promoted" if points_to else "")] += 1
        for kind, left in ((endpoint.KIND, pointing), (model.KIND, name)):
            if points_to or state == "GONE":
                await remove(database, kind, left)
    assert outcomes.keys() >= {"GONE", "ACTIVE promoted"}


async def test_a_model_that_is_released_and_promoted_while_it_is_being_deleted_stays(
    database: OrderedDatabase, tmp_path: Path
) -> None:
    nobody = cast(Any, None)
    inference = Inference(database, nobody, ScriptedLauncher(), nobody, tmp_path, nobody, nobody, RouteTable(database))
    name, pointing = await put_model(database, 1), "projects/p/endpoints/e-1"

    async def release_and_promote() -> None:
        await change(database, model.KIND, name, lambda document: {**document, "state": "ACTIVE"}, None)
        await promotions.promote(inference, pointing, name, "", "", 5.0, override_reason="a test")

    database.before_delete = release_and_promote
    with pytest.raises(WrongState) as refused:
        await delete_model(inference, name)
    assert refused.value.reason == "MODEL_IN_USE"
    assert (await database.get(model.KIND, name)).document["state"] == "ACTIVE"
    assert (await database.get(endpoint.KIND, pointing)).document["model"] == name


async def remove(database: OrderedDatabase, kind: str, name: str) -> None:
    """Delete a record, so that later lists stay short; the absent is success."""
    try:
        await database.delete(await database.get(kind, name))
    except NotFound:
        return
