"""What vLLM does with broken adapters and unkind requests when nothing stands between: the reasons for what Afina refuses.

Each is reproduced on a vLLM without Afina's plugin, so that a release that changes one is noticed here. Where the engine's
behaviour is what is asserted, that is not what anybody wants: a test that fails because vLLM has become better is good news,
and its line in `tests/corruptions.py` may then say so. What Afina does about each stands in `test_broken_adapters.py`.

One engine serves the whole module, in the order of the file: it is poisoned near the end, and dies of the last test.
"""

import asyncio
import math
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.model_server.vllm import ServerPlan, workload
from services.common.errors import InvalidInput
from services.common.ports.launcher import WorkloadState
from services.common.ports.model_server import GoldenChat
from services.inference.proof import parse_golden
from tests.builders import eventually, free_port
from tests.corruptions import FOUND_IN_FILES, WEIGHTS
from tests.engine import AnyServer, bare, make_adapter, spoiled, start, stop
from tests.tiny_model import build_tiny_base

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BASE = "base"
BLOCKS = 64  # of 32 tokens: so few that each is soon somebody else's
NEAR = 0.15  # nats on average; see services/inference/proof.py
SILENT = {name: corruption for name, corruption in FOUND_IN_FILES.items() if corruption.engine != "NAN"}


@dataclass
class Engine:
    """A vLLM as it comes, with a good adapter and another on disk. At most two adapters stay in its memory."""

    launcher: ProcessLauncher
    key: str
    url: str
    folder: Path
    golden: dict[str, tuple[GoldenChat, ...]]

    def path(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    pytest.importorskip("vllm", reason="needs vLLM: pip install 'afina[server-cpu]'")
    root = tmp_path_factory.mktemp("bare")
    base = build_tiny_base(root / "model")
    golden = {name: make_adapter(base, root / name, seed, 0.3, BASE) for seed, name in enumerate(("good", "other"))}
    launcher = ProcessLauncher(root / "processes", grace_s=20)
    plan = ServerPlan("bare", str(base), BASE, free_port(), "secret", "file:///nowhere", str(root / "cache"), max_length=512)
    try:
        asyncio.run(
            start(launcher, plan, bare(workload(plan), max_loras="1", max_cpu_loras="2", num_gpu_blocks_override=str(BLOCKS)))
        )
        chats = {name: parse_golden(document, BASE) for name, document in golden.items()}
        yield Engine(launcher, plan.key, f"http://127.0.0.1:{plan.port}", root, chats)
    finally:
        asyncio.run(stop(launcher, plan.key))


class Client(AnyServer):
    """A bare vLLM, asked as anybody could who reaches it."""

    async def load_from(self, name: str, path: Path, **options: Any) -> int:
        """Load an adapter by path, as vLLM's own API does, and return the status."""
        return (await self.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(path), **options))[0]

    async def differences(self, name: str, chats: tuple[GoldenChat, ...]) -> tuple[float, float]:
        """Return the mean absolute differences to the adapter's references and to the base's. Units: nats."""
        own, other = [], []
        for probe in (probe for chat in chats for probe in chat.probes):
            said = await self.logprobs(name, probe.prefix_token_ids, probe.token_ids)
            own += [abs(a - b) for a, b in zip(said, probe.adapter_logprobs, strict=True)]
            other += [abs(a - b) for a, b in zip(said, probe.base_logprobs, strict=True)]
        return sum(own) / len(own), sum(other) / len(other)


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(engine.url, "secret", session)


@pytest.mark.parametrize("name", SILENT)
async def test_a_broken_adapter_is_taken_in_silence_or_refused_as_was_seen(client: Client, engine: Engine, name: str) -> None:
    folder = spoiled(engine.path("good"), engine.path(name.replace(" ", "-")), FOUND_IN_FILES[name].spoil)
    status = await client.load_from(name, folder)
    assert (await seen(client, engine, name) if status == 200 else "REFUSED") == FOUND_IN_FILES[name].engine


