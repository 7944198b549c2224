"""What must not reach the engine, at the first door: an adapter is registered whole and sound, or not at all.

The doors: CreateModel, here (and with it whoever publishes: a job's result is registered like anybody's); the plugin inside
vLLM, with the same files, in `test_model_server.py`; the worker, which publishes no number that is not finite, in
`tests/learning/test_publishes.py`; the gateway, which passes on no `prompt_logprobs`, in `tests/unit/gateway/test_parameters.py`.
Why each is kept out, `test_bare_engine.py` shows.
"""

import os
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from afina.v1 import model_pb2

from services.common import errors
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.manifest import Manifest, fetch_folder, put_folder
from tests.corruptions import FOUND_IN_FILES
from tests.engine import make_adapter, spoiled
from tests.rpc.inference_world import PARENT, World, inference_world
from tests.tiny_model import build_tiny_base

pytestmark = pytest.mark.slow
SERVICES = Path(__file__).parents[2] / "services"


@dataclass
class Shelf:
    """A real base and a good adapter on disk."""

    folder: Path
    base_digest: str


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    root = tmp_path_factory.mktemp("shelf")
    base = build_tiny_base(root / "base")
    digest = put_folder(LocalObjectStore(root / "scratch"), "bases", base, "base", {}).digest
    make_adapter(base, root / "good", 0, 0.3, digest)
    return Shelf(root, digest)


@pytest.fixture
async def world(tmp_path: Path, shelf: Shelf) -> AsyncIterator[World]:
    async with inference_world(tmp_path) as made:
        manifest = put_folder(made.store, "bases", shelf.folder / "base", "base", {})
        made.store.commit("manifests/bases/tiny.json", manifest.to_json())
        await made.add_base("manifests/bases/tiny.json")
        yield made


def publish(world: World, folder: Path, base_digest: str) -> str:
    """Put an adapter's folder where a job would and return the key of its manifest."""
    manifest = put_folder(world.store, f"jobs/{folder.name}/files", folder, "adapter", {"base": {"digest": base_digest}})
    key = f"jobs/{folder.name}/manifest.json"
    world.store.commit(key, manifest.to_json())
    return key


async def test_a_good_adapter_is_registered(world: World, shelf: Shelf) -> None:
    made = await world.add_adapter(publish(world, shelf.folder / "good", shelf.base_digest))
    assert made.state == model_pb2.Model.STATE_ACTIVE


@pytest.mark.parametrize("name", FOUND_IN_FILES)
async def test_a_broken_adapter_is_not_registered_and_no_server_could_find_it(
    world: World, shelf: Shelf, tmp_path: Path, name: str
) -> None:
    folder = spoiled(shelf.folder / "good", tmp_path / re.sub(r"[^a-z]", "-", name.lower()), FOUND_IN_FILES[name].spoil)
    key = publish(world, folder, shelf.base_digest)
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(key)
    assert FOUND_IN_FILES[name].reason in {violation.reason for violation in refused.value.violations}
    listed = await world.models.ListModels(model_pb2.ListModelsRequest(parent=PARENT))
    assert [model.kind for model in listed.models] == [model_pb2.Model.KIND_BASE]
    assert list(world.store.list("manifests/adapters/")) == []


async def test_an_adapter_of_another_base_and_one_with_too_few_golden_chats_are_not_registered(
    world: World, shelf: Shelf, tmp_path: Path
) -> None:
    with pytest.raises(errors.NotFound):
        await world.add_adapter(publish(world, shelf.folder / "good", "c" * 64))
    with pytest.raises(errors.InvalidInput) as refused:
        await world.add_adapter(world.put_adapter(lengths=(3,) * 7))
    assert "GOLDEN_TOO_FEW" in {violation.reason for violation in refused.value.violations}


def test_the_folder_of_an_adapter_stays_however_old_it_is(shelf: Shelf, tmp_path: Path) -> None:
    """An engine reads the folder of an adapter that it evicted again, and dies where it is gone."""
    store, cache = LocalObjectStore(tmp_path / "objects"), tmp_path / "cache"
    first = put_folder(store, "jobs/a/files", shelf.folder / "good", "adapter", {})
    kept, left = fetch_folder(store, first, cache), cache / ".fetch-old"
    left.mkdir()
    for old in (kept, left):
        os.utime(old, (0, 0))
    shutil.copytree(shelf.folder / "good", tmp_path / "other")
    (tmp_path / "other" / "README.md").write_text("another digest")
    other = put_folder(store, "jobs/b/files", tmp_path / "other", "adapter", {})
    fetch_folder(store, Manifest.from_json(other.to_json()), cache)
    assert {path.name for path in cache.iterdir()} == {first.digest, other.digest}


def test_a_file_that_changed_on_this_disk_is_replaced_in_its_place(shelf: Shelf, tmp_path: Path) -> None:
    store, cache = LocalObjectStore(tmp_path / "objects"), tmp_path / "cache"
    manifest = put_folder(store, "jobs/a/files", shelf.folder / "good", "adapter", {})
    folder = fetch_folder(store, manifest, cache)
    inode = folder.stat().st_ino
    flipped = bytearray((folder / "adapter_model.safetensors").read_bytes())
    flipped[-1] ^= 1  # one bit of one number: no check of files and no proof would find it
    (folder / "adapter_model.safetensors").write_bytes(flipped)
    (folder / "golden.json").unlink()
    assert fetch_folder(store, manifest, cache) == folder
    assert put_folder(store, "again", folder, "adapter", {}).digest == manifest.digest
    assert folder.stat().st_ino == inode
    assert [path.name for path in cache.iterdir()] == [manifest.digest]


def test_nothing_loads_an_adapter_in_place_or_by_path() -> None:
    """The engine reads the files of one loaded in place at every step, and remembers answers by name and path."""
    said = {path.name for path in SERVICES.rglob("*.py") if re.search(r"load_inplace|/load_lora_adapter", path.read_text())}
    assert said == set()
