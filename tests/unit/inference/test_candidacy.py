"""Candidacies: in whatever order a promotion and a deletion come to the database, no endpoint points to a model that is gone."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import AfinaError, NotFound
from services.common.ports.database import Record
from services.inference import endpoint, model, promotions
from services.inference.endpoint import Endpoint
from services.inference.gate import Gate
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.routes import RouteTable
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Placement, Server, placement_name, server_name
from services.inference.use_cases import delete_model
from tests.fakes import ScriptedLauncher

BASE_DIGEST = "b" * 64
BASE = model.base_name(BASE_DIGEST)
SERVER = server_name(BASE_DIGEST)


class Turns:
    """Lets one of several tasks at a time come to the database; which one, a seed decides."""

    def __init__(self, seed: int, tasks: int) -> None:
        self._random, self._running = random.Random(seed), tasks
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._choose()
        await turn

    def leave(self) -> None:
        self._running -= 1
        self._choose()

    def _choose(self) -> None:
        if self._waiting and len(self._waiting) >= self._running:
            self._waiting.pop(self._random.randrange(len(self._waiting))).set_result(None)


class OrderedDatabase(SqlDatabase):
    """A database that is asked in the order of the turns, where there are any."""

    turns: Turns | None = None

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
    for seed in range(60):
        name, pointing = await put_model(database, seed), f"projects/p/endpoints/e-{seed}"
        database.turns = Turns(seed, 2)

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
        assert (points_to, state) in ((name, "ACTIVE"), ("", "GONE"), ("", "ACTIVE")), seed
        assert isinstance(promoted, Record) == (points_to == name), (seed, promoted)
        assert (deleted is None) == (state == "GONE"), (seed, deleted)
        outcomes[state + (" promoted" if points_to else "")] += 1
        for kind, left in ((endpoint.KIND, pointing), (model.KIND, name)):
            if points_to or state == "GONE":
                await remove(database, kind, left)
    assert outcomes.keys() >= {"GONE", "ACTIVE promoted"}


async def remove(database: OrderedDatabase, kind: str, name: str) -> None:
    """Delete a record, so that later lists stay short; the absent is success."""
    try:
        await database.delete(await database.get(kind, name))
    except NotFound:
        return
