"""Each promise of the ModelServer port, on a real vLLM with a tiny base, and on its double; and what the plugin refuses.

One vLLM serves the whole module; adapters are real PEFT folders with references from transformers in float32.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.model_server.vllm import ServerPlan, VllmServer
from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import InvalidInput, Unavailable
from services.common.ports.manifest import put_folder
from services.common.ports.model_server import GoldenChat, ModelServer
from services.inference.proof import parse_golden, prove
from tests.builders import eventually, free_port
from tests.corruptions import FOUND_IN_FILES, edit_config
from tests.engine import CHATS, AnyServer, make_adapter, put_adapter, spoiled, start, stop
from tests.fakes import ScriptedModelServer
from tests.tiny_model import build_tiny_base, name_code

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

UNKNOWN = "c" * 64


@dataclass
class Engine:
    """A running vLLM and what is in its store."""

    url: str
    api_key: str
    base: str
    store: LocalObjectStore
    adapters: dict[str, str]
    golden: dict[str, bytes]
    base_folder: Path

    def chats(self, name: str) -> tuple[GoldenChat, ...]:
        return parse_golden(self.golden[name], self.base)


def fill_store(store: LocalObjectStore, base: Path, base_digest: str, folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Put good and bad adapters where inference would: under their digests."""
    golden = {
        name: make_adapter(base, folder / name, seed, scale, base_digest)
        for seed, (name, scale) in enumerate((("good", 0.3), ("other", 0.3), ("unchanged", 0.0)))
    }
    adapters = {name: put_adapter(store, folder / name, base_digest) for name in golden}
    for name, corruption in FOUND_IN_FILES.items():
        broken = spoiled(folder / "good", folder / name.replace(" ", "-"), corruption.spoil)
        adapters[name] = put_adapter(store, broken, base_digest)
    foreign = spoiled(folder / "good", folder / "foreign", lambda made: edit_config(made, lora_alpha=9))
    adapters["of another base"] = put_adapter(store, foreign, UNKNOWN)
    return adapters, golden


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    pytest.importorskip("vllm", reason="needs vLLM: pip install 'afina[server-cpu]'")
    root = tmp_path_factory.mktemp("engine")
    base = build_tiny_base(root / "base")
    name_code(base)
    store = LocalObjectStore(root / "objects")
    base_digest = put_folder(store, "bases", base, "base", {}).digest
    adapters, golden = fill_store(store, base, base_digest, root / "adapters")
    launcher = ProcessLauncher(root / "processes", grace_s=20)
    plan = ServerPlan("vllm", str(base), base_digest, free_port(), "secret", store.url, str(root / "cache"), max_length=512)
    try:
        asyncio.run(start(launcher, plan))
        yield Engine(f"http://127.0.0.1:{plan.port}", plan.api_key, base_digest, store, adapters, golden, base)
    finally:
        asyncio.run(stop(launcher, plan.key))


@pytest.fixture
async def vllm(engine: Engine) -> AsyncIterator[VllmServer]:
    async with aiohttp.ClientSession() as session:
        yield VllmServer(engine.url, engine.api_key, session)


@pytest.fixture(params=["vllm", "scripted"])
async def server(request: pytest.FixtureRequest, engine: Engine) -> AsyncIterator[ModelServer]:
    if request.param == "scripted":
        yield ScriptedModelServer(engine.base, {}, {UNKNOWN})
        return
    async with aiohttp.ClientSession() as session:
        yield VllmServer(engine.url, engine.api_key, session)


async def test_a_running_server_is_up_and_names_its_base_first(server: ModelServer, engine: Engine) -> None:
    assert await server.is_up()
    await server.load(engine.adapters["good"])
    known = await server.loaded()
    assert known[0] == engine.base
    assert engine.adapters["good"] in known


