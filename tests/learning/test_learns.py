"""It learns, it stops where it should, and it says what is wrong with what it was told."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.common.errors import InvalidInput
from services.common.ports.manifest import fetch_folder
from services.trainer.recipe import resolve
from services.trainer.worker.loop import Stopped, learning_rate
from tests.learning.builders import Events, chat, desk, recipe, uneven_chats
from tests.tiny_model import build_tiny_base

FACTS = [
    chat("the battery lasts all day", "positive"),
    chat("it broke after a week", "negative"),
    chat("it does what it says", "neutral"),
    chat("the screen is bright", "positive"),
    chat("nobody answered my letter", "negative"),
    chat("no more and no less", "neutral"),
]
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MEMORISE = recipe(epochs=30, batch_size=6, learning_rate=3e-3, target_modules=ALL_LINEAR, rank=16, alpha=32)


def test_it_learns_its_rows_by_heart_and_says_them(base: Path, tmp_path: Path) -> None:
    job, events = desk(tmp_path, base, FACTS, FACTS, MEMORISE), Events()
    manifest = job.run(events, interval_s=1e9)
    losses = [step["train_loss"] for step in events.of("STEP")]
    assert losses[0] > 3
    assert losses[-1] < 0.05
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), fetch_folder(job.store, manifest, tmp_path / "published")
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    for question, answer in FACTS:
        prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, return_tensors="pt")
        said = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(said) == answer["content"] + tokenizer.eos_token


def test_it_tells_each_step_and_keeps_the_best_weights(base: Path, tmp_path: Path) -> None:
    told = recipe(epochs=6, learning_rate=5e-2)  # too fast for other chats than its own: validation gets worse again
    job, events = desk(tmp_path, base, FACTS, uneven_chats(5), told), Events()
    data = job.run(events, interval_s=1e9).data
    steps = events.of("STEP")
    assert [step["step"] for step in steps] == list(range(1, 13))
    wanted = {"total_steps", "epoch", "train_loss", "learning_rate", "gradient_norm", "tokens_per_s", "eta_s", "trained_tokens"}
    assert all(wanted <= step.keys() for step in steps)
    assert steps[-1]["epoch"] == 6
    assert steps[-1]["eta_s"] == 0
    assert [v["step"] for v in data["validation"]] == [2, 4, 6, 8, 10, 12]
    assert data["best_step"] < 12, "validation got better to the end, so it proves nothing"
    assert data["best_step"] == min(data["validation"], key=lambda v: v["loss"])["step"]
    assert data["metrics"][1]["validation_loss"] == data["validation"][0]["loss"]
    assert data["steps"] == 12
    assert data["peak_memory_bytes"] > 1e8
    assert set(data["phases"]) == {"load_s", "train_s", "validate_s", "publish_s"}


def test_the_gradient_norm_is_told_as_it_was_before_clipping(base: Path, tmp_path: Path) -> None:
    norms = []
    for limit in (1e-3, 1000.0):
        events = Events()
        desk(tmp_path / str(limit), base, FACTS, told=recipe(max_gradient_norm=limit)).run(events, interval_s=1e9)
        norms.append(events.of("STEP")[0]["gradient_norm"])
    assert norms[0] == norms[1] > 1e-3


def test_without_validation_rows_the_last_weights_are_published(base: Path, tmp_path: Path) -> None:
    data = desk(tmp_path, base, FACTS).run(Events(), interval_s=1e9).data
    assert (data["best_step"], data["steps"], data["validation"]) == (2, 2, [])


def test_a_published_job_is_not_worked_on_again(base: Path, tmp_path: Path) -> None:
    job, events = desk(tmp_path, base, FACTS), Events()
    first = job.run(Events(), interval_s=1e9)
    assert job.run(events, number=2) == first
    assert [kind for kind, _, _ in events.events] == ["PUBLISHED"]


def test_a_loss_that_is_not_finite_ends_the_job_with_what_to_do(base: Path, tmp_path: Path) -> None:
    told = recipe(learning_rate=1e30, epochs=5, schedule="constant", warmup_fraction=0.0)
    with pytest.raises(InvalidInput, match="lower the learning rate") as caught:
        desk(tmp_path, base, FACTS, told=told).run(Events())
    assert caught.value.reason == "LOSS_NOT_FINITE"


def test_a_validation_loss_that_is_not_finite_ends_the_job_too(base: Path, tmp_path: Path) -> None:
    one_step = {"batch_size": len(FACTS), "schedule": "constant", "warmup_fraction": 0.0}
    told = recipe(learning_rate=1e30, **one_step)  # its own loss is finite; what it leaves behind has none
    with pytest.raises(InvalidInput, match=r"validation loss is nan.* lower the learning rate") as caught:
        desk(tmp_path, base, FACTS, FACTS, told).run(Events())
    assert caught.value.reason == "LOSS_NOT_FINITE"
    assert caught.value.metadata["step"] == "1"


def test_a_recipe_that_nobody_gave_trains_a_base_whose_projections_have_other_names(tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path / "base", "phi3")
    config = json.loads((base / "config.json").read_text())
    told, _ = resolve({"max_length": 128}, train_rows=len(FACTS), base_config=config)
    assert told.target_modules == ("all-linear",)
    job = desk(tmp_path, base, FACTS, told=dataclasses.replace(told, epochs=1))
    published = fetch_folder(job.store, job.run(Events(), interval_s=1e9), tmp_path / "published")
    names = json.loads((published / "adapter_config.json").read_text())["target_modules"]
    assert names == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]  # names that a server can look up, and no lm_head


def test_unknown_target_modules_are_named_beside_those_that_exist(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj") as caught:
        desk(tmp_path, base, FACTS, told=recipe(target_modules=("q_proj", "c_attn", "lm_head"))).run(Events())
    assert [v.description.split(":")[0] for v in caught.value.violations] == ["c_attn", "lm_head"]


def test_rows_of_both_parts_that_are_too_long_are_told_at_once(base: Path, tmp_path: Path) -> None:
    long = chat("nobody answered my letter " * 20, "one")
    with pytest.raises(InvalidInput) as caught:
        desk(tmp_path, base, [*FACTS, long], [long], recipe(max_length=50)).run(Events())
    assert [v.field for v in caught.value.violations] == ["train[7]", "validation[1]"]


def test_a_stop_is_obeyed_after_the_step(base: Path, tmp_path: Path) -> None:
    events = Events()
    with pytest.raises(Stopped):
        desk(tmp_path, base, FACTS, told=recipe(epochs=5)).run(events, stop=lambda: len(events.of("STEP")) == 3, interval_s=1e9)
    assert len(events.of("STEP")) == 3
    assert events.of("CHECKPOINTED") == [{"step": 3}]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_follows_its_closed_form(schedule: str) -> None:
    told = recipe(learning_rate=0.4, warmup_fraction=0.2, schedule=schedule)
    rates = [learning_rate(told, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    half, last = {"cosine": (0.2, 0.2 * (1 + math.cos(math.pi * 15 / 16))), "linear": (0.2, 0.025), "constant": (0.4, 0.4)}[
        schedule
    ]
    assert rates[12] == pytest.approx(half)
    assert rates[19] == pytest.approx(last)


def test_dropout_acts_in_training_and_not_in_validation(base: Path, tmp_path: Path) -> None:
    told = recipe(dropout=0.5, learning_rate=1e-2)
    data = desk(tmp_path / "a", base, FACTS, FACTS, told).run(Events(), interval_s=1e9).data
    again = desk(tmp_path / "b", base, FACTS, FACTS, told).run(Events(), interval_s=1e9).data
    plain = desk(tmp_path / "c", base, FACTS, FACTS, recipe(learning_rate=1e-2)).run(Events(), interval_s=1e9).data
    losses = [[metric["train_loss"] for metric in d["metrics"]] for d in (data, again, plain)]
    assert losses[0] == losses[1]
    assert losses[0][1] != losses[2][1]
    assert torch.isfinite(torch.tensor(losses)).all()
