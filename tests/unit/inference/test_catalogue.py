"""The catalogue: what a base has to be."""

import json
from typing import Any

import pytest

from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import Artifact
from services.inference.catalogue import Entry, check_base, check_entry, default_max_length, has_chat_template
from services.inference.chat_template import check_template

CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192}
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def manifest(*paths: str, kind: str = "base") -> Manifest:
    return Manifest(kind, tuple(ManifestFile(path, Artifact(f"bases/{path}", 1, "0" * 64)) for path in paths), {})


def texts(config: Any = CONFIG, tokenizer: Any = None) -> dict[str, bytes]:
    return {"config.json": json.dumps(config).encode(), "tokenizer_config.json": json.dumps(tokenizer or {}).encode()}


def reasons(made: Manifest, read: dict[str, bytes], max_length: int = 0) -> list[str]:
    return [violation.reason for violation in check_base(made, read, max_length)]


def test_a_good_base_is_taken() -> None:
    assert reasons(manifest(*FILES), texts()) == []


@pytest.mark.parametrize("path", ["pytorch_model.bin", "modeling_x.py", "model.pt", "sub/weights.pkl"])
def test_a_base_with_a_file_that_could_run_code_is_refused(path: str) -> None:
    assert reasons(manifest(*FILES, path), texts()) == ["UNSAFE_FILE"]


def test_a_base_that_names_code_of_its_own_is_refused() -> None:
    remote = {"auto_map": {"AutoModel": "x.py"}}
    assert reasons(manifest(*FILES), texts({**CONFIG, **remote})) == ["REMOTE_CODE"]
    assert reasons(manifest(*FILES), texts(tokenizer=remote)) == ["REMOTE_CODE"]


def test_a_base_without_weights_tokenizer_or_architecture_is_told_all_three() -> None:
    assert reasons(manifest("config.json"), texts({})) == ["NO_SAFETENSORS", "TOKENIZER_MISSING", "ARCHITECTURE_MISSING"]


def test_every_shard_that_an_index_names_has_to_be_there() -> None:
    index = {
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    }
    made = manifest(*FILES, "model.safetensors.index.json", "one.safetensors")
    (missing,) = check_base(made, {**texts(), **index}, 0)
    assert (missing.field, missing.reason) == ("two.safetensors", "SHARD_MISSING")
    assert reasons(made, {**texts(), "model.safetensors.index.json": b"[]"}) == ["CONFIG_INVALID"]


def test_a_config_that_is_missing_or_no_object_is_refused() -> None:
    assert reasons(manifest(*FILES), {}) == ["CONFIG_INVALID", "ARCHITECTURE_MISSING"]
    assert reasons(manifest(*FILES), texts([1])) == ["CONFIG_INVALID", "ARCHITECTURE_MISSING"]


def test_an_adapters_manifest_is_no_base() -> None:
    assert reasons(manifest(*FILES, kind="adapter"), texts()) == ["WRONG_KIND"]


def test_a_server_takes_2048_tokens_unless_the_base_reads_fewer() -> None:
    assert default_max_length(texts()) == 2048
    assert default_max_length(texts({**CONFIG, "max_position_embeddings": 512})) == 512
    assert reasons(manifest(*FILES), texts(), max_length=8193) == ["OUT_OF_RANGE"]


def test_a_chat_template_is_found_in_its_own_file_or_in_the_tokenizers_config() -> None:
    assert has_chat_template(manifest(*FILES), texts())
    assert has_chat_template(manifest("config.json"), texts(tokenizer={"chat_template": "x"}))
    assert not has_chat_template(manifest("config.json"), texts())


def test_every_mistake_in_a_request_is_named_at_once() -> None:
    found = check_entry(Entry("catalogueEntries/a/b", "", "", "", 64, ("ok", "ft:x"), "{% if %}"))
    assert [violation.field for violation in found] == [
        "catalogue_entry_id",
        "catalogue_entry.aliases",
        "catalogue_entry.max_length",
        "catalogue_entry.manifest_key",
        "catalogue_entry.chat_template",
    ]


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{% if loop.first %}{% continue %}{% endif %}{{ message.content | tojson }}{% endfor %}",
        "{{ raise_exception('no tools') if tools else messages[0]['content'] }}{{ strftime_now('%Y') }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "",
    ],
)
def test_what_transformers_templates_use_is_taken(template: str) -> None:
    assert check_template(template) == []


def test_a_template_that_would_never_end_is_only_read() -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ messages }}{% endfor %}{% endfor %}"
    assert check_template(endless) == []


@pytest.mark.timeout(20)
def test_checking_a_template_computes_none_of_its_constants_and_bears_any_depth() -> None:
    assert check_template("{{ messages }}{{ 9**(9**8) }}{{ ('a' * 300000000) | length }}") == []
    (violation,) = check_template("{{ messages }}{{ " + "[" * 3000 + "]" * 3000 + " }}")
    assert "nested too deeply" in violation.description