async def test_loading_twice_is_one_load_and_unloading_the_absent_succeeds(server: ModelServer, engine: Engine) -> None:
    good = engine.adapters["good"]
    await server.load(good)
    await server.load(good)
    assert (await server.loaded()).count(good) == 1
    await server.unload(good)
    await server.unload(good)
    await server.unload(UNKNOWN)
    assert good not in await server.loaded()
    await server.load(good)
    assert good in await server.loaded()


async def test_a_missing_adapter_is_an_error_and_never_the_bases_answer(server: ModelServer) -> None:
    with pytest.raises(InvalidInput):
        await server.load(UNKNOWN)
    with pytest.raises(InvalidInput):
        await server.logprobs(UNKNOWN, [1, 2], [3])
    with pytest.raises(InvalidInput):
        await server.token_ids(UNKNOWN, [{"role": "user", "content": "hi"}])
    assert UNKNOWN not in await server.loaded()


async def test_candidates_are_answered_in_the_order_asked_for(server: ModelServer, engine: Engine) -> None:
    one, other = (
        await server.logprobs(engine.base, [1, 40, 41], [50, 60]),
        await server.logprobs(engine.base, [1, 40, 41], [60, 50]),
    )
    assert one == pytest.approx(list(reversed(other)), abs=0.05)
    assert len(await server.logprobs(engine.base, [1, 40, 41], list(range(30, 46)))) == 16


async def test_what_a_server_answers_is_counted_and_what_it_has_answered_is_under_way_no_more(
    server: ModelServer, engine: Engine
) -> None:
    before = await server.activity()
    await server.logprobs(engine.base, [1, 40, 41], [50])

    async def is_counted() -> bool:
        seen = await server.activity()
        return (seen.running_count, seen.answered_count) == (0, before.answered_count + 1)

    await eventually(is_counted)


async def test_a_server_that_is_away_is_unavailable_and_not_up() -> None:
    scripted = ScriptedModelServer("b" * 64, {}, set())
    scripted.is_running = False
    async with aiohttp.ClientSession() as session:
        for away in (VllmServer(f"http://127.0.0.1:{free_port()}", "secret", session), scripted):
            assert not await away.is_up()
            for verb in (
                away.load("a" * 64),
                away.loaded(),
                away.unload("a" * 64),
                away.logprobs("a" * 64, [1], [2]),
                away.activity(),
            ):
                with pytest.raises(Unavailable):
                    await verb


async def test_another_api_key_is_refused(engine: Engine) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(InvalidInput):
            await VllmServer(engine.url, "guessed", session).loaded()


# What a vLLM 0.32 answers without a key, by its own guard: read from its routes. /adapters loads an adapter from any path.
LEFT_OPEN_BY_VLLM = {
    "/adapters": ["POST"], "/adapters/x": ["DELETE"], "/invocations": ["POST"], "/tokenize": ["POST"], "/detokenize": ["POST"],
    "/generative_scoring": ["POST"], "/scale_elastic_ep": ["POST"], "/is_scaling_elastic_ep": ["POST"], "/ping": ["GET", "POST"],
    "/load": ["GET"], "/version": ["GET"], "/kv_event_sources": ["GET"], "/docs": ["GET"], "/redoc": ["GET"],
    "/openapi.json": ["GET"], "/docs/oauth2-redirect": ["GET"], "/metrics": ["GET"], "/metrics/": ["GET"],
    "/nothing": ["POST"],
}  # fmt: skip


async def paths_of(engine: Engine) -> dict[str, list[str]]:
    """Every path that this vLLM serves, with its methods: those that its schema tells, and those that it does not."""
    key = {"Authorization": f"Bearer {engine.api_key}"}
    async with aiohttp.ClientSession() as session, session.get(f"{engine.url}/openapi.json", headers=key) as response:
        told = (await response.json())["paths"]
    return {**{path: [method.upper() for method in methods] for path, methods in told.items()}, **LEFT_OPEN_BY_VLLM}


