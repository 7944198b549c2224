"""vLLM as the model server: how it is started, and how it is asked over HTTP.

The engine knows models by digest alone. An adapter is loaded by asking for one token in its name: the plugin inside vLLM
(`services.inference.server`) then fetches it by digest, so there is no path to hand over and nothing to load twice. vLLM
opens its load and unload verbs to whoever has its key, and leaves much beside `/v1` open to everybody, so it listens on this
machine's loopback address alone and behind a guard of ours (`services.inference.server.guard`).
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from services.common.errors import InvalidInput, Unavailable
from services.common.ports.launcher import Workload
from services.common.ports.model_server import Activity, ModelServer
from services.common.telemetry import carried

HEALTH_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 180.0  # the engine may share its cores with a training run, and falls to a tenth of its speed then
MAX_CANDIDATES = 16
MAX_SLOTS = 4  # adapters in one batch
MAX_CPU_ADAPTERS = 32
MAX_STREAMS = 16
CPU_BLOCK_TOKENS = 32  # only whole blocks of a prefix are found again: at vLLM's 128 a short prompt never is
COUNTED = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:request_success_total")
GUARD = "services.inference.server.guard.Guard"  # by name: it is imported there, not here
DRAIN_S = 15  # less than what a launcher grants before it kills


@dataclass(frozen=True)
class ServerPlan:
    """Everything that makes one vLLM server; `key` names one launch for ever, and a `max_rank` of 0 takes no adapters."""

    key: str
    base_folder: str
    base_digest: str
    port: int
    api_key: str
    object_store: str  # as a workload opens it
    cache: str
    max_length: int = 2048
    max_rank: int = 16
    accelerator: str = "cpu"  # "cpu" | "cuda"
    kv_cache_gib: int = 1  # on a CPU; a GPU takes what it has
    chat_template: str = ""  # a file, for weights that bring no template
    tool_call_parser: str = ""  # what turns the model's text into calls of tools; empty: nothing does


def workload(plan: ServerPlan) -> Workload:
    """Return what a launcher needs to start a server. Pure."""
    return Workload(
        key=plan.key,
        kind="server",
        command=_command(plan),
        environment=_environment(plan),
        labels={"app": "afina", "program": "inference.server", "base": plan.base_digest[:24]},
    )


def _command(plan: ServerPlan) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", plan.base_folder,
        "--served-model-name", plan.base_digest,
        "--host", "127.0.0.1",
        "--port", str(plan.port),
        "--middleware", GUARD,
        "--load-format", "safetensors",
        "--dtype", "bfloat16",
        "--max-model-len", str(plan.max_length),
        "--max-num-seqs", str(MAX_STREAMS),
        *(_adapter_arguments(plan.max_rank) if plan.max_rank else ()),
        *(("--chat-template", plan.chat_template) if plan.chat_template else ()),
        *(("--enable-auto-tool-choice", "--tool-call-parser", plan.tool_call_parser) if plan.tool_call_parser else ()),
        "--shutdown-timeout", str(DRAIN_S),
        "--disable-uvicorn-access-log",
        *(("--block-size", str(CPU_BLOCK_TOKENS)) if plan.accelerator == "cpu" else ()),
    )  # fmt: skip


def _adapter_arguments(max_rank: int) -> tuple[str, ...]:
    return (
        "--enable-lora",
        "--max-loras", str(MAX_SLOTS),
        "--max-lora-rank", str(max_rank),
        "--max-cpu-loras", str(MAX_CPU_ADAPTERS),
    )  # fmt: skip


def _environment(plan: ServerPlan) -> dict[str, str]:
    environment = {
        "AFINA_ATTEMPT_TOKEN": plan.api_key,  # which signs for what the server may read, where a store asks for that
        "AFINA_ADAPTER_STORE": plan.object_store,
        "AFINA_CACHE": plan.cache,
        "AFINA_BASE_DIGEST": plan.base_digest,
        "AFINA_MAX_LORA_RANK": str(plan.max_rank),
        "VLLM_API_KEY": plan.api_key,
        "VLLM_PLUGINS": "afina",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCH_COMPILE_DISABLE": "1",  # log-probability requests otherwise call a compiler that an image lacks
    }
    if plan.max_rank:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"  # without it vLLM never asks the plugin
    if plan.accelerator == "cpu":
        # Unbound threads take whatever cores there are, and threads that sleep while they wait leave them to others:
        # beside a busy neighbour that was 3 to 7 times as fast as threads that spin.
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(plan.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_WAIT_POLICY": "passive",
        }
    return environment


class VllmServer(ModelServer):
    """One vLLM at a URL. The session belongs to the caller, who closes it."""

    def __init__(self, url: str, api_key: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._session = session

    async def is_up(self) -> bool:
        """See the port."""
        try:
            timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
            async with self._session.get(f"{self.url}/health", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def load(self, digest: str) -> None:
        """See the port: asking for one token is what loads."""
        answer = await self._ask("POST", "/v1/completions", {"model": digest, "prompt": "a", "max_tokens": 1, "temperature": 0})
        if answer.get("model") != digest:
            raise InvalidInput(
                f"The engine answered for {digest} as {answer.get('model')}.",
                reason="MODEL_NOT_SERVED",
                metadata={"digest": digest},
            )

    async def unload(self, digest: str) -> None:
        """See the port."""
        try:
            await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": digest})
        except InvalidInput as error:
            if error.metadata.get("http_status") != "404":
                raise

    async def loaded(self) -> list[str]:
        """See the port."""
        return [str(model["id"]) for model in (await self._ask("GET", "/v1/models"))["data"]]

    async def activity(self) -> Activity:
        """See the port: three of the numbers that vLLM counts for Prometheus."""
        seen = dict.fromkeys(COUNTED, 0.0)
        try:
            timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
            async with self._session.get(f"{self.url}/metrics", timeout=timeout) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"The model server at {self.url} does not answer ({error!r}).", reason="SERVER_AWAY") from error
        for line in text.splitlines():
            name = line.partition("{")[0]
            if name in seen:  # a line for each set of labels
                seen[name] += float(line.rpartition(" ")[2])
        running, waiting, answered = (int(seen[name]) for name in COUNTED)
        return Activity(running + waiting, answered)

    async def token_ids(self, digest: str, messages: Sequence[dict[str, Any]]) -> list[int]:
        """See the port."""
        body = {"model": digest, "messages": list(messages), "add_generation_prompt": True}
        return [int(token) for token in (await self._ask("POST", "/tokenize", body))["tokens"]]

    async def logprobs(self, digest: str, prefix_token_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """See the port. Never asks for `prompt_logprobs`: beside other requests that kills the engine."""
        if len(token_ids) > MAX_CANDIDATES:
            raise InvalidInput(f"{len(token_ids)} candidates were asked for; at most {MAX_CANDIDATES} can be.")
        answer = await self._ask(
            "POST",
            "/v1/completions",
            {
                "model": digest,
                "prompt": list(prefix_token_ids),
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "logprob_token_ids": list(token_ids),
                "return_tokens_as_token_ids": True,
            },
        )
        if answer.get("model") != digest:
            raise InvalidInput(f"The engine answered for {digest} as {answer.get('model')}.", reason="MODEL_NOT_SERVED")
        found: Mapping[str, float | None] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        # A number that the engine leaves out, or can't write as JSON, is one that no reference equals.
        values = (found.get(f"token_id:{token}") for token in token_ids)
        return [math.nan if value is None else float(value) for value in values]

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request. Raises: InvalidInput (4xx), Unavailable (5xx, no answer, too late)."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S, sock_connect=HEALTH_TIMEOUT_S)
        try:
            async with self._session.request(
                method, self.url + path, json=body, headers={**self._headers, **carried()}, timeout=timeout
            ) as response:
                text = await response.text()
                if response.status < 400:
                    return {} if response.content_type != "application/json" else await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"The model server at {self.url} does not answer ({error!r}).", reason="SERVER_AWAY") from error
        if response.status >= 500 or response.status == 429:
            raise Unavailable(f"The model server answered {response.status}: {text[:300]}", reason="SERVER_FAILED")
        raise InvalidInput(
            f"The model server refused with {response.status}: {text[:300]}",
            reason="SERVER_REFUSED",
            metadata={"http_status": str(response.status)},
        )
