"""The catalogue as its clients see it, over real gRPC."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from afina.v1 import (
    catalogue_pb2,
    model_pb2,
)

from services.common import errors
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
