"""The same batches through TRL's SFTTrainer, the usual tool for this, give the same loss at every step.

TRL renders, masks and averages by its own code: it is given the chats and a template with a generation block, where ours
finds the answers by prefixes.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.recipe import Recipe
from services.trainer.worker import loop, model
from services.trainer.worker.batches import Messages, rows_of_step
from services.trainer.worker.loop import Rows, Shelf
from tests.learning.builders import CPU, Events, chat, desk, recipe, rows_of, uneven_chats
from tests.tiny_model import CHATML_WITH_GENERATION_BLOCK

trl = pytest.importorskip("trl", reason="needs trl, the peer that our loss is compared with: pip install 'afina[peers]'")
datasets = pytest.importorskip("datasets", reason="needs datasets, which trl reads: pip install 'afina[peers]'")

TOLERANCE = 5e-5  # TRL's chunked log-sum-exp rounds otherwise than ours; measured 2e-6 to 2e-5
TOLD = recipe(epochs=2, learning_rate=1e-3, warmup_fraction=0.0, schedule="constant", weight_decay=0.0, batch_size=4)


def chats() -> list[Messages]:
    """Chats of uneven lengths, some of several turns."""
    several = [chat("one two", "three", "four", "five six seven"), chat("it broke", "nobody answered", "the screen", "is bright")]
    return [*uneven_chats(10), *several]


def losses_of_trl(base: Path, told: Recipe, folder: Path) -> list[float]:
    """Train with TRL on our batches in our order, from our first weights."""
    learner, tokenizer = model.load(base, told, CPU, torch.float32)
    tokenizer.chat_template = CHATML_WITH_GENERATION_BLOCK
    given = chats()
    steps = told.epochs * len(given) // told.batch_size
    ordered = [given[at] for step in range(steps) for at in rows_of_step(step, len(given), told.batch_size, told.seed)]

    class InOrder(trl.SFTTrainer):  # type: ignore[misc, name-defined]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = trl.SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        assistant_only_loss=True,
        per_device_train_batch_size=told.batch_size,
        num_train_epochs=1,
        learning_rate=told.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=told.weight_decay,
        max_grad_norm=told.max_gradient_norm,
        adam_epsilon=1e-8,
        max_length=None,
        gradient_checkpointing=False,
        logging_steps=1,
        logging_strategy="steps",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=told.seed,
    )
    data = datasets.Dataset.from_list([{"messages": messages} for messages in ordered])
    trainer = InOrder(model=learner.model, args=arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def losses_of_ours(base: Path, told: Recipe, folder: Path) -> list[float]:
    """Train with our loop, packed."""
    learner, tokenizer = model.load(base, told, CPU, torch.float32)
    learner.use_packing(True)
    events, store = Events(), desk(folder, base, chats()).store
    rows = Rows(rows_of(chats(), learner, tokenizer), [])
    loop.train(learner, rows, told, Shelf(store, "checkpoints", 1, 1e9), events, lambda: False)
    return [step["train_loss"] for step in events.of("STEP")]


def test_every_steps_loss_equals_trls(base: Path, tmp_path: Path) -> None:
    reference = losses_of_trl(base, TOLD, tmp_path / "trl")
    ours = losses_of_ours(base, TOLD, tmp_path / "ours")
    assert len(ours) == len(reference) == 6
    assert reference[0] > reference[-1] > 0
    assert ours == pytest.approx(reference, rel=TOLERANCE)
