"""Models as their clients see them, over real gRPC: registered, found, listed, deleted."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from afina.v1 import (
    model_pb2,
)

from services.common import errors
from services.common.ports.manifest import Manifest
from services.inference.endpoint import KIND as ENDPOINT_KIND
from services.inference.endpoint import Endpoint
from services.inference.gate import Gate
from services.inference.servers import PLACEMENT_KIND
from tests.rpc.inference_world import ENDPOINT, PARENT, World, inference_world
from tests.unit.inference import adapters


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        yield made


async def test_an_adapter_is_registered_once_however_often_and_found_by_its_public_id(world: World) -> None:
    await world.add_base()
    key = world.put_adapter()
    first = await world.add_adapter(key)
    assert await world.add_adapter(key, suffix="late") == first
    assert first.public_id == f"ft:tiny:default::{first.digest[:24]}"
    assert (first.kind, first.base) == (model_pb2.Model.KIND_ADAPTER, f"models/{world.base_digest[:24]}")
    assert first.provenance["job"] == f"{PARENT}/fineTuningJobs/job-1"
    assert "metrics" not in first.provenance.fields
    assert (await world.get(first.public_id, PARENT)).name == first.name
    assert world.store.read(f"manifests/adapters/{first.digest}.json") == world.store.read(key)


async def test_an_adapter_published_at_a_step_says_so_in_its_name_and_can_be_served(world: World) -> None:
    await world.add_base()
    request = model_pb2.CreateModelRequest(parent=PARENT, manifest_key=world.put_adapter(), suffix="reviews", step=40)
    checkpoint = await world.models.CreateModel(request)
    assert checkpoint.public_id == f"ft:tiny:default:reviews:{checkpoint.digest[:24]}:ckpt-step-40"
    assert (await world.get(checkpoint.public_id, PARENT)).name == checkpoint.name
    for other in (":ckpt-step-41", "", ":ckpt-step-x", ":ckpt-step-40:more"):
        with pytest.raises((errors.NotFound, errors.InvalidInput)):
            await world.get(checkpoint.public_id.replace(":ckpt-step-40", other), PARENT)
    assert checkpoint.public_id in await world.routes()
    with pytest.raises(errors.InvalidInput):
        await world.models.CreateModel(model_pb2.CreateModelRequest(parent=PARENT, manifest_key=request.manifest_key, step=-1))


async def test_an_adapter_is_not_found_from_another_project(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter(suffix="reviews")
    with pytest.raises(errors.NotFound):
        await world.get(adapter.public_id, "projects/other")
    with pytest.raises(errors.NotFound):
        await world.get(adapter.public_id.replace(":reviews:", ":other:"), PARENT)


async def test_a_broken_adapter_is_refused_with_every_violation_and_leaves_nothing(world: World) -> None:
    await world.add_base()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    broken = {**adapters.tensors(), name: ("F32", np.full((2, 8), np.nan, np.float32))}
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(world.put_adapter(tensors=broken, use_dora=True))
    assert [violation.reason for violation in refused.value.violations] == ["FEATURE_UNSUPPORTED", "NOT_FINITE"]
    assert list(world.store.list("manifests/adapters/")) == []


async def test_an_adapter_of_a_base_that_is_not_here_or_without_its_bytes_is_refused(world: World) -> None:
    await world.add_base()
    good, world.base_digest = world.base_digest, "c" * 64
    with pytest.raises(errors.NotFound) as missing:
        await world.add_adapter()
    assert missing.value.reason == "BASE_NOT_FOUND"
    world.base_digest = good
    key = world.put_adapter()
    (world.folder / "objects" / next(world.store.list("jobs/job-2/files/"))).unlink()
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(key)
    assert refused.value.reason == "ARTIFACT_NOT_FOUND"


async def test_models_are_listed_newest_first_in_pages_with_the_bases(world: World) -> None:
    entry = await world.add_base()
    mine = [(await world.add_adapter()).name for _ in range(3)]
    await world.add_adapter(parent="projects/other")
    pages, token = [], ""
    while True:
        request = model_pb2.ListModelsRequest(parent=PARENT, page_size=2, page_token=token)
        page = await world.models.ListModels(request)
        pages.append([model.name for model in page.models])
        token = page.next_page_token
        if not token:
            break
    assert pages[:2] == [[mine[2], mine[1]], [mine[0], entry.model]]
    assert [name for page in pages[2:] for name in page] == []


async def test_a_model_in_use_is_kept_and_one_that_is_not_is_deleted_with_its_place(world: World) -> None:
    entry = await world.add_base()
    used, spare = await world.add_adapter(), await world.add_adapter()
    await world.ensure(spare.name)
    await world.add_endpoint()
    await world.evaluate(used, entry.model)
    await world.promote(used.name)
    with pytest.raises(errors.WrongState) as refused:
        await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=used.name))
    assert refused.value.reason == "MODEL_IN_USE"
    await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=spare.name))
    with pytest.raises(errors.NotFound):
        await world.get(spare.name)
    assert len(await world.inference.database.list(PLACEMENT_KIND, "")) == 1


async def test_a_model_in_use_is_kept_however_many_endpoints_have_come_since(world: World) -> None:
    entry = await world.add_base()
    used = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(used, entry.model)
    await world.promote(used.name)
    for number in range(1000):
        other = Endpoint(f"{PARENT}/endpoints/other-{number}", Gate())
        await world.inference.database.create(ENDPOINT_KIND, other.name, other.to_document())
    with pytest.raises(errors.WrongState, match=ENDPOINT):
        await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=used.name))


async def test_an_adapter_of_another_base_whose_digest_begins_alike_is_refused(world: World) -> None:
    await world.add_base()
    digest = world.base_digest
    world.base_digest = digest[:32] + digest[:31:-1]
    key = world.put_adapter()
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(key)
    assert ("base.digest", "WRONG_BASE") in {(violation.field, violation.reason) for violation in refused.value.violations}


GOLDEN = {"chats": [{"messages": [{"role": "user", "content": "hi"}], "prompt_token_ids": [1, 2, 3], "probes": []}] * 2}
PROBE = {"prefix_token_ids": [1, 2, 3], "token_ids": [7], "adapter_logprobs": [-1.0]}


async def test_full_weights_are_served_by_a_server_of_their_own_under_a_public_id(world: World) -> None:
    entry = await world.add_base()
    full = await world.add_adapter(world.put_full(entry.digest, GOLDEN), suffix="merged")
    assert (full.kind, full.base) == (model_pb2.Model.KIND_FULL, entry.model)
    assert full.public_id == f"ft:tiny:default:merged:{full.digest[:24]}"
    served = await world.ensure(full.name)
    await world.ensure(entry.model)
    server, other = await world.server(full.digest), await world.server(entry.digest)
    assert [(replica.url, replica.served_name) for replica in served.replicas] == [(server.url, full.digest)]
    assert server.url != other.url
    assert [world.launcher.environment(one.key)["RANK"] for one in (server, other)] == ["0", "16"]
    assert "2 chats get the references' token ids; there were no log-probabilities" in served.model.proof["message"]
    route = (await world.routes())[full.public_id]
    assert (route.kind, route.project, route.replicas[0].url) == ("full", "default", server.url)


async def test_full_weights_without_a_base_or_references_are_taken_and_say_how_little_was_shown(world: World) -> None:
    full = await world.add_adapter(world.put_full())
    assert full.public_id == f"ft:full:default::{full.digest[:24]}"
    assert "no references" in (await world.ensure(full.name)).model.proof["message"]
    with pytest.raises(errors.NotFound) as missing:
        await world.add_adapter(world.put_full("c" * 64))
    assert missing.value.reason == "BASE_NOT_FOUND"


async def test_full_weights_that_do_not_answer_as_their_references_are_quarantined(world: World) -> None:
    own = {"chats": [{**GOLDEN["chats"][0], "probes": [PROBE]}]}
    right, wrong = [await world.add_adapter(world.put_full(golden=own, a__json=seed)) for seed in (b"1", b"2")]
    assert (await world.ensure(right.name)).model.proof["mean_difference"] == 0
    world.answers[wrong.digest] = -2.0
    with pytest.raises(errors.WrongState, match="LOGPROBS_DIFFER"):
        await world.ensure(wrong.name)
    found = await world.get(wrong.name)
    assert found.serving == model_pb2.Model.SERVING_REFUSED
    assert "LOGPROBS_DIFFER" in found.serving_message


async def test_full_weights_are_refused_with_every_mistake(world: World) -> None:
    broken = {"chats": [{**GOLDEN["chats"][0], "probes": [{**PROBE, "adapter_logprobs": [float("nan")]}]}]}
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(world.put_full(golden=broken, pytorch_model__bin=b"x", tokenizer__json=b""))
    assert {violation.reason for violation in refused.value.violations} == {
        "UNSAFE_FILE",
        "TOKENIZER_MISSING",
        "GOLDEN_INVALID",
    }
    with pytest.raises(errors.InvalidInput):
        await world.add_base(world.put_full())


async def test_full_weights_are_promoted_against_their_base_and_then_kept(world: World) -> None:
    entry = await world.add_base()
    own = {"chats": [{**GOLDEN["chats"][0], "probes": [PROBE]}]}
    full = await world.add_adapter(world.put_full(entry.digest, own))
    stray = await world.add_adapter(world.put_full(a__json=b"1"))
    await world.add_endpoint()
    await world.evaluate(stray, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(stray.name)
    assert refused.value.reason == "CHAMPION_MISSING"
    await world.evaluate(full, entry.model)
    assert (await world.promote(full.name)).digest == full.digest
    with pytest.raises(errors.WrongState):
        await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=full.name))
    await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=stray.name))
    with pytest.raises(errors.NotFound):
        await world.get(stray.name)


async def test_full_weights_without_log_probabilities_are_called_and_not_promoted(world: World) -> None:
    entry = await world.add_base()
    full = await world.add_adapter(world.put_full(entry.digest, GOLDEN))
    await world.add_endpoint()
    await world.evaluate(full, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(full.name)
    assert refused.value.reason == "MODEL_INDISTINGUISHABLE"
    assert (await world.ensure(full.name)).replicas
    assert not (await world.get(full.name)).is_distinguishable


async def test_full_weights_that_are_a_base_file_by_file_are_no_model_of_their_own(world: World) -> None:
    key = world.put_base()
    entry = await world.add_base(key)
    files = Manifest.from_json(world.store.read(key)).files
    world.store.commit("manifests/full/copy.json", Manifest("full", files, {}).to_json())
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter("manifests/full/copy.json")
    assert (refused.value.reason, refused.value.metadata["base"]) == ("WEIGHTS_ARE_A_BASE", entry.model)
