"""Model servers as inference keeps them: launched, proven, watched, launched again; and the routes to them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from afina.v1 import (
    model_pb2,
)

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.ports.launcher import LaunchManifest
from services.inference.routes import RouteTable
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Server
from tests.builders import eventually
from tests.rpc.inference_world import World, inference_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        yield made


async def test_a_model_is_served_by_a_server_that_is_launched_for_it_and_proves_it(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    served = await world.ensure(adapter.name)
    (replica,) = served.replicas
    server = await world.server()
    assert (replica.url, replica.served_name, replica.api_key) == (server.url, adapter.digest, server.api_key)
    assert len(world.launcher.manifests) == 1
    assert world.launcher.environment(server.key)["API_KEY"] == replica.api_key
    assert world.servers[server.url].loads == [adapter.digest]
    assert served.model.proof["golden_count"] == 8
    assert served.model.proof["mean_difference"] == 0
    assert served.model.proof["base_difference"] == 2


async def test_two_models_and_many_callers_share_one_server_and_one_load_each(world: World) -> None:
    entry = await world.add_base()
    adapters_ = [await world.add_adapter() for _ in range(2)]
    names = [entry.model, *(adapter.name for adapter in adapters_)] * 3
    answers = await asyncio.gather(*(world.ensure(name) for name in names))
    assert {replica.url for answer in answers for replica in answer.replicas} == {(await world.server()).url}
    (server,) = world.servers.values()
    assert sorted(server.loads) == sorted(adapter.digest for adapter in adapters_)


async def test_while_nothing_is_proven_the_caller_hears_so_before_its_deadline(world: World) -> None:
    entry = await world.add_base()
    world.parts["boots"] = False
    with pytest.raises(errors.Unavailable) as early:
        await world.ensure(entry.model, timeout_s=1.5)
    assert early.value.reason == "MODEL_NOT_READY"
    assert early.value.metadata["retry_after_s"] == "5"
    world.parts["boots"] = True
    world.servers[(await world.server()).url].is_running = True
    assert (await world.ensure(entry.model)).replicas
    with pytest.raises(errors.NotFound):
        await world.ensure("projects/default/models/none")


async def test_a_model_that_answers_as_its_base_is_quarantined_and_leaves_the_routes(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    world.answers[adapter.digest] = -3.0
    with pytest.raises(errors.WrongState) as refused:
        await world.ensure(adapter.name)
    assert refused.value.reason == "MODEL_QUARANTINED"
    found = await world.get(adapter.name)
    assert found.state == model_pb2.Model.STATE_QUARANTINED
    assert "LOGPROBS_DIFFER" in found.quarantine_reason
    assert found.proof["mean_difference"] == 2
    await eventually(lambda: _absent(world, adapter.public_id))


async def _absent(world: World, public_id: str) -> bool:
    return public_id not in await world.routes()


async def test_a_model_that_a_healthy_engine_refuses_three_times_is_quarantined(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    world.refused.add(adapter.digest)
    with pytest.raises(errors.WrongState):
        await world.ensure(adapter.name)
    assert "SERVER_REFUSED" in (await world.get(adapter.name)).quarantine_reason
    (server,) = world.servers.values()
    assert server.refusals == [adapter.digest] * 3


async def test_after_a_crash_the_server_is_launched_again_and_every_model_is_proven_again(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.ensure(adapter.name)
    before = await world.server()
    world.crash(before)
    await eventually(lambda: _is_generation(world, 2))
    served = await world.ensure(adapter.name)
    after = await world.server()
    assert (after.generation, after.failures) == (2, 1)
    assert served.replicas[0].url == after.url != before.url
    assert served.replicas[0].api_key != before.api_key
    assert world.servers[after.url].loads == [adapter.digest]


async def _is_generation(world: World, generation: int) -> bool:
    return (await world.server()).generation == generation


async def test_a_model_that_fails_its_proof_after_a_restart_is_quarantined(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.ensure(adapter.name)
    world.answers[adapter.digest] = -3.0
    world.crash(await world.server())
    await eventually(lambda: _is_quarantined(world, adapter.name))


async def _is_quarantined(world: World, name: str) -> bool:
    return (await world.get(name)).state == model_pb2.Model.STATE_QUARANTINED


async def test_a_quarantined_model_is_not_loaded_again_by_the_next_generation(world: World) -> None:
    await world.add_base()
    good, bad = await world.add_adapter(), await world.add_adapter()
    world.answers[bad.digest] = -3.0
    with pytest.raises(errors.WrongState):
        await world.ensure(bad.name)
    del world.answers[bad.digest]
    await world.ensure(good.name)
    world.crash(await world.server())
    await eventually(lambda: _is_generation(world, 2))
    await world.ensure(good.name)
    records = await world.inference.database.list(PLACEMENT_KIND, "")
    states = {record.document["model"]: record.document["state"] for record in records}
    assert states == {good.name: "PROVEN", bad.name: "REFUSED"}
    assert world.servers[(await world.server()).url].loads == [good.digest]


async def test_a_stranger_on_the_servers_port_is_not_taken_for_it(world: World) -> None:
    entry = await world.add_base()
    world.parts["is_stranger"] = True
    world.base_digest = "f" * 64  # what answers is another base's server
    asking = asyncio.ensure_future(world.ensure(entry.model))
    await eventually(lambda: _has_restarted(world))
    world.parts["is_stranger"] = False
    assert (await asking).replicas[0].served_name == entry.digest


async def _has_restarted(world: World) -> bool:
    records = await world.inference.database.list(SERVER_KIND, "")
    return any(Server.from_document(record.document).generation > 1 for record in records)


async def test_a_server_that_no_longer_answers_is_stopped_and_launched_again(world: World) -> None:
    entry = await world.add_base()
    await world.ensure(entry.model)
    hung = await world.server()
    world.servers[hung.url].is_running = False
    await eventually(lambda: _is_generation(world, 2))
    assert hung.key in world.launcher.stopped


async def test_an_adapter_of_a_higher_rank_gets_a_server_that_takes_it(world: World) -> None:
    await world.add_base()
    small, large = await world.add_adapter(), await world.add_adapter(world.put_adapter(rank=20))
    await world.ensure(small.name)
    first = await world.server()
    await world.ensure(large.name)
    await world.ensure(small.name)
    second = await world.server()
    assert [world.launcher.environment(server.key)["RANK"] for server in (first, second)] == ["16", "32"]
    assert sorted(world.servers[second.url].loads) == sorted([small.digest, large.digest])


async def test_another_program_over_the_same_database_finds_the_server_and_the_proof(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    first = await world.ensure(adapter.name)
    table = RouteTable(SqlDatabase(f"sqlite:///{world.folder}/i.db"))
    async for found in table.watch():
        replicas = {route.public_id: route.replicas for route in found.routes}[adapter.public_id]
        assert [replica.url for replica in replicas] == [first.replicas[0].url]
        break


async def test_routes_come_whole_at_once_and_again_after_every_change(world: World) -> None:
    await world.add_base(aliases=["gpt-4o-mini"])
    stream = world.models.WatchRoutes(model_pb2.WatchRoutesRequest(), timeout_s=30)
    seen: list[dict[str, model_pb2.Route]] = []

    async def until(public_id: str, replica_count: int) -> model_pb2.Route:
        async for response in stream:
            seen.append({route.public_id: route for route in response.routes})
            route = seen[-1].get(public_id)
            if route is not None and len(route.replicas) == replica_count:
                return route
        raise AssertionError(seen)

    assert (await until("gpt-4o-mini", 0)).model == (await until_same(world, "tiny")).model
    adapter = await world.add_adapter()
    route = await until(adapter.public_id, 0)
    assert (route.project, route.kind, route.digest) == ("default", "adapter", adapter.digest)
    serving_task = asyncio.ensure_future(world.ensure(adapter.name))
    route = await until(adapter.public_id, 1)
    await serving_task
    assert route.replicas[0].served_name == adapter.digest
    assert seen[-1]["tiny"].replicas[0].served_name == world.base_digest


async def until_same(world: World, public_id: str) -> model_pb2.Route:
    return (await world.routes())[public_id]


async def test_a_server_that_nobody_asks_makes_room_for_another_and_says_why(world: World) -> None:
    entries = [await world.add_base(world.put_base(name), name) for name in ("one", "two", "three")]  # there is room for two
    for entry in entries[:2]:
        await world.ensure(entry.model)
    with pytest.raises(errors.Unavailable, match="MAX_SERVERS allows 2"):
        await world.ensure(entries[2].model, timeout_s=1.5)
    waiting = await world.get(entries[2].model)
    assert waiting.serving == model_pb2.Model.SERVING_STARTING
    assert "Raise MAX_SERVERS" in waiting.serving_message
    first, second = [await world.server(entry.digest) for entry in entries[:2]]
    world.servers[first.url].answered_count += 1  # the first is asked later than the second
    world.parts["passed"] += timedelta(seconds=50)
    await eventually(lambda: _is_noted(world, first.digest))
    world.parts["passed"] += timedelta(seconds=30)
    await eventually(lambda: _is_in_state(world, second.digest, "STOPPING"))
    world.servers[second.url].running_count = 1  # a stream that is under way
    world.parts["passed"] += timedelta(seconds=10)
    assert "two" in await world.routes()
    assert not (await world.routes())["two"].replicas
    world.servers[second.url].running_count = 0
    assert (await world.ensure(entries[2].model)).replicas
    assert world.launcher.stopped == [second.key]
    stopped = await world.get(entries[1].model)
    assert stopped.serving == model_pb2.Model.SERVING_IDLE
    assert f"make room for {entries[2].digest[:12]}" in stopped.serving_message
    world.parts["passed"] += timedelta(seconds=200)
    asking = asyncio.ensure_future(world.ensure(entries[1].model))
    await eventually(lambda: _is_in_state(world, first.digest, "STOPPING", "STOPPED"))
    world.parts["passed"] += timedelta(seconds=10)
    assert (await asking).replicas


async def _is_noted(world: World, digest: str) -> bool:
    return (await world.server(digest)).answered_count > 0


async def _is_in_state(world: World, digest: str, *states: str) -> bool:
    return (await world.server(digest)).state in states


async def test_why_a_model_is_not_served_is_told_in_words(world: World) -> None:
    entry = await world.add_base()
    assert "Nobody has asked" in (await world.get("tiny")).serving_message
    world.parts["boots"] = False
    with pytest.raises(errors.Unavailable):
        await world.ensure(entry.model, timeout_s=1.2)
    found = await world.get("tiny")
    assert (found.serving, found.serving_message) == (model_pb2.Model.SERVING_STARTING, "Its server starts (launch 1).")
    world.launcher.output = b"RuntimeError: CUDA out of memory\n"
    world.crash(await world.server())
    await eventually(lambda: _says(world, "tiny", "CUDA out of memory"))
    world.parts["boots"] = True
    world.parts["passed"] += timedelta(seconds=60)
    for server in world.servers.values():
        server.is_running = True
    assert (await world.ensure(entry.model)).model.serving == model_pb2.Model.SERVING_ACTIVE


async def _says(world: World, name: str, words: str) -> bool:
    return words in (await world.get(name)).serving_message


@pytest.mark.parametrize("is_forgotten", [True, False])
async def test_a_server_whose_launch_comes_after_its_end_is_stopped_at_once(world: World, is_forgotten: bool) -> None:
    entry = await world.add_base()
    launch, database = world.launcher.launch, world.inference.database

    async def late(manifest: LaunchManifest) -> None:
        """As of a program that was frozen here while another retired the server and found nothing to stop."""
        record = await database.get(SERVER_KIND, (await world.server()).name)
        if is_forgotten:
            await database.delete(record)
        else:
            ended = (
                Server.from_document(record.document).retire("Its place is needed.", datetime.now(UTC)).rest(datetime.now(UTC))
            )
            await database.update(record, ended.to_document())
        world.launcher.launch = launch  # type: ignore[method-assign]
        await launch(manifest)

    world.launcher.launch = late  # type: ignore[method-assign]
    with contextlib.suppress(errors.Unavailable, errors.NotFound):
        await world.ensure(entry.model, timeout_s=3)
    first = next(iter(world.launcher.manifests))
    await eventually(lambda: first in world.launcher.stopped)


async def test_what_a_server_said_before_it_failed_is_told_to_who_looks_at_the_model_and_not_to_who_asks_it(world: World) -> None:
    entry = await world.add_base()
    world.parts["boots"] = False
    world.launcher.output = b"a path of this machine"
    launch = world.launcher.launch

    async def failing(manifest: LaunchManifest) -> None:
        await launch(manifest)
        world.launcher.end(manifest["key"], 1)

    world.launcher.launch = failing  # type: ignore[method-assign]
    with pytest.raises(errors.Unavailable) as refused:
        await world.ensure(entry.model, timeout_s=2)
    assert refused.value.reason == "MODEL_NOT_READY"
    assert "path" not in refused.value.message
    assert "a path of this machine" in (await world.get(entry.model)).serving_message
