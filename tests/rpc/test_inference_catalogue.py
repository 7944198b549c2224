"""The catalogue as its clients see it, over real gRPC."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from afina.v1 import (
    catalogue_pb2,
    model_pb2,
)

from services.common import errors
from services.inference.servers import SERVER_KIND
from tests.builders import eventually
from tests.rpc.inference_world import World, inference_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        yield made


async def test_a_base_is_found_by_its_id_by_an_alias_and_by_its_models_name(world: World) -> None:
    entry = await world.add_base(aliases=["gpt-4o-mini"])
    assert (entry.name, entry.max_length, entry.model) == ("catalogueEntries/tiny", 512, f"models/{entry.digest[:24]}")
    for name in ("catalogueEntries/tiny", "catalogueEntries/gpt-4o-mini"):
        assert (await world.catalogue.GetCatalogueEntry(catalogue_pb2.GetCatalogueEntryRequest(name=name))) == entry
    for name in (entry.model, "tiny", "gpt-4o-mini"):
        found = await world.get(name)
        assert (found.kind, found.public_id, found.digest) == (model_pb2.Model.KIND_BASE, "tiny", entry.digest)


async def test_adding_a_base_twice_is_once_and_its_names_are_nobody_elses(world: World) -> None:
    key = world.put_base()
    first = await world.add_base(key, aliases=["gpt-4o-mini"])
    assert await world.add_base(key, aliases=["gpt-4o-mini"]) == first
    other = world.put_base("other")
    with pytest.raises(errors.AlreadyExists):
        await world.add_base(other, "tiny")
    with pytest.raises(errors.AlreadyExists) as taken:
        await world.add_base(other, "other", aliases=["gpt-4o-mini"])
    assert taken.value.metadata == {"id": "gpt-4o-mini", "holder": "catalogueEntries/tiny"}
    listed = await world.catalogue.ListCatalogueEntries(catalogue_pb2.ListCatalogueEntriesRequest())
    assert [entry.name for entry in listed.catalogue_entries] == ["catalogueEntries/tiny"]


async def test_a_base_that_could_run_code_is_refused_with_every_violation(world: World) -> None:
    key = world.put_base(pytorch_model__bin=b"x", modeling__py=b"x")
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_base(key)
    assert {violation.field for violation in refused.value.violations} == {"pytorch_model.bin", "modeling.py"}
    with pytest.raises(errors.NotFound):
        await world.add_base("manifests/bases/none.json")


async def test_a_base_with_truncated_weights_is_refused(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_base(world.put_base(model__safetensors=b"short"))
    assert refused.value.reason == "SAFETENSORS_INVALID"


async def test_aliases_are_changed_under_an_etag_and_what_was_given_up_is_free(world: World) -> None:
    created = await world.add_base(aliases=["gpt-4"])
    changed = await world.update("aliases", created.etag, aliases=["gpt-4o-mini", "tiny", "gpt-4o-mini"])
    assert list(changed.aliases) == ["gpt-4o-mini"]
    await eventually(lambda: _routes_are(world, {"tiny", "gpt-4o-mini"}))
    with pytest.raises(errors.NotFound):
        await world.get("gpt-4")
    with pytest.raises(errors.Conflict):
        await world.update("aliases", created.etag, aliases=[])
    other = await world.add_base(world.put_base("other"), "other", aliases=["gpt-4"])
    with pytest.raises(errors.AlreadyExists) as taken:
        await world.update("aliases", aliases=["gpt-4"])
    assert taken.value.metadata == {"id": "gpt-4", "holder": other.name}


@pytest.mark.parametrize("mask", ["", "digest", "aliases,name"])
async def test_a_mask_that_names_what_cannot_be_written_is_refused(world: World, mask: str) -> None:
    await world.add_base()
    with pytest.raises(errors.InvalidInput) as refused:
        await world.update(mask, aliases=["x"])
    assert refused.value.reason == "UPDATE_MASK_INVALID"


async def test_an_alias_that_an_endpoint_has_is_refused_and_the_endpoint_is_named(world: World) -> None:
    await world.add_base()
    await world.add_endpoint()
    with pytest.raises(errors.AlreadyExists) as taken:
        await world.update("aliases", aliases=["support"])
    assert taken.value.metadata["holder"] == "projects/default/endpoints/support"


async def test_a_name_that_a_failed_call_left_behind_is_free(world: World) -> None:
    await world.add_base()
    other = world.put_base("other")
    with pytest.raises(errors.AlreadyExists):
        await world.add_base(other, "tiny", aliases=["late"])  # takes the alias before it finds the id taken
    with pytest.raises(errors.NotFound):
        await world.get("late")
    assert list((await world.add_base(other, "other", aliases=["late"])).aliases) == ["late"]


async def test_the_same_weights_have_one_entry_and_are_told_to_take_an_alias(world: World) -> None:
    key = world.put_base()
    entry = await world.add_base(key)
    with pytest.raises(errors.AlreadyExists) as refused:
        await world.add_base(key, "second")
    assert (refused.value.reason, refused.value.metadata["holder"]) == ("BASE_HAS_ENTRY", entry.name)


async def test_other_weights_take_an_entry_only_by_an_update_and_old_adapters_keep_their_base(world: World) -> None:
    old = await world.add_base()
    adapter = await world.add_adapter()
    key = world.put_base("other")
    with pytest.raises(errors.AlreadyExists, match="another base already"):
        await world.add_base(key)
    new = await world.update("manifest_key", manifest_key=key)
    assert (new.name, new.digest != old.digest) == (old.name, True)
    assert (await world.get("tiny")).digest == new.digest
    (replica,) = (await world.ensure(adapter.name)).replicas
    assert (await world.server(old.digest)).url == replica.url


async def test_an_entry_is_deleted_with_its_names_and_its_server_once_no_model_stands_on_it(world: World) -> None:
    key = world.put_base()
    entry = await world.add_base(key, aliases=["gpt-4"])
    adapter = await world.add_adapter()
    await world.ensure(entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.delete_entry()
    assert (refused.value.reason, refused.value.metadata["model"]) == ("BASE_IN_USE", adapter.name)
    await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=adapter.name))
    await world.delete_entry()
    await eventually(lambda: _routes_are(world, set()))
    for name in (entry.model, "gpt-4"):
        with pytest.raises(errors.NotFound):
            await world.get(name)
    ended = (await world.server()).key
    world.parts["passed"] += timedelta(seconds=10)
    await eventually(lambda: _is_forgotten(world))
    assert ended in world.launcher.stopped
    await world.add_base(key)
    assert (await world.ensure(entry.model)).replicas
    again = await world.server()
    assert (again.generation, again.failures) == (1, 0)
    assert again.key != ended


async def _routes_are(world: World, public_ids: set[str]) -> bool:
    return set(await world.routes()) == public_ids


async def _is_forgotten(world: World) -> bool:
    return await world.inference.database.list(SERVER_KIND, "") == []


TEMPLATE = "{% for message in messages %}{% generation %}{{ message['content'] }}{% endgeneration %}{% endfor %}"


async def test_a_base_without_a_template_gets_the_catalogues_and_its_server_too(world: World) -> None:
    entry = await world.add_base(world.put_base(chat_template__jinja=b""))
    await world.ensure(entry.model)
    first = await world.server()
    assert (await world.get("tiny")).chat_template == world.launcher.environment(first.key)["TEMPLATE"] == ""
    await world.update("chat_template", chat_template=TEMPLATE)
    await eventually(lambda: _is_launched_again(world))
    await world.ensure(entry.model)
    assert world.launcher.environment((await world.server()).key)["TEMPLATE"] == TEMPLATE
    adapter = await world.add_adapter()
    assert (await world.get(adapter.name)).chat_template == TEMPLATE
    with pytest.raises(errors.WrongState) as refused:
        await world.update("chat_template", chat_template=TEMPLATE + " ")
    assert refused.value.reason == "BASE_IN_USE"


async def _is_launched_again(world: World) -> bool:
    return (await world.server()).generation == 2


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% if messages %}", "CHAT_TEMPLATE_INVALID"),
        ("{{ messages | no_such_filter }}", "CHAT_TEMPLATE_INVALID"),
        ("hello", "CHAT_TEMPLATE_INVALID"),
        ("{{ messages }}" + "x" * 65536, "TOO_LARGE"),
        (TEMPLATE, "CHAT_TEMPLATE_PRESENT"),
    ],
)
async def test_what_is_no_template_and_one_that_the_base_does_not_need_are_refused(
    world: World, template: str, reason: str
) -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_base(chat_template=template)
    assert [violation.reason for violation in refused.value.violations] == [reason]


async def test_a_declared_template_that_models_need_keeps_its_weights(world: World) -> None:
    await world.add_base(world.put_base(chat_template__jinja=b""))
    await world.update("chat_template", chat_template=TEMPLATE)
    adapter = await world.add_adapter()
    with pytest.raises(errors.WrongState, match="import the new weights under another name") as refused:
        await world.update("manifest_key", manifest_key=world.put_base("other"))
    assert refused.value.reason == "BASE_IN_USE"
    assert (await world.get(adapter.name)).chat_template == TEMPLATE


async def test_a_tool_call_parser_is_the_servers_and_an_unknown_one_is_refused(world: World) -> None:
    entry = await world.add_base(tool_call_parser="hermes")
    assert entry.tool_call_parser == "hermes"
    await world.ensure(entry.model)
    before = await world.server()
    assert world.launcher.environment(before.key)["PARSER"] == "hermes"
    with pytest.raises(errors.InvalidInput) as refused:
        await world.update("tool_call_parser", tool_call_parser="--trust-remote-code")
    assert [violation.field for violation in refused.value.violations] == ["catalogue_entry.tool_call_parser"]
    await world.update("tool_call_parser", tool_call_parser="llama3_json")
    assert (await world.ensure(entry.model)).replicas
    assert world.launcher.environment((await world.server()).key)["PARSER"] == "llama3_json"
