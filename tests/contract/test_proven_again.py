"""A real vLLM that inference keeps: proven, killed, launched again and proven again, what the disk forgot meanwhile mended."""

import asyncio
import functools
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from services.common.backends.database.sql import SqlDatabase
from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.model_server.vllm import VllmServer
from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.manifest import put_folder
from services.common.reconcile import Reconciler
from services.inference import entries, serving, use_cases
from services.inference.__main__ import Settings, describe
from services.inference.catalogue import Entry
from services.inference.clients import GrpcEvaluations
from services.inference.fleet import reconcile_placement, reconcile_server
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.routes import RouteTable
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Server
from tests.builders import SERVICE_TOKEN, eventually
from tests.corruptions import FOUND_BY_PROOF
from tests.engine import make_adapter, stop
from tests.tiny_model import build_tiny_base

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WAIT_S = 280.0


@dataclass
class House:
    """Inference as its program puts it together, on this machine, with one base and one adapter."""

    inference: Inference
    launcher: ProcessLauncher
    folder: Path
    adapter: Model

    async def server(self) -> Server:
        (record,) = await self.inference.database.list(SERVER_KIND, "")
        return Server.from_document(record.document)

    def pid(self, server: Server) -> int:
        """The process that was launched for a server."""
        return int(json.loads((self.folder / "processes" / server.key / "process.json").read_text())["pid"])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    pytest.importorskip("vllm", reason="needs vLLM: pip install 'afina[server-cpu]'")
    store, launcher = LocalObjectStore(tmp_path / "objects"), ProcessLauncher(tmp_path / "processes", grace_s=20)
    database, cache = SqlDatabase(f"sqlite:///{tmp_path}/i.db"), tmp_path / "cache"
    settings = Settings(object_store=store.url, database="", launcher="", cache=str(cache), service_token=SERVICE_TOKEN)
    evaluations = GrpcEvaluations("127.0.0.1:1")  # nobody asks it
    async with aiohttp.ClientSession() as session:
        inference = Inference(
            database,
            store,
            launcher,
            evaluations,
            cache,
            workload=functools.partial(describe, settings, store),
            connect=lambda url, api_key: VllmServer(url, api_key, session),
            routes=RouteTable(database),
        )
        adapter = await furnish(inference, store, tmp_path)
        loops = [
            Reconciler(database, kind, functools.partial(step, inference))
            for kind, step in ((SERVER_KIND, reconcile_server), (PLACEMENT_KIND, reconcile_placement))
        ]
        tasks = [asyncio.ensure_future(loop.run()) for loop in loops]
        tasks.append(asyncio.ensure_future(inference.routes.run()))
        yield House(inference, launcher, tmp_path, adapter)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await inference.background.close()
        for key in set(launcher.keys()):
            await stop(launcher, key)
    await evaluations.close()
    await database.close()


async def furnish(inference: Inference, store: LocalObjectStore, folder: Path) -> Model:
    """Register a base and an adapter on it."""
    base = put_folder(store, "bases", build_tiny_base(folder / "base"), "base", {})
    store.commit("manifests/bases/tiny.json", base.to_json())
    await entries.create_entry(inference, Entry("catalogueEntries/tiny", "", "", "manifests/bases/tiny.json", 512))
    make_adapter(folder / "base", folder / "good", 0, 0.3, base.digest)
    made = put_folder(store, "jobs/good/files", folder / "good", "adapter", {"base": {"digest": base.digest}})
    store.commit("jobs/good/manifest.json", made.to_json())
    return Model.from_document(
        (await use_cases.create_model(inference, "projects/default", "jobs/good/manifest.json", "")).document
    )


async def test_a_server_that_was_killed_is_launched_again_and_its_models_are_proven_again(house: House) -> None:
    record, (first,) = await serving.ensure_served(house.inference, house.adapter.name, WAIT_S)
    proof = Model.from_document(record.document).proof
    assert proof["golden_count"] == 8
    assert proof["is_distinguishable"]
    weights = house.inference.cache / house.adapter.digest / "adapter_model.safetensors"
    before = weights.read_bytes()
    FOUND_BY_PROOF["weights at -100%"](weights.parent, weights.parent)
    assert weights.read_bytes() != before

    os.kill(house.pid(await house.server()), signal.SIGKILL)

    async def is_launched_again() -> bool:
        return (await house.server()).generation == 2

    await eventually(is_launched_again, timeout_s=60)
    record, (second,) = await serving.ensure_served(house.inference, house.adapter.name, WAIT_S)
    again = Model.from_document(record.document).proof
    assert again["prove_time"] > proof["prove_time"]
    assert again["mean_difference"] == pytest.approx(proof["mean_difference"], abs=0.02)
    assert second.url != first.url
    assert weights.read_bytes() == before