async def test_without_the_key_nothing_answers_but_health_and_metrics(engine: Engine) -> None:
    paths = await paths_of(engine)
    assert {"/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/health", "/metrics"} <= set(paths)
    opened = set()
    async with aiohttp.ClientSession() as session:
        for path, methods in paths.items():
            for method in {*methods, "OPTIONS"}:
                for wrong in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": engine.api_key}):
                    async with session.request(method, engine.url + path, headers=wrong, json={}) as response:
                        if response.status != 401:
                            opened.add((method, path))
    assert opened == {("GET", "/health"), ("GET", "/metrics")}


def test_a_base_that_names_code_of_its_own_has_run_none_of_it(engine: Engine) -> None:
    assert json.loads((engine.base_folder / "config.json").read_text())["auto_map"]
    assert (engine.base_folder / "evil.py").is_file()
    assert not (engine.base_folder / "ran").exists()


async def test_a_real_adapter_is_proven_by_its_own_references(vllm: VllmServer, engine: Engine) -> None:
    for name in ("good", "other"):
        await vllm.load(engine.adapters[name])
        proof = await prove(vllm, engine.adapters[name], engine.chats(name))
        assert proof.is_proven, (name, proof)
        assert proof.is_distinguishable
        assert proof.golden_count == len(CHATS)


async def test_another_adapter_and_the_base_are_not_proven_by_its_references(vllm: VllmServer, engine: Engine) -> None:
    chats = engine.chats("good")
    for digest in (engine.base, engine.adapters["other"]):
        proof = await prove(vllm, digest, chats)
        assert proof.reason == "LOGPROBS_DIFFER", proof


async def test_an_adapter_that_changes_nothing_is_proven_but_not_distinguishable(vllm: VllmServer, engine: Engine) -> None:
    await vllm.load(engine.adapters["unchanged"])
    proof = await prove(vllm, engine.adapters["unchanged"], engine.chats("unchanged"))
    assert proof.is_proven, proof
    assert not proof.is_distinguishable


async def test_a_template_that_differs_fails_the_proof(vllm: VllmServer, engine: Engine) -> None:
    chats = list(engine.chats("good"))
    chats[3] = replace(chats[3], prompt_token_ids=(*chats[3].prompt_token_ids, 5))
    assert (await prove(vllm, engine.adapters["good"], chats)).reason == "TEMPLATE_MISMATCH"


async def test_many_first_requests_at_once_are_one_load(vllm: VllmServer, engine: Engine) -> None:
    other = engine.adapters["other"]
    await vllm.unload(other)
    await asyncio.gather(*(vllm.load(other) for _ in range(16)))
    assert (await vllm.loaded()).count(other) == 1


@pytest.mark.parametrize("bad", [*FOUND_IN_FILES, "of another base"])
async def test_what_must_not_reach_the_engine_does_not_and_its_neighbours_stay_right(
    vllm: VllmServer, engine: Engine, bad: str
) -> None:
    with pytest.raises(InvalidInput):
        await vllm.load(engine.adapters[bad])
    assert engine.adapters[bad] not in await vllm.loaded()
    assert (await prove(vllm, engine.adapters["good"], engine.chats("good"))).is_proven


async def test_log_probabilities_of_a_prompt_beside_other_requests_end_the_engine(engine: Engine) -> None:
    """The last test of this file: the engine is gone after it. Afina never asks so, and the gateway passes nobody's asking on."""
    async with aiohttp.ClientSession() as session:
        server = AnyServer(engine.url, engine.api_key, session)

        async def ask(number: int) -> None:
            kind: dict[str, int] = {"prompt_logprobs": 1} if number % 2 else {}
            await server.post(
                "/v1/completions", model=engine.base, prompt=[5 + number] * 60, max_tokens=40, ignore_eos=True, **kind
            )

        for _ in range(20):
            await asyncio.gather(*(ask(number) for number in range(12)))
            if not await server.is_up():
                return
        raise AssertionError("the engine bears prompt_logprobs beside other requests now; the gateway may learn to pass them on")