async def seen(client: Client, engine: Engine, name: str) -> str:
    """Say as what a loaded adapter answers."""
    own, other = await client.differences(name, engine.golden["good"])
    return "AS_GOOD" if own < NEAR else "AS_BASE" if other < NEAR else "OTHERWISE"


async def test_the_same_name_and_path_with_other_files_answers_with_what_it_remembers_of_the_first(
    client: Client, engine: Engine
) -> None:
    reused = engine.path("reused")
    shutil.copytree(engine.path("good"), reused)
    assert await client.load_from("reused", reused) == 200
    assert (await client.differences("reused", engine.golden["good"]))[0] < NEAR
    await client.unload("reused")
    shutil.copy(engine.path("other") / WEIGHTS, reused / WEIGHTS)
    assert await client.load_from("reused", reused) == 200
    long = tuple(chat for chat in engine.golden["other"] if len(chat.prompt_token_ids) > 64)  # whole blocks are remembered
    stale = (await client.differences("reused", long))[0]
    fresh = engine.path("fresh")
    shutil.copytree(reused, fresh)
    assert await client.load_from("fresh", fresh) == 200
    assert (await client.differences("fresh", long))[0] < NEAR
    assert stale > NEAR


async def test_load_inplace_lets_files_change_under_a_model_that_answers(client: Client, engine: Engine) -> None:
    inplace = engine.path("inplace")
    shutil.copytree(engine.path("good"), inplace)
    assert await client.load_from("inplace", inplace, load_inplace=True) == 200
    first, second = engine.golden["good"][:2], engine.golden["other"][2:4]  # none that shares a prefix with what was asked
    assert (await client.differences("inplace", first))[0] < NEAR
    shutil.copy(engine.path("other") / WEIGHTS, inplace / WEIGHTS)
    assert (await client.differences("inplace", second))[0] < NEAR


@pytest.mark.parametrize("name", [name for name, corruption in FOUND_IN_FILES.items() if corruption.engine == "NAN"])
async def test_a_broken_number_is_taken_in_silence_and_poisons_the_bases_answers(
    client: Client, engine: Engine, name: str
) -> None:
    """What it leaves in a block of the cache is read with whatever another request puts into the same block later."""
    folder = spoiled(engine.path("good"), engine.path(name.replace(" ", "-")), FOUND_IN_FILES[name].spoil)
    assert await client.load_from(name, folder) == 200
    await client.post("/v1/completions", model=name, prompt=[7] * 400, max_tokens=1, temperature=0)
    assert any([await _is_broken(client, (40 + number, 41, 42 + number, 43)) for number in range(3 * BLOCKS)])


async def _is_broken(client: Client, prompt: tuple[int, ...]) -> bool:
    """Whether the base's numbers are none, or the engine can't write them down."""
    try:
        return any(math.isnan(value) for value in await client.logprobs(BASE, prompt, (50, 60)))
    except InvalidInput as error:
        if "Out of range float values" not in error.message:
            raise
        return True


async def test_an_adapter_that_was_evicted_and_whose_folder_is_gone_takes_the_engine_with_it(
    client: Client, engine: Engine
) -> None:
    for number in range(3):  # there is memory for two
        folder = engine.path(f"evicted-{number}")
        shutil.copytree(engine.path("good"), folder)
        assert await client.load_from(folder.name, folder) == 200
        await client.post("/v1/completions", model=folder.name, prompt="a", max_tokens=1)
    shutil.rmtree(engine.path("evicted-0"))
    status, _ = await client.post("/v1/completions", model="evicted-0", prompt="a", max_tokens=1)
    assert status == 500

    async def is_dead() -> bool:
        return (await engine.launcher.observe(engine.key)).state != WorkloadState.RUNNING

    await eventually(is_dead, timeout_s=60)
