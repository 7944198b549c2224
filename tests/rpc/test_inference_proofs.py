"""A proof says what the model is, not how its server is set: quarantine, the way out of it, room, and what leaves with what."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from afina.v1 import model_pb2

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.errors import Conflict
from services.common.ports.database import Document, Record
from services.inference import catalogue, entries, model
from services.inference.catalogue import Entry
from services.inference.room import ROOM_KIND, make_room
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Server
from tests.builders import eventually
from tests.rpc.inference_world import World, inference_world
from tests.unit.inference import adapters


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        yield made


async def _drain(world: World) -> None:
    """Let a server that leaves be one that every gateway has heard of."""
    await eventually(lambda: _any_in(world, "STOPPING"))
    world.parts["passed"] += timedelta(seconds=10)


async def _any_in(world: World, state: str) -> bool:
    return any(record.document["state"] == state for record in await world.inference.database.list(SERVER_KIND, ""))


async def test_a_server_for_too_few_tokens_makes_nobodys_quarantine_and_more_tokens_mend_it(world: World) -> None:
    await world.add_base(max_length=512)
    adapter = await world.add_adapter(world.put_adapter(lengths=(200, *(300,) * 7)))
    await world.ensure(adapter.name)
    await world.update("max_length", max_length=128)
    await _drain(world)
    with pytest.raises(errors.WrongState) as told:
        await world.ensure(adapter.name)
    assert told.value.reason == "MAX_LENGTH_TOO_SHORT"
    assert "takes 128 tokens and its shortest golden answer needs 201" in told.value.message
    found = await world.get(adapter.name)
    assert found.state == model_pb2.Model.STATE_ACTIVE
    assert found.serving == model_pb2.Model.SERVING_FAILED
    assert "raise max_length" in found.serving_message
    await world.update("max_length", max_length=512)
    await _drain(world)
    assert (await world.ensure(adapter.name)).replicas


async def test_golden_chats_that_fit_prove_a_model_where_others_do_not_fit(world: World) -> None:
    await world.add_base(max_length=128)
    adapter = await world.add_adapter(world.put_adapter(lengths=(200, 127, 128, 3, *(500,) * 4)))
    assert (await world.ensure(adapter.name)).model.proof["token_count"] == 2


async def test_a_quarantine_is_lifted_by_a_proof_and_by_nothing_else(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    world.answers[adapter.digest] = -3.0
    with pytest.raises(errors.WrongState):
        await world.ensure(adapter.name)
    with pytest.raises(errors.WrongState, match="afina models prove"):
        await world.prove(adapter.name)
    assert (await world.get(adapter.name)).state == model_pb2.Model.STATE_QUARANTINED
    del world.answers[adapter.digest]
    with pytest.raises(errors.WrongState):
        await world.ensure(adapter.name)
    proven = await world.prove(adapter.name)
    assert (proven.state, proven.quarantine_reason) == (model_pb2.Model.STATE_ACTIVE, "")
    assert proven.proof["mean_difference"] == 0
    assert (await world.routes())[adapter.public_id].replicas


async def test_a_model_that_is_proven_keeps_its_requests_while_it_is_proven_again_and_loses_them_when_it_fails(
    world: World,
) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    first = (await world.ensure(adapter.name)).model.proof["prove_time"]
    second = (await world.prove(adapter.name)).proof["prove_time"]
    assert second > first
    world.answers[adapter.digest] = -3.0
    with pytest.raises(errors.WrongState, match="LOGPROBS_DIFFER"):
        await world.prove(adapter.name)
    await eventually(lambda: _is_gone(world, adapter.public_id))


async def test_a_base_is_not_proven_again_by_name(world: World) -> None:
    entry = await world.add_base()
    with pytest.raises(errors.InvalidInput) as refused:
        await world.prove(entry.model)
    assert refused.value.reason == "IS_A_BASE"


@pytest.mark.parametrize("is_silent", [False, True], ids=["a stream is under way", "it does not say"])
async def test_a_server_that_is_launched_for_a_higher_rank_answers_first_what_it_was_asked(world: World, is_silent: bool) -> None:
    await world.add_base()
    small, large = await world.add_adapter(), await world.add_adapter(world.put_adapter(rank=20))
    await world.ensure(small.name)
    before = await world.server()
    busy = world.servers[before.url]
    busy.running_count, busy.tells_activity = 1, not is_silent
    asking = asyncio.ensure_future(world.ensure(large.name, timeout_s=30))
    await _drain(world)
    await eventually(lambda: _has_no_replica(world, small.public_id))
    world.parts["passed"] += timedelta(seconds=60)
    await eventually(lambda: _was_looked_at(world, before))
    assert world.launcher.stopped == []
    busy.running_count, busy.tells_activity = 0, True
    assert (await asking).replicas
    assert world.launcher.stopped == [before.key]
    after = await world.server()
    assert (after.generation, after.max_rank, after.failures) == (2, 32, 0)


async def _has_no_replica(world: World, public_id: str) -> bool:
    return not (await world.routes())[public_id].replicas


async def _is_gone(world: World, public_id: str) -> bool:
    return public_id not in await world.routes()


async def _was_looked_at(world: World, server: Server) -> bool:
    """Whether the loop has come by several times since."""
    versions = {r.name: r.version for r in await world.inference.database.list(SERVER_KIND, "")}
    first = world.parts.setdefault("seen", versions[server.name])
    return bool(versions[server.name] >= first + 3)


async def test_a_server_that_never_says_whether_it_answers_is_ended_after_two_minutes(world: World) -> None:
    entry = await world.add_base()
    await world.ensure(entry.model)
    server = await world.server()
    world.servers[server.url].tells_activity = False
    await world.delete_entry()
    await _drain(world)
    world.parts["passed"] += timedelta(seconds=120)
    await eventually(lambda: server.key in world.launcher.stopped)


@pytest.mark.parametrize("kind", ["base", "full"])
async def test_whole_weights_that_are_not_finite_reach_no_engine_and_say_so(world: World, kind: str) -> None:
    weights = {
        f"{module}.weight": ("F32", np.full(shape, np.nan if "layers.1" in module else 1.0, np.float32))
        for module, shape in adapters.MODULES.items()
    }
    broken = adapters.safetensors(weights)
    if kind == "base":
        name = (await world.add_base(world.put_base("nan", model__safetensors=broken))).model
    else:
        name = (await world.add_adapter(world.put_full(model__safetensors=broken))).name
    asking = asyncio.ensure_future(world.ensure(name, timeout_s=3))
    await eventually(lambda: _says(world, name, "holds NaN or infinity"))
    with pytest.raises(errors.Unavailable):
        await asking
    assert world.launcher.manifests == {}


async def _says(world: World, name: str, words: str) -> bool:
    return words in (await world.get(name)).serving_message


class AtOnce(SqlDatabase):
    """A database whose writers of the room all read before any of them writes."""

    def __init__(self, url: str, barrier: asyncio.Barrier) -> None:
        super().__init__(url)
        self._barrier = barrier

    async def update(self, record: Record, document: Document, **options: Any) -> Record:
        if record.name.startswith("rooms/") and not self._barrier.broken:
            async with asyncio.timeout(5):
                await self._barrier.wait()
        return await super().update(record, document, **options)


async def test_of_two_programs_that_look_for_the_last_place_at_once_one_gets_it(world: World) -> None:
    barrier = asyncio.Barrier(2)
    programs = [
        replace(world.inference, database=AtOnce(f"sqlite:///{world.folder}/i.db", barrier), max_servers=1) for _ in range(2)
    ]
    servers = [Server(f"servers/{at}", f"models/{at}", str(at) * 64, "k", 512) for at in range(2)]
    for server in servers:
        await world.inference.database.create(SERVER_KIND, server.name, server.to_document())
    await world.inference.database.create(ROOM_KIND, "rooms/machine", {"launches": []})
    told = await asyncio.gather(*(make_room(program, server) for program, server in zip(programs, servers, strict=True)))
    await barrier.abort()
    assert sorted(map(bool, told)) == [False, True]
    loser = next(server for server, words in zip(servers, told, strict=True) if words)
    assert "MAX_SERVERS allows 1" in await make_room(programs[0], loser)
    winner = next(server for server in servers if server is not loser)
    assert await make_room(programs[1], winner) == ""
    for program in programs:
        await program.database.close()


async def test_who_waits_for_a_place_is_told_that_it_is_the_place(world: World) -> None:
    made = [await world.add_base(world.put_base(name), name) for name in ("one", "two", "three")]
    for entry in made[:2]:
        await world.ensure(entry.model)
    with pytest.raises(errors.Unavailable) as told:
        await world.ensure(made[2].model, timeout_s=1.5)
    assert told.value.reason == "NO_ROOM"


async def test_weights_that_an_entry_leaves_go_with_their_server_when_nothing_stands_on_them(world: World) -> None:
    first = await world.add_base()
    await world.ensure(first.model)
    await world.update("manifest_key", manifest_key=world.put_base("second"))
    world.parts["passed"] += timedelta(seconds=10)
    with pytest.raises(errors.NotFound):
        await world.get(first.model)
    await eventually(lambda: _servers_are(world, 0))


async def test_weights_that_an_entry_leaves_stay_as_long_as_an_adapter_stands_on_them(world: World) -> None:
    first = await world.add_base()
    adapter = await world.add_adapter()
    await world.ensure(adapter.name)
    await world.update("manifest_key", manifest_key=world.put_base("second"))
    assert (await world.ensure(adapter.name)).replicas
    assert (await world.get(first.model)).digest == first.digest
    await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=adapter.name))
    world.parts["passed"] += timedelta(seconds=10)
    with pytest.raises(errors.NotFound):
        await world.get(first.model)
    await eventually(lambda: _servers_are(world, 0))
    assert await world.inference.database.list(PLACEMENT_KIND, "") == []


async def _servers_are(world: World, count: int) -> bool:
    return len(await world.inference.database.list(SERVER_KIND, "")) == count


class Overtaken(SqlDatabase):
    """A database in which somebody else has just changed every catalogue entry that is written."""

    async def update(self, record: Record, document: Document, **options: Any) -> Record:
        if record.name.startswith("catalogueEntries/"):
            raise Conflict(f"{record.name} has changed since.")
        return await super().update(record, document, **options)


async def test_a_change_of_an_entry_that_comes_too_late_changes_nothing(world: World) -> None:
    entry = await world.add_base(max_length=512)
    late = replace(world.inference, database=Overtaken(f"sqlite:///{world.folder}/i.db"))
    stored = Entry.from_document((await late.database.get(catalogue.KIND, entry.name)).document)
    with pytest.raises(Conflict):
        await entries.update_entry(late, replace(stored, max_length=128), frozenset({"max_length"}), "")
    assert (await late.database.get(model.KIND, entry.model)).document["max_length"] == 512
    await late.database.close()


async def test_a_change_of_an_entry_that_broke_off_is_finished_by_repeating_it(world: World) -> None:
    entry = await world.add_base(max_length=512)
    database = world.inference.database
    record = await database.get(catalogue.KIND, entry.name)
    await database.update(record, {**record.document, "max_length": 128})  # as far as the call came
    await world.update("max_length", max_length=128)
    assert (await database.get(model.KIND, entry.model)).document["max_length"] == 128


async def test_adding_a_base_again_with_another_length_changes_neither_entry_nor_base(world: World) -> None:
    key = world.put_base()
    entry = await world.add_base(key, max_length=512)
    again = await world.add_base(key, max_length=128)
    stored = await world.inference.database.get(model.KIND, entry.model)
    assert (again.max_length, stored.document["max_length"]) == (512, 512)
