"""What is published is what was learned, in the form that peft and a server read."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.common.errors import InvalidInput
from services.common.ports.manifest import Manifest, fetch_folder
from services.inference.model import PROVENANCE_KEYS
from services.trainer.provenance import source_digest
from services.trainer.worker import model, publish
from tests.learning.builders import Desk, Events, desk, learner_of, recipe, uneven_chats


@pytest.fixture(scope="module")
def published(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Manifest, Path]:
    folder = tmp_path_factory.mktemp("published")
    job = desk(folder, base, uneven_chats(10), uneven_chats(4), recipe(epochs=3))
    manifest = job.run(Events(), interval_s=1e9)
    return job, manifest, fetch_folder(job.store, manifest, folder / "cache")


def test_a_published_adapter_loads_in_peft_and_gives_the_learners_logits(base: Path, tmp_path: Path) -> None:
    learner, tokenizer = learner_of(base)
    publish.write_adapter(learner, tmp_path, "Tiny")
    learner.model.eval()
    ids = torch.tensor([tokenizer("the battery lasts all day")["input_ids"]])
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path).eval()
    with torch.no_grad():
        ours, theirs = learner.model(input_ids=ids).logits, loaded(input_ids=ids).logits
        plain = loaded.get_base_model()(input_ids=ids).logits
        with loaded.disable_adapter():
            without = loaded(input_ids=ids).logits
    assert torch.equal(ours, theirs)
    assert torch.equal(plain, ours)
    assert not torch.allclose(without, ours)


def test_the_folder_is_a_standard_one_and_names_its_base(published: tuple[Desk, Manifest, Path]) -> None:
    _, manifest, folder = published
    assert [file.path for file in manifest.files] == ["adapter_config.json", "adapter_model.safetensors", "golden.json"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Tiny"
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["task_type"]) == ("LORA", 8, 16, "CAUSAL_LM")
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    names = load_file(folder / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == 2 * 4 * 2
    assert all(os.stat(path).st_mode & 0o444 == 0o444 for path in folder.iterdir())


def test_the_same_job_gives_the_same_bytes(base: Path, tmp_path: Path, published: tuple[Desk, Manifest, Path]) -> None:
    again = desk(tmp_path, base, uneven_chats(10), uneven_chats(4), recipe(epochs=3)).run(Events(), interval_s=1e9)
    assert again.digest == published[1].digest


def test_golden_answers_are_those_of_transformers_in_fp32(base: Path, published: tuple[Desk, Manifest, Path]) -> None:
    job, _, folder = published
    golden = json.loads((folder / "golden.json").read_text())
    assert golden["base_digest"] == job.spec.base["digest"]
    assert len(golden["chats"]) == 9  # eight rows and one made of two
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder
    ).merge_and_unload()
    for chat_ in golden["chats"]:
        text = tokenizer.apply_chat_template(chat_["messages"], add_generation_prompt=True, tokenize=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == chat_["prompt_token_ids"]
        assert chat_["probes"][0]["prefix_token_ids"] == chat_["prompt_token_ids"]
        for probe in chat_["probes"]:
            assert len(probe["token_ids"]) <= 16
            ids = torch.tensor([probe["prefix_token_ids"]])
            for reference, key in ((adapted, "adapter_logprobs"), (plain, "base_logprobs")):
                with torch.no_grad():
                    logprobs = reference(ids).logits[0, -1].log_softmax(-1)[probe["token_ids"]]
                assert torch.allclose(logprobs, torch.tensor(probe[key]), atol=1e-4)


def test_golden_answers_hold_a_chat_of_several_turns_and_start_with_validation_rows(
    published: tuple[Desk, Manifest, Path],
) -> None:
    golden = json.loads((published[2] / "golden.json").read_text())
    roles = [[m["role"] for m in chat_["messages"]] for chat_ in golden["chats"]]
    assert ["user", "assistant", "user"] in roles
    assert golden["chats"][0]["messages"] == uneven_chats(4)[0][:1]
    assert any(len(chat_["probes"]) == 2 for chat_ in golden["chats"])


def test_weights_that_are_not_finite_are_not_published(base: Path, tmp_path: Path) -> None:
    learner, _ = learner_of(base)
    with torch.no_grad():
        next(iter(learner.adapter.values()))[0, 0] = float("nan")
    with pytest.raises(InvalidInput) as caught:
        publish.write_adapter(learner, tmp_path, "Tiny")
    assert caught.value.reason == "ADAPTER_NOT_FINITE"
    assert not list(tmp_path.iterdir())


def test_the_manifest_tells_what_made_the_model_down_to_the_code(published: tuple[Desk, Manifest, Path]) -> None:
    job, manifest, _ = published
    told = {key: manifest.data[key] for key in PROVENANCE_KEYS if key in manifest.data}  # what a Model keeps of it
    assert (told["job"], told["attempt"]) == (job.spec.job, 1)
    assert (told["base"]["digest"], told["dataset"]["digest"]) == (job.spec.base["digest"], "d" * 64)
    assert told["recipe"] == recipe(epochs=3).to_document()
    source = told["environment"].pop("afina_source_sha256")
    assert len(source) == 64
    assert told["environment"] == {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("afina", "torch", "transformers", "peft")},
        "device": "cpu",
        "dtype": str(model.choose_dtype(torch.device("cpu"))).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def test_other_source_is_another_code_and_nothing_else_is(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    for folder, text in ((first, "x = 1\n"), (second, "x = 1\n"), (third, "x = 2\n")):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "x.py").write_text(text)
    (second / "notes.txt").write_text("no code")
    assert source_digest(first) == source_digest(second) != source_digest(third)
    (first / "inner" / "x.py").rename(first / "x.py")
    source_digest.cache_clear()
    assert source_digest(first) != source_digest(second)
