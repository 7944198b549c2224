"""The training loop. It may be read from top to bottom; there is one, whatever the recipe.

One step takes `batch_size` rows. Its loss is the mean over their trained tokens, however the rows are divided into
forward passes: each pass adds its sum divided by the count of the whole step, so a long row weighs what its tokens weigh.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from services.common.errors import InvalidInput, Unavailable
from services.common.ports.object_store import ObjectStore
from services.trainer.recipe import Recipe
from services.trainer.worker import checkpoint
from services.trainer.worker.batches import Row, rows_of_step, steps_per_epoch
from services.trainer.worker.checkpoint import Kept, Progress
from services.trainer.worker.model import Learner


class Report(Protocol):
    """Takes an event; `ProgressReporter.event` is one."""

    def __call__(self, type: str, message: str, data: Mapping[str, Any] | None = None, level: str = "INFO") -> None:
        """Note that something happened."""


class Stopped(Exception):
    """The attempt was asked to stop; its checkpoint is saved."""


@dataclass(frozen=True)
class Rows:
    """What is learned from and what is measured on."""

    train: list[Row]
    validation: list[Row]


@dataclass(frozen=True)
class Shelf:
    """Where checkpoints are put, and how often."""

    store: ObjectStore
    prefix: str
    attempt: int
    interval_s: float = 30.0


def train(
    learner: Learner, rows: Rows, recipe: Recipe, shelf: Shelf, report: Report, is_stop_requested: Callable[[], bool]
) -> tuple[Progress, dict[int, dict[str, torch.Tensor]]]:
    """Train to the end, from the newest checkpoint if there is one, and leave the best weights in the learner.

    Returns: the progress, and by step the weights that are to be published beside the best.
    Raises: Stopped (with a checkpoint), InvalidInput (the loss is not finite).
    """
    epoch_steps = steps_per_epoch(len(rows.train), recipe.batch_size)
    total_steps = recipe.epochs * epoch_steps
    parameters = list(learner.adapter.values())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    progress, kept = _resume(learner, optimizer, shelf, report)
    first_step, begin_s, saved_s = progress.step, time.monotonic(), time.monotonic()

    while progress.step < total_steps and not has_lost_patience(recipe, progress):
        if is_stop_requested():
            checkpoint.save(shelf.store, shelf.prefix, shelf.attempt, progress, learner, optimizer, kept)
            report("CHECKPOINTED", f"Stopped at step {progress.step} of {total_steps} on request.", {"step": progress.step})
            raise Stopped

        step_begin_s = time.monotonic()
        taken = [rows.train[at] for at in rows_of_step(progress.step, len(rows.train), recipe.batch_size, recipe.seed)]
        loss_count = sum(row.loss_count for row in taken)
        token_count = sum(len(row.ids) for row in taken)
        rate = learning_rate(recipe, progress.step, total_steps)

        train_loss, hit_count = 0.0, 0
        for group in learner.divide(taken):
            losses, hits = learner.token_scores(group)
            loss = losses.sum() / loss_count
            loss.backward()
            train_loss += loss.item()
            hit_count += int(hits.sum())
        gradient_norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.max_gradient_norm))  # as it was before
        _require_finite(progress.step + 1, loss=train_loss, gradient_norm=gradient_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()

        progress.step += 1
        progress.trained_tokens += token_count
        step_s = time.monotonic() - step_begin_s
        progress.train_s += step_s
        metric: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.step * recipe.epochs / total_steps,
            "train_loss": train_loss,
            "train_accuracy": hit_count / loss_count,
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "tokens_per_s": token_count / step_s,
        }

        is_last = progress.step == total_steps
        is_published = recipe.published_checkpoint_count > 0 and progress.step % epoch_steps == 0
        if rows.validation and (is_last or is_published or progress.step % recipe.validation_interval_steps == 0):
            validate_begin_s = time.monotonic()
            metric["validation_loss"], metric["validation_accuracy"] = learner.measure(rows.validation)
            _require_finite(progress.step, validation_loss=metric["validation_loss"])
            progress.validate_s += time.monotonic() - validate_begin_s
            progress.validation.append({"step": progress.step, "loss": metric["validation_loss"]})
            if progress.best_loss is None or metric["validation_loss"] < progress.best_loss:
                progress.best_step, progress.best_loss = progress.step, metric["validation_loss"]
                kept.best = learner.copy_adapter()
            best = {"best_step": progress.best_step, "best_loss": progress.best_loss}
            text = f"Validation loss {metric['validation_loss']:.4f} after step {progress.step}."
            report("VALIDATED", text, {"step": progress.step, "validation_loss": metric["validation_loss"], **best})

        progress.metrics.append(metric)
        if is_published:
            kept.published[progress.step] = learner.copy_adapter()
            for step in sorted(kept.published)[: -recipe.published_checkpoint_count]:
                del kept.published[step]
        eta_s = (time.monotonic() - begin_s) / (progress.step - first_step) * (total_steps - progress.step)
        text = f"Step {progress.step} of {total_steps}: loss {train_loss:.4f}."
        counts = {"total_steps": total_steps, "eta_s": eta_s, "trained_tokens": progress.trained_tokens}
        report("STEP", text, {**metric, **counts})

        if not is_last and time.monotonic() - saved_s >= shelf.interval_s:
            try:
                checkpoint.save(shelf.store, shelf.prefix, shelf.attempt, progress, learner, optimizer, kept)
                report("CHECKPOINTED", f"Saved a checkpoint after step {progress.step}.", {"step": progress.step})
            except Unavailable as error:  # to end now would lose what has been learned since the last one
                text = f"Could not save a checkpoint after step {progress.step}; training goes on. {error.message}"
                report("CHECKPOINT_FAILED", text, {"step": progress.step}, level="WARNING")
            saved_s = time.monotonic()

    if progress.step < total_steps:
        text = (
            f"Stopped early, after step {progress.step} of {total_steps}: {recipe.early_stopping_patience} validations in a row"
        )
        text += f" found no lower loss than the {progress.best_loss or math.nan:.4f} after step {progress.best_step}."
        report("STOPPED_EARLY", text, {"step": progress.step, "total_steps": total_steps, "best_step": progress.best_step})
    if kept.best is None:
        progress.best_step = progress.step
    else:
        learner.load_adapter(kept.best)
    return progress, kept.published


def has_lost_patience(recipe: Recipe, progress: Progress) -> bool:
    """Whether as many validations as the recipe waits for have passed since the best one."""
    since_best = sum(measured["step"] > progress.best_step for measured in progress.validation)
    return recipe.early_stopping_patience is not None and since_best >= recipe.early_stopping_patience


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the rate of a step, counted from 0: a linear rise to the full rate, then the schedule down to 0.

    Source: transformers.optimization.get_cosine_schedule_with_warmup and its siblings, but for the warm-up, which ends
    at the full rate with its last step and does not waste its first one on a rate of 0.
    """
    warmup_steps = round(recipe.warmup_fraction * total_steps)
    if step < warmup_steps:
        return recipe.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    left = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[recipe.schedule]
    return recipe.learning_rate * left


