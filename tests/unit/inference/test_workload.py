"""How a vLLM is started: what stands in its command, and what only in its environment."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.backends.model_server.vllm import ServerPlan, workload
from services.inference.catalogue import TOOL_CALL_PARSERS
from services.inference.chat_template import write_template
from services.inference.server.guard import Guard
from services.inference.servers import ENGINE_RANKS

PLAN = ServerPlan("server-abc-1", "/cache/base", "b" * 64, 12345, "the-secret", "file:///objects", "/cache", 1024, 32)


def flag(command: tuple[str, ...], name: str) -> str:
    return command[command.index(name) + 1]


def test_the_engine_knows_its_base_by_digest_and_listens_on_loopback_alone() -> None:
    command = workload(PLAN).command
    assert (flag(command, "--model"), flag(command, "--served-model-name")) == ("/cache/base", "b" * 64)
    assert (flag(command, "--host"), flag(command, "--port")) == ("127.0.0.1", "12345")
    assert (flag(command, "--max-model-len"), flag(command, "--max-lora-rank")) == ("1024", "32")
    assert flag(command, "--load-format") == "safetensors"
    assert "--trust-remote-code" not in command
    assert flag(command, "--middleware") == f"{Guard.__module__}.{Guard.__name__}"


def test_the_api_key_is_in_the_environment_and_not_in_the_command_and_opens_the_store_too() -> None:
    made = workload(PLAN)
    assert not any("secret" in part for part in made.command)
    assert made.environment["VLLM_API_KEY"] == made.environment["AFINA_ATTEMPT_TOKEN"] == "the-secret"
    assert not any(name.startswith(("AWS_", "S3_")) for name in made.environment)


def test_only_our_plugin_is_loaded_and_no_compiler_is_called() -> None:
    environment = workload(PLAN).environment
    assert environment["VLLM_PLUGINS"] == "afina"
    assert environment["TORCH_COMPILE_DISABLE"] == "1"
    assert environment["AFINA_BASE_DIGEST"] == "b" * 64


def test_the_processors_settings_are_left_out_on_a_gpu() -> None:
    cpu, cuda = workload(PLAN).environment, workload(replace(PLAN, accelerator="cuda")).environment
    assert set(cpu) - set(cuda) == {"VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_WAIT_POLICY"}


def test_every_rank_that_a_server_grows_to_is_one_that_vllm_can_be_started_for() -> None:
    # Source: vllm.config.lora.MaxLoRARanks of vLLM 0.32
    assert set(ENGINE_RANKS) <= {1, 8, 16, 32, 64, 128, 256, 320, 512}


def test_whole_weights_that_take_no_adapters_are_started_without_slots_for_them() -> None:
    made = workload(replace(PLAN, max_rank=0))
    assert not any("lora" in part for part in made.command)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in made.environment
    assert workload(PLAN).environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_a_declared_template_is_given_as_a_file() -> None:
    assert flag(workload(replace(PLAN, chat_template="/cache/templates/a.jinja")).command, "--chat-template") == (
        "/cache/templates/a.jinja"
    )
    assert "--chat-template" not in workload(PLAN).command


def test_a_templates_file_holds_its_bytes_whoever_writes_it_and_however_often(tmp_path: Path) -> None:
    template = "{{ messages }}\r\n{# Ünïcode \\n #}"
    path = write_template(tmp_path, template)
    assert path == write_template(tmp_path, template)
    assert path.read_bytes() == template.encode()
    assert list(path.parent.iterdir()) == [path]


def test_calls_of_tools_are_read_by_the_parser_that_is_declared_and_by_none_otherwise() -> None:
    assert not any("tool" in part for part in workload(PLAN).command)
    command = workload(replace(PLAN, tool_call_parser="hermes")).command
    assert "--enable-auto-tool-choice" in command
    assert flag(command, "--tool-call-parser") == "hermes"


def test_every_parser_that_can_be_declared_is_one_that_vllm_has_and_the_other_way_round() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("needs vLLM: pip install 'afina[server-cpu]'")
    table = Path(found.origin).parent / "tool_parsers" / "__init__.py"
    assert set(re.findall(r'^    "([^"]+)": \(', table.read_text(), re.MULTILINE)) == TOOL_CALL_PARSERS
