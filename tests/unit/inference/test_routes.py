"""Routes: which replicas may stand in the table."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.backends.database.sql import SqlDatabase
from services.inference import endpoint, model
from services.inference.endpoint import Endpoint
from services.inference.gate import Gate
from services.inference.model import Model
from services.inference.routes import Replica, build
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Placement, Server

NAME = "projects/p/models/m"
MODEL = Model(NAME, "ADAPTER", "d" * 64, "ft:tiny:p::m", "k", 1, base="models/b", base_digest="b" * 64)
SERVER = Server("servers/b", "models/b", "b" * 64, "k", 512, state="ACTIVE", generation=2, port=1234, api_key="key")
PLACEMENT = Placement("placements/b/m", "servers/b", NAME, "d" * 64, "b" * 64, "k", state="PROVEN", generation=2)
ENDPOINT = Endpoint("projects/p/endpoints/support", Gate(), NAME, "d" * 64)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase(f"sqlite:///{tmp_path}/r.db")
    yield database
    await database.close()


async def replicas(database: SqlDatabase, held: Model, server: Server, placement: Placement) -> dict[str, tuple[Replica, ...]]:
    """Put one of each into a database and return the replicas by public id."""
    await database.create(model.KIND, held.name, held.to_document())
    await database.create(SERVER_KIND, server.name, server.to_document())
    await database.create(PLACEMENT_KIND, placement.name, placement.to_document())
    await database.create(endpoint.KIND, ENDPOINT.name, ENDPOINT.to_document())
    return {route.public_id: route.replicas for route in await build(database)}


async def test_a_proven_placement_of_the_present_generation_answers_for_model_and_endpoint(database: SqlDatabase) -> None:
    replica = Replica("http://127.0.0.1:1234", "d" * 64, "key")
    assert await replicas(database, MODEL, SERVER, PLACEMENT) == {"ft:tiny:p::m": (replica,), "support": (replica,)}


async def test_a_proof_of_the_generation_before_does_not_count(database: SqlDatabase) -> None:
    found = await replicas(database, MODEL, SERVER, replace(PLACEMENT, generation=1))
    assert found == {"ft:tiny:p::m": (), "support": ()}


@pytest.mark.parametrize("state", ["STARTING", "FAILED"])
async def test_a_server_that_is_not_active_answers_for_nobody(database: SqlDatabase, state: str) -> None:
    found = await replicas(database, MODEL, replace(SERVER, state=state), PLACEMENT)
    assert found == {"ft:tiny:p::m": (), "support": ()}


async def test_a_quarantined_model_has_no_route_and_an_endpoint_that_points_to_it_no_replica(database: SqlDatabase) -> None:
    assert await replicas(database, MODEL.quarantine("it answers as its base"), SERVER, PLACEMENT) == {"support": ()}