def _resume(learner: Learner, optimizer: torch.optim.Optimizer, shelf: Shelf, report: Report) -> tuple[Progress, Kept]:
    found, rejected = checkpoint.newest(shelf.store, shelf.prefix)
    for text in rejected:
        report("CHECKPOINT_REJECTED", f"A checkpoint can't be used: {text}", level="WARNING")
    if found is None:
        if rejected:
            report("STARTED_ANEW", "No checkpoint is left that can be used; training begins with step 1.", level="WARNING")
        return Progress(), Kept()
    checkpoint.restore(found, learner, optimizer)
    checkpoint.forget_older(shelf.store, shelf.prefix, shelf.attempt)  # one that was killed did not come to it
    differing = checkpoint.differences(found.machine, checkpoint.machine(learner))
    exactly = f"but not to the last bit ({'; '.join(differing)})" if differing else "exactly"
    told = {"step": found.progress.step, "is_exact": not differing, **checkpoint.machine(learner)}
    report("RESUMED", f"Goes on {exactly} after step {found.progress.step}.", told, "WARNING" if differing else "INFO")
    return found.progress, found.kept


def _require_finite(step: int, **numbers: float) -> None:
    if all(map(math.isfinite, numbers.values())):
        return
    told = " and ".join(f"the {name.replace('_', ' ')} is {number}" for name, number in numbers.items())
    raise InvalidInput(
        f"At step {step} {told}; lower the learning rate, or its multiplier.",
        reason="LOSS_NOT_FINITE",
        metadata={"step": str(step), **{name: str(number) for name, number in numbers.items()}},
    )
