"""Any causal model that transformers loads learns exactly, packed or padded, and what is published is what was learned.

Windows are shorter than the rows here, layers differ in theirs, logits are capped: what a packed step could get wrong.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import InvalidInput
from services.trainer.recipe import ALL_LINEAR
from services.trainer.worker import loop, model, publish
from services.trainer.worker.batches import Row
from services.trainer.worker.loop import Rows, Shelf
from services.trainer.worker.model import Learner
from tests.learning.builders import Events, desk, learner_of, recipe, rows_of, uneven_chats
from tests.tiny_model import build_tiny_base

WINDOW = 16


@dataclass(frozen=True)
class Case:
    """An architecture, what its configuration has beyond the common sizes, and why it is padded; None: it is packed."""

    architecture: str
    config: dict[str, Any] = field(default_factory=dict)
    why_padded: str | None = None


CASES = {
    "llama": Case("llama"),
    "qwen2": Case("qwen2"),
    "qwen2, one layer of two with a window": Case(
        "qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}, "sees 16 tokens"
    ),
    "gemma": Case("gemma"),
    "gemma2, capped, with a window": Case("gemma2", {"sliding_window": WINDOW, "head_dim": 32}, "not been verified for gemma2"),
    "gemma3": Case("gemma3_text"),
    "gemma3 with a window": Case("gemma3_text", {"sliding_window": WINDOW}, "sees 16 tokens"),
    "mistral": Case("mistral"),
    "mistral with a window": Case("mistral", {"sliding_window": WINDOW}, "sees 16 tokens"),
    "gpt2, transposed layers, learned positions": Case(
        "gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}, "not been verified for gpt2"
    ),
    "bloom, no positions at all": Case("bloom", {"n_layer": 2, "n_head": 4}, "not been verified for bloom"),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def row_by_row(learner: Learner, rows: list[Row]) -> float:
    """The loss as transformers computes it from labels, of one row at a time: nothing is packed and nothing padded."""
    total = 0.0
    for row in rows:
        labels = torch.tensor([[token if has else -100 for token, has in zip(row.ids, row.has_loss, strict=True)]])
        total += learner.model(input_ids=torch.tensor([row.ids]), labels=labels).loss.item() * row.loss_count
    return total / sum(row.loss_count for row in rows)


def learns(base: Path, case: Case) -> tuple[Learner, list[Row]]:
    """A learner that computes as an attempt would have chosen."""
    told = recipe(target_modules=(ALL_LINEAR,)) if case.architecture in ("gpt2", "bloom") else recipe()
    learner, tokenizer = learner_of(base, told)
    rows = rows_of(uneven_chats(9), learner, tokenizer)
    assert max(len(row.ids) for row in rows) > 2 * WINDOW
    reason = model.why_not_packed(learner, rows)
    assert reason is None if case.why_padded is None else case.why_padded in str(reason)
    learner.use_packing(reason is None)
    return learner, rows


@each
def test_the_loss_of_a_step_is_that_of_its_rows_one_by_one(case: Case, tmp_path: Path) -> None:
    learner, rows = learns(build_tiny_base(tmp_path, case.architecture, **case.config), case)
    learner.model.eval()
    with torch.no_grad():
        losses = torch.cat([learner.token_losses(group) for group in learner.divide(rows)])
        assert len(learner.divide(rows)) < len(rows)
        learner.use_packing(False)
        assert losses.mean().item() == pytest.approx(row_by_row(learner, rows), rel=1e-5)


@each
def test_what_was_learned_is_what_peft_reads_from_the_published_folder(case: Case, tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path / "base", case.architecture, **case.config)
    learner, rows = learns(base, case)
    told = recipe(epochs=2, learning_rate=2e-2)
    shelf = Shelf(LocalObjectStore(tmp_path / "store"), "checkpoints", 1, 1e9)
    progress, _ = loop.train(learner, Rows(rows, []), told, shelf, Events(), lambda: False)
    losses = [metric["train_loss"] for metric in progress.metrics]
    assert sum(losses[3:]) < sum(losses[:3])  # the second pass over the same rows
    publish.write_adapter(learner, tmp_path / "adapter", "Tiny")
    learner.use_packing(False)
    learner.model.eval()
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if case.architecture == "gemma2":
        loaded.set_attn_implementation("eager")  # as it is trained: the fused kernel leaves the cap out
    ids = torch.tensor([max(rows, key=lambda row: len(row.ids)).ids])
    with torch.no_grad():
        plain = loaded(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(loaded, tmp_path / "adapter").eval()(input_ids=ids).logits
        assert torch.equal(theirs, learner.model(input_ids=ids).logits)
    assert not torch.allclose(theirs, plain, atol=1e-3)


def test_an_attempt_says_why_it_pads(tmp_path: Path) -> None:
    case, events = CASES["gemma3 with a window"], Events()
    base = build_tiny_base(tmp_path / "base", case.architecture, **case.config)
    desk(tmp_path, base, uneven_chats(9)).run(events, interval_s=1e9)
    assert [told["why"] for told in events.of("PADDED")] == ["its attention sees 16 tokens, and the longest row has 41"]
    assert events.of("LOADED")[0]["is_packing"] is False


def test_an_attempt_pads_where_the_self_test_finds_another_loss(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    events = Events()
    monkeypatch.setattr(model, "AGREEMENT", dict.fromkeys(model.AGREEMENT, -1.0))  # no two layouts agree as well as that
    desk(tmp_path, base, uneven_chats(9)).run(events, interval_s=1e9)
    assert "another loss than padded ones" in events.of("PADDED")[0]["why"]


def test_layers_that_can_not_be_adapted_are_refused_in_words(tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path, "mamba", state_size=8)
    with pytest.raises(InvalidInput, match="can't be adapted") as caught:
        learner_of(base, recipe(target_modules=(ALL_LINEAR,)))
    assert caught.value.violations[0].field == "recipe.target_modules"
