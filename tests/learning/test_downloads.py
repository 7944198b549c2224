"""A downloaded model is a standard folder: peft and transformers read it and say what was learned."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from afina.v1 import model_pb2
from click.testing import CliRunner, Result
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.cli.__main__ import afina
from services.common.ports.manifest import Manifest, fetch_folder
from tests.learning.builders import Desk, Events, chat, desk, recipe, uneven_chats
from tests.rpc.scripted_programs import World, scripted_programs

TUNED = "projects/default/models/reviews"


@dataclass
class Trained:
    """A job that has ended, and the programs that know its model."""

    job: Desk
    manifest: Manifest
    world: World

    async def download(self, model: str, folder: Path) -> Result:
        environ = {**self.world.environ, "OBJECT_STORE": self.job.store.url}
        return await asyncio.to_thread(CliRunner().invoke, afina, ("models", "download", model, str(folder)), obj=environ)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Manifest]:
    job = desk(tmp_path_factory.mktemp("trained"), base, uneven_chats(10), told=recipe(epochs=3))
    return job, job.run(Events(), interval_s=1e9)


@pytest_asyncio.fixture
async def ended(trained: tuple[Desk, Manifest], tmp_path: Path) -> AsyncIterator[Trained]:
    job, manifest = trained
    async with scripted_programs(tmp_path) as world:
        told = job.spec.base
        world.models["models/tiny"] = model_pb2.Model(
            name="models/tiny", kind="KIND_BASE", digest=told["digest"], manifest_key=told["manifest_key"], public_id="Tiny"
        )
        world.models[TUNED] = model_pb2.Model(
            name=TUNED,
            kind="KIND_ADAPTER",
            base="models/tiny",
            digest=manifest.digest,
            manifest_key=job.spec.manifest_key,
            public_id="ft:Tiny:default::reviews",
        )
        world.models["ft:Tiny:default::reviews"] = world.models[TUNED]
        yield Trained(job, manifest, world)


async def test_peft_reads_a_downloaded_adapter_and_gives_the_same_logits(ended: Trained, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    result = await ended.download("ft:Tiny:default::reviews", folder)
    assert result.exit_code == 0, result.output
    names = {path.name for path in folder.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names & {"golden.json", "config.json", "model.safetensors"} == set()
    published = fetch_folder(ended.job.store, ended.manifest, tmp_path / "published")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(chat("the battery lasts", "all day"), return_tensors="pt", return_dict=True)["input_ids"]
    expected = AutoTokenizer.from_pretrained(base).apply_chat_template(chat("the battery lasts", "all day"), return_dict=True)
    assert ids[0].tolist() == expected["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        without = plain(ids).logits
        ours = PeftModel.from_pretrained(plain, folder).eval()(ids).logits
        again = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        theirs = PeftModel.from_pretrained(again, published).eval()(ids).logits
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, without, atol=1e-2)


async def test_a_template_that_the_catalogue_declared_comes_with_the_tokenizer(ended: Trained, tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    ended.world.models[TUNED].provenance.update({"base": {"chat_template": template}})
    assert (await ended.download(TUNED, tmp_path / "folder")).exit_code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer.apply_chat_template(chat("one ", "two"), tokenize=False) == "one two"


async def test_a_base_is_downloaded_whole(ended: Trained, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()  # an empty folder will do
    assert (await ended.download("models/tiny", folder)).exit_code == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in base.iterdir()}


async def test_a_folder_that_holds_something_is_left_alone(ended: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    result = await ended.download(TUNED, tmp_path / "mine")
    assert result.exit_code == 5
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


async def test_bytes_that_are_not_what_they_were_are_never_downloaded(ended: Trained, tmp_path: Path) -> None:
    weights = Path(ended.job.store.url.removeprefix("file://")) / ended.manifest.file("adapter_model.safetensors").key
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        result = await ended.download(TUNED, tmp_path / "copy" / "folder")
    finally:
        weights.write_bytes(before)
    assert result.exit_code == 2
    assert "other bytes than its digest says" in result.stderr
    assert list((tmp_path / "copy").iterdir()) == []


async def test_a_manifest_of_another_model_is_refused(ended: Trained, tmp_path: Path) -> None:
    ended.world.models[TUNED].digest = "0" * 64
    result = await ended.download(TUNED, tmp_path / "folder")
    assert result.exit_code == 2
    assert not (tmp_path / "folder").exists()
