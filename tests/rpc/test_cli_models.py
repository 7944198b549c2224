"""`afina models` against the real inference: imports from a folder, a hub and a bucket; the catalogue from a terminal."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import afina
from services.cli.references import make_references
from services.cli.sources import SourceFile
from services.common.errors import InvalidInput
from services.common.ports.manifest import Manifest
from tests.builders import SERVICE_TOKEN, free_port
from tests.hub_server import COMMIT, Hub, hub_server
from tests.rpc.inference_world import World, inference_world
from tests.servers import S3Server
from tests.unit.inference import adapters


def model_files(seed: float = 0.0) -> dict[str, bytes]:
    """A small model's files, as a folder or a repository holds them."""
    weights = {f"{module}.weight": ("F32", np.full(shape, seed, np.float32)) for module, shape in adapters.MODULES.items()}
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": adapters.safetensors(weights),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        made.parts["environ"] = {
            "AFINA_HOME": str(tmp_path / "home"),
            "AFINA_SERVICE_TOKEN": SERVICE_TOKEN,
            "OBJECT_STORE": f"file://{tmp_path}/objects",
            "INFERENCE_ADDRESS": made.address,
        }
        yield made


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with a good model among files that nobody should load."""
    unwanted = {
        "pytorch_model.bin": b"x" * 2000,
        "modeling_tiny.py": b"import os",
        "onnx/model.safetensors": b"x",
        "README.md": b"#",
    }
    with hub_server({**model_files(), **unwanted, "LICENSE": b"Apache-2.0"}) as made:
        yield made


async def run(world: World, *arguments: str, **environ: str) -> Result:
    environment = {**world.parts["environ"], **environ}
    return await asyncio.to_thread(CliRunner().invoke, afina, ("models", *arguments), obj=environment)


async def run_json(world: World, *arguments: str, **environ: str) -> Any:
    result = await run(world, *arguments, "--json", **environ)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_a_folder_is_imported_under_its_own_name_and_twice_is_once(world: World, tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny-1b", {**model_files(), "README.md": b"# hello"})
    first = await run_json(world, "import", str(folder), "--alias", "gpt-4", "--max-length", "256")
    assert (first["name"], first["aliases"], first["max_length"]) == ("catalogueEntries/tiny-1b", ["gpt-4"], 256)
    assert await run_json(world, "import", str(folder), "--alias", "gpt-4") == first
    more = await run_json(world, "import", str(folder), "--alias", "gpt-4o-mini")
    assert (more["aliases"], more["digest"]) == (["gpt-4", "gpt-4o-mini"], first["digest"])
    assert len(list(world.store.list("manifests/bases/"))) == 1
    assert "README.md" not in world.store.read(first["manifest_key"]).decode()
    listed = await run(world, "list")
    assert "gpt-4, gpt-4o-mini" in listed.stdout


async def test_other_weights_take_a_name_only_with_replace(world: World, tmp_path: Path) -> None:
    await run_json(world, "import", str(write(tmp_path / "tiny", model_files())))
    other = write(tmp_path / "other", model_files(1.0))
    refused = await run(world, "import", str(other), "--name", "tiny")
    assert refused.exit_code == 5
    assert "--replace" in refused.stderr
    replaced = await run_json(world, "import", str(other), "--name", "tiny", "--replace")
    assert (await world.get("tiny")).digest == replaced["digest"]


async def test_all_that_is_unsafe_and_all_that_is_missing_is_told_at_once(world: World, tmp_path: Path) -> None:
    folder = write(tmp_path / "bad", {"pytorch_model.bin": b"x", "modeling.py": b"x", "README.md": b"x"})
    result = await run(world, "import", str(folder))
    assert result.exit_code == 2
    for words in (
        "pytorch_model.bin could run code",
        "modeling.py could",
        "config.json is",
        "tokenizer.model is",
        "*.safetensors is",
    ):
        assert words in result.stderr
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    sharded = {**model_files(), "model.safetensors.index.json": index}
    sharded["model-1.safetensors"] = sharded.pop("model.safetensors")
    result = await run(world, "import", str(write(tmp_path / "sharded", sharded)))
    assert "model-2.safetensors is missing" in result.stderr
    assert list(world.store.list("")) == []


async def test_a_hub_id_brings_the_safe_files_of_one_commit_and_leaves_nothing_behind(world: World, hub: Hub) -> None:
    entry = await run_json(world, "import", "org/tiny@v1", HF_ENDPOINT=hub.url)
    manifest = Manifest.from_json(world.store.read(entry["manifest_key"]))
    assert {file.path for file in manifest.files} == {*model_files(), "LICENSE"}
    assert manifest.data == {"source": f"hub:org/tiny@{COMMIT}"}
    assert entry["name"] == "catalogueEntries/tiny"
    assert not any(path.endswith((".bin", ".py", "onnx/model.safetensors")) for _, path, _ in hub.asked)
    assert list((Path(world.parts["environ"]["AFINA_HOME"]) / "downloads").iterdir()) == []


async def test_a_connection_that_breaks_is_taken_up_again(world: World, hub: Hub) -> None:
    hub.breaks_after = 700
    hub.files["model.safetensors"] = adapters.safetensors({"a.weight": ("F32", np.zeros((64, 64), np.float32))})
    entry = await run_json(world, "import", "org/tiny", HF_ENDPOINT=hub.url)
    assert (
        world.store.read(Manifest.from_json(world.store.read(entry["manifest_key"])).file("model.safetensors").key)
        == (hub.files["model.safetensors"])
    )
    asked = [method for method, path, _ in hub.asked if path.endswith("model.safetensors")]
    assert asked.count("GET") == 2  # the library keeps what it has received in pieces of 10 MB, so here it begins anew


async def test_weights_that_are_not_what_the_hub_tells_of_them_are_refused(world: World, hub: Hub) -> None:
    hub.files["model.safetensors"] = adapters.safetensors({"a.weight": ("F32", np.zeros((64, 64), np.float32))})
    hub.lies_about["model.safetensors"] = "a" * 64
    result = await run(world, "import", "org/tiny", HF_ENDPOINT=hub.url)
    assert result.exit_code == 2
    assert "its source tells aaaa" in result.stderr
    assert list(world.store.list("manifests/")) == []


@pytest.mark.parametrize(
    ("given", "token", "code", "words"),
    [
        ("org/none", "", 3, "set HF_TOKEN if it is private"),
        ("org/tiny@v9", "", 3, "no revision v9"),
        ("org/tiny", "asked-for", 6, "accept its terms"),
        ("no-such-folder", "", 3, "There is no directory"),
    ],
)
async def test_what_a_hub_does_not_give_is_told_with_its_fix(
    world: World, hub: Hub, given: str, token: str, code: int, words: str
) -> None:
    hub.token = token
    result = await run(world, "import", given, HF_ENDPOINT=hub.url)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr


async def test_a_token_opens_what_is_gated_and_without_a_network_the_fixes_are_named(world: World, hub: Hub) -> None:
    hub.token = "hf_secret"
    assert (await run_json(world, "import", "org/tiny", HF_ENDPOINT=hub.url, HF_TOKEN="hf_secret"))["digest"]
    result = await run(world, "import", "org/other", HF_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == 4
    for words in ("HF_ENDPOINT", "a directory", "s3://bucket/prefix"):
        assert words in result.stderr


async def test_a_bucket_is_imported_with_the_installations_settings(world: World, s3_server: S3Server, tmp_path: Path) -> None:
    environ = s3_server.environ
    source = s3_server.store(f"models-{tmp_path.name}/tiny")
    for name, data in model_files().items():
        source.commit(name, data)
    entry = await run_json(world, "import", source.url, **environ)
    folder = await run_json(world, "import", str(write(tmp_path / "tiny", model_files())))
    assert (entry["name"], entry["digest"]) == ("catalogueEntries/tiny", folder["digest"])
    source.commit("pytorch_model.bin", b"x")
    assert "could run code" in (await run(world, "import", source.url, **environ)).stderr
    assert "nothing under" in (await run(world, "import", f"{s3_server.url}/none-{tmp_path.name}", **environ)).stderr
    denied = await run(world, "import", source.url, **{**environ, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert denied.exit_code == 6


async def test_a_template_is_declared_at_import_or_later_and_a_broken_one_is_told(world: World, tmp_path: Path) -> None:
    folder, template = write(tmp_path / "tiny", model_files()), tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}")
    broken = await run(world, "import", str(folder), "--chat-template", str(template))
    assert broken.exit_code == 2
    assert "can't be parsed" in broken.stderr
    template.write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    await run_json(world, "import", str(folder))
    entry = await run_json(world, "update", "tiny", "--chat-template", str(template))
    assert entry["chat_template"] == template.read_text()


async def test_aliases_are_added_and_removed_and_a_base_is_deleted(world: World, tmp_path: Path) -> None:
    await run_json(world, "import", str(write(tmp_path / "tiny", model_files())), "--alias", "gpt-4")
    entry = await run_json(world, "update", "gpt-4", "--add-alias", "gpt-4o", "--remove-alias", "gpt-4")
    assert entry["aliases"] == ["gpt-4o"]
    strange = await run(world, "update", "tiny", "--remove-alias", "gpt-4")
    assert "it has gpt-4o" in strange.stderr
    assert (await run(world, "update", "tiny")).exit_code == 2
    await run_json(world, "delete", "gpt-4o")
    assert (await run(world, "get", "tiny")).exit_code == 3


async def test_full_weights_are_imported_with_references_of_their_tokenizer(world: World, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.tiny_model import tiny_tokenizer

    base = await run_json(world, "import", str(write(tmp_path / "tiny", model_files())))
    files = model_files(1.0)
    folder = write(tmp_path / "merged", {name: files[name] for name in ("config.json", "model.safetensors")})
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    made = await run_json(world, "import", str(folder), "--full", "--base", "tiny", "--suffix", "merged")
    assert (made["kind"], made["base"]) == ("FULL", base["model"])
    golden = json.loads(world.store.read(Manifest.from_json(world.store.read(made["manifest_key"])).file("golden.json").key))
    rendered = tokenizer.apply_chat_template(golden["chats"][0]["messages"], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(golden["chats"][0]["prompt_token_ids"]) == rendered
    assert (await run_json(world, "import", str(folder), "--full", "--base", "tiny"))["name"] == made["name"]
    shown = await run(world, "get", made["public_id"])
    assert "Nobody has asked for it yet" in shown.stdout
    assert (await run(world, "import", str(folder), "--full", "--alias", "x")).exit_code == 2
    assert (await run(world, "import", str(folder), "--base", "tiny")).exit_code == 2
    copy = tmp_path / "copy"
    await run_json(world, "download", made["public_id"], str(copy))
    assert {path.name for path in copy.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    await run_json(world, "delete", made["public_id"])


def test_references_need_a_template_and_a_broken_tokenizer_is_told() -> None:
    pytest.importorskip("transformers")
    files = [SourceFile("tokenizer.json", len(TOKENIZER), lambda: io.BytesIO(TOKENIZER)), source_file("config.json")]
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert make_references(files, "") is None
    golden = json.loads(make_references(files, template) or b"")
    assert [len(chat["messages"]) for chat in golden["chats"]] == [1, 1, 3]
    with pytest.raises(InvalidInput, match="can't make prompts"):
        make_references([source_file("tokenizer.json"), source_file("config.json")], template)


def source_file(name: str) -> SourceFile:
    return SourceFile(name, 2, lambda: io.BytesIO(model_files()[name]))


TOKENIZER = json.dumps(
    {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}}
).encode()
