"""The packed step is the padded step, the mean is over tokens, and what can't be packed isn't."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.common.backends.object_store.local import LocalObjectStore
from services.trainer.worker import loop, model
from services.trainer.worker.batches import Row
from services.trainer.worker.loop import Rows, Shelf
from services.trainer.worker.model import PACKABLE_TYPES, Learner
from tests.learning.builders import Events, learner_of, recipe, rows_of, uneven_chats
from tests.tiny_model import ARCHITECTURES, build_tiny_base

TARGETS = {"phi3": ("qkv_proj", "o_proj")}


def loss_and_gradients(learner: Learner, rows: list[Row]) -> tuple[float, dict[str, Tensor]]:
    """One step as the loop does it."""
    count, total = sum(row.loss_count for row in rows), 0.0
    for group in learner.divide(rows):
        loss = learner.token_losses(group).sum() / count
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad.clone() for name, p in learner.adapter.items() if p.grad is not None}
    learner.model.zero_grad()
    return total, gradients


def assert_equal_gradients(ours: dict[str, Tensor], reference: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == reference.keys()
    for name, gradient in ours.items():
        assert reference[name].norm() > 0, f"{name} has no gradient, so it proves nothing"
        assert (gradient - reference[name]).norm() <= tolerance * reference[name].norm(), name


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_packed_step_equals_the_padded_step(architecture: str, tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path, architecture)
    learner, tokenizer = learner_of(base, recipe(target_modules=TARGETS.get(architecture, ("q_proj", "v_proj", "o_proj"))))
    rows = rows_of(uneven_chats(9), learner, tokenizer)
    learner.use_packing(False)
    padded_loss, padded_gradients = loss_and_gradients(learner, rows)
    learner.use_packing(True)
    packed_loss, packed_gradients = loss_and_gradients(learner, rows)
    assert packed_loss == pytest.approx(padded_loss, rel=1e-5)
    assert_equal_gradients(packed_gradients, padded_gradients, 1e-5)


def test_every_architecture_that_may_be_packed_is_proven_here() -> None:
    assert set(ARCHITECTURES) == PACKABLE_TYPES


def test_a_row_that_saw_its_neighbour_would_be_noticed(base: Path) -> None:
    learner, tokenizer = learner_of(base)
    rows = rows_of(uneven_chats(4), learner, tokenizer)
    assert learner.disagreement(rows) < model.AGREEMENT[torch.float32] / 100
    everything = [Row(row.ids, (True,) * len(row.ids)) for row in rows]
    joined = Row(sum((row.ids for row in rows), ()), sum(((False, *row.has_loss[1:]) for row in everything), ()))
    learner.use_packing(True)
    difference = (learner.token_losses([joined]) - learner.token_losses(everything)).abs().mean()
    assert difference > model.AGREEMENT[torch.bfloat16]


def test_the_step_is_the_mean_over_its_tokens_however_it_is_divided(base: Path) -> None:
    learner, tokenizer = learner_of(base)
    learner.use_packing(True)
    rows = rows_of(uneven_chats(9), learner, tokenizer)
    whole_loss, whole_gradients = loss_and_gradients(learner, rows)
    each = [learner.token_losses([row]) for row in rows]  # one forward pass per row, by definition right
    (torch.cat(each).mean()).backward()
    by_definition = {name: p.grad.clone() for name, p in learner.adapter.items() if p.grad is not None}
    learner.model.zero_grad()
    learner.sequence_tokens = 40
    assert len(learner.divide(rows)) > 3
    divided_loss, divided_gradients = loss_and_gradients(learner, rows)
    assert whole_loss == pytest.approx(torch.cat(each).mean().item(), rel=1e-6)
    assert divided_loss == pytest.approx(whole_loss, rel=1e-6)
    assert_equal_gradients(whole_gradients, by_definition, 1e-5)
    assert_equal_gradients(divided_gradients, by_definition, 1e-5)


def test_the_loop_itself_weighs_every_token_of_a_step_alike_however_it_divides_it(base: Path, tmp_path: Path) -> None:
    told = recipe(batch_size=9, max_gradient_norm=1e9)
    learner, tokenizer = learner_of(base, told)
    rows = rows_of(uneven_chats(9), learner, tokenizer)
    torch.cat([learner.token_losses([row]) for row in rows]).mean().backward()  # by definition right
    norm = torch.cat([p.grad.flatten() for p in learner.adapter.values() if p.grad is not None]).norm().item()
    learner.model.zero_grad()
    learner.sequence_tokens = 40
    assert len(learner.divide(rows)) > 3
    events = Events()
    loop.train(learner, Rows(rows, []), told, Shelf(LocalObjectStore(tmp_path), "c", 1), events, lambda: False)
    assert events.of("STEP")[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)


def test_our_loss_is_what_transformers_computes_from_labels(base: Path) -> None:
    learner, tokenizer = learner_of(base)
    learner.model.eval()
    for row in rows_of(uneven_chats(4), learner, tokenizer):
        labels = torch.tensor([[token if has else -100 for token, has in zip(row.ids, row.has_loss, strict=True)]])
        reference = learner.model(input_ids=torch.tensor([row.ids]), labels=labels).loss
        learner.use_packing(True)
        ours = learner.token_losses([row]).mean()
        learner.use_packing(False)
        assert ours.item() == pytest.approx(reference.item(), rel=1e-5)


def test_rows_are_padded_where_the_window_is_shorter_than_the_longest(tmp_path: Path) -> None:
    learner, tokenizer = learner_of(build_tiny_base(tmp_path, "mistral", sliding_window=24))
    rows = rows_of(uneven_chats(9), learner, tokenizer)
    assert max(len(row.ids) for row in rows) > 24
    assert "sees 24 tokens" in str(model.why_not_packed(learner, rows))
    short = [row for row in rows if len(row.ids) <= 24]
    assert model.why_not_packed(learner, short) is None


def test_rows_are_padded_where_the_architecture_is_not_verified(tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path, "gpt_neox")
    learner, tokenizer = learner_of(base, recipe(target_modules=("query_key_value",)))
    rows = rows_of(uneven_chats(3), learner, tokenizer)
    assert "not been verified for gpt_neox" in str(model.why_not_packed(learner, rows))
    assert loss_and_gradients(learner, rows)[0] > 0
