"""Each promise of the ModelServer port, on a real vLLM with a tiny base, and on its double; and what the plugin refuses.

One vLLM serves the whole module; adapters are real PEFT folders with references from transformers in float32.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.model_server.vllm import ServerPlan, VllmServer, workload
from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import InvalidInput, Unavailable
from services.common.ports.launcher import WorkloadState
from services.common.ports.manifest import put_folder
from services.common.ports.model_server import GoldenChat, ModelServer
from services.inference.proof import parse_golden, prove
from tests.builders import eventually, free_port
from tests.fakes import ScriptedModelServer
from tests.tiny_model import build_tiny_base, name_code

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

START_LIMIT_S = 300
UNKNOWN = "c" * 64
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "the battery lasts all day"}],
    [{"role": "user", "content": "it broke after a week"}],
    [{"role": "system", "content": "Answer with one word."}, {"role": "user", "content": "it does what it says"}],
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Ünïcode ☕ and\nlines"}],
    [
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "four five"},
        {"role": "user", "content": "six"},
    ],
    [{"role": "user", "content": "the screen is bright " * 20}],
    [{"role": "user", "content": "hello"}],
]


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


def make_adapter(base: Path, folder: Path, seed: int, scale: float, base_digest: str) -> bytes:
    """Write a PEFT folder of random weights and return its golden answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(seed)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    targets = ["q_proj", "v_proj", "down_proj"]
    tuned = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    tuned.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    chats: list[dict[str, Any]] = []
    for messages in CHATS:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        ids = list(encoded["input_ids"])
        with torch.no_grad():
            own = torch.log_softmax(tuned(torch.tensor([ids])).logits[0, -1], -1)
            with tuned.disable_adapter():
                other = torch.log_softmax(tuned(torch.tensor([ids])).logits[0, -1], -1)
        top = sorted({*own.topk(6).indices.tolist(), *other.topk(6).indices.tolist()})
        probe = {
            "prefix_token_ids": ids,
            "token_ids": top,
            "adapter_logprobs": own[top].tolist(),
            "base_logprobs": other[top].tolist(),
        }
        chats.append({"messages": messages, "prompt_token_ids": ids, "probes": [probe]})
    golden = json.dumps({"base_digest": base_digest, "chats": chats}).encode()
    (folder / "golden.json").write_bytes(golden)
    return golden


def poison(folder: Path) -> None:
    """Put one NaN into an adapter's weights."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    first = next(iter(tensors))
    tensors[first][0, 0] = math.nan
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def rename(folder: Path) -> None:
    """Put an adapter's keys under a prefix that vLLM takes in silence, answering as the base."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    moved = {key.replace("base_model.model.model.", "base_model.model.other."): tensor for key, tensor in tensors.items()}
    save_file(moved, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def fill_store(store: LocalObjectStore, base: Path, base_digest: str, folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Put good and bad adapters where inference would: under their digests."""
    kinds: dict[str, tuple[float, Callable[[Path], None] | None, str]] = {
        "good": (0.3, None, base_digest),
        "other": (0.3, None, base_digest),
        "unchanged": (0.0, None, base_digest),
        "nan": (0.3, poison, base_digest),
        "renamed": (0.3, rename, base_digest),
        "foreign": (0.3, None, UNKNOWN),
    }
    adapters, golden = {}, {}
    for seed, (name, (scale, spoil, told_base)) in enumerate(kinds.items()):
        golden[name] = make_adapter(base, folder / name, seed, scale, base_digest)
        if spoil:
            spoil(folder / name)
        manifest = put_folder(store, f"jobs/{name}/files", folder / name, "adapter", {"base": {"digest": told_base}})
        store.commit(f"manifests/adapters/{manifest.digest}.json", manifest.to_json())
        adapters[name] = manifest.digest
    return adapters, golden


async def start(launcher: ProcessLauncher, plan: ServerPlan) -> None:
    await launcher.launch(launcher.plan(workload(plan)))
    async with aiohttp.ClientSession() as session:
        server = VllmServer(f"http://127.0.0.1:{plan.port}", plan.api_key, session)
        for _ in range(START_LIMIT_S * 2):
            seen = await launcher.observe(plan.key)
            if seen.state != WorkloadState.RUNNING:
                break
            if await server.is_up():
                return
            await asyncio.sleep(0.5)
    output = (await launcher.logs(plan.key))[0].decode(errors="replace")
    raise AssertionError(f"vLLM did not come up ({seen}):\n{output[-5000:]}")


async def stop(launcher: ProcessLauncher, key: str) -> None:
    await launcher.stop(key)
    while not (await launcher.observe(key)).has_ended:
        await asyncio.sleep(0.2)


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


@pytest.mark.parametrize("bad", ["nan", "renamed", "foreign"])
async def test_what_must_not_reach_the_engine_does_not_and_its_neighbours_stay_right(
    vllm: VllmServer, engine: Engine, bad: str
) -> None:
    with pytest.raises(InvalidInput):
        await vllm.load(engine.adapters[bad])
    assert engine.adapters[bad] not in await vllm.loaded()
    assert (await prove(vllm, engine.adapters["good"], engine.chats("good"))).is_proven
