"""A real vLLM for tests, and real adapters for it: PEFT folders with references that transformers computes in float32."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.model_server.vllm import ServerPlan, VllmServer, workload
from services.common.ports.launcher import Workload, WorkloadState
from services.common.ports.manifest import put_folder
from services.common.ports.object_store import ObjectStore

START_LIMIT_S = 300
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


class AnyServer(VllmServer):
    """A vLLM, asked as anybody could who reaches it and has its key."""

    async def post(self, path: str, **body: Any) -> tuple[int, str]:
        """Return status and text, whatever they are; 0 where there is no answer."""
        try:
            async with self._session.post(self.url + path, json=body, headers=self._headers) as response:
                return response.status, await response.text()
        except aiohttp.ClientError as error:
            return 0, str(error)


def spoiled(good: Path, folder: Path, spoil: Callable[[Path], None]) -> Path:
    """Return a copy of an adapter's folder to which something was done."""
    shutil.copytree(good, folder)
    spoil(folder)
    return folder


def put_adapter(store: ObjectStore, folder: Path, base_digest: str) -> str:
    """Put an adapter where the plugin looks for it and return its digest."""
    manifest = put_folder(store, f"jobs/{folder.name}/files", folder, "adapter", {"base": {"digest": base_digest}})
    store.commit(f"manifests/adapters/{manifest.digest}.json", manifest.to_json())
    return manifest.digest


def bare(given: Workload, **options: str) -> Workload:
    """Return a server without Afina's plugin, with some options of its command line set otherwise."""
    command = list(given.command)
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if flag in command:
            command[command.index(flag) + 1] = value
        else:
            command += [flag, value]
    environment = {key: value for key, value in given.environment.items() if not key.startswith("AFINA_")}
    return replace(given, command=tuple(command), environment={**environment, "VLLM_PLUGINS": "none"})


async def start(launcher: ProcessLauncher, plan: ServerPlan, described: Workload | None = None) -> None:
    """Launch a server, as its plan says or as described, and wait until it is up."""
    await launcher.launch(launcher.plan(described or workload(plan)))
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
    """End a server and wait for that."""
    await launcher.stop(key)
    while not (await launcher.observe(key)).has_ended:
        await asyncio.sleep(0.2)
