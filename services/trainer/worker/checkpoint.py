"""A checkpoint: all that the next attempt needs to go on as if nothing had happened.

Adapter, AdamW's averages, random states, and the progress with the cursor (the order of rows and the learning rate are
functions of the step, so the step is enough). Tensors are safetensors and the rest JSON: a checkpoint is data, and
reading one runs no code.

The checkpoint of a step by an attempt is `{step}-{attempt}.json` beside the folder `{step}-{attempt}/`. The manifest is
committed last and deleted first, so half of a checkpoint can't be seen. Two are kept, and share no object: weights that
both hold, such as the best so far, are written twice, or one flipped bit would take both. One that is no longer what was
written is discarded when it is found, or it would stand for one of the two that are kept.

What has to be the same for the same bits (threads, instructions, number format, layout, version of torch) is kept too;
where it differs, training goes on and an event says so.

When changing this: `python -m tests.learning.kill_points --all` kills an attempt before each of its writes.
"""

import dataclasses
import io
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from services.common.errors import ArtifactNotFound, InvalidInput
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import ObjectStore
from services.trainer.worker.model import Learner

KIND = "checkpoint"
KEPT = 2
PUBLISHED = "published-"
FOLDER = re.compile(r"/\d{8,}-\d{4,}$")
MANIFEST = re.compile(r"/\d{8,}-\d{4,}\.json$")


@dataclass
class Progress:
    """How far training has come, and all that it will tell in the end. Plain JSON."""

    step: int = 0  # optimiser steps that are done: the cursor
    trained_tokens: int = 0  # of all rows that were learned from, prompts included
    metrics: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_loss: float | None = None
    train_s: float = 0.0
    validate_s: float = 0.0


@dataclass
class Kept:
    """Weights beside those that learn: the best so far, and by step those that will be published beside the result."""

    best: dict[str, Tensor] | None = None
    published: dict[int, dict[str, Tensor]] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """What was saved."""

    progress: Progress
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random_states: dict[str, Tensor]
    python_random: list[Any]
    machine: Mapping[str, Any]
    kept: Kept


def save(
    store: ObjectStore,
    prefix: str,
    attempt: int,
    progress: Progress,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    kept: Kept,
) -> Manifest:
    """Write a checkpoint and forget all but the last two. Raises: Unavailable."""
    state = {"progress": dataclasses.asdict(progress), "python_random": random.getstate(), "machine": machine(learner)}
    files = {
        "adapter.safetensors": tensors_to_bytes(learner.copy_adapter()),
        "optimizer.safetensors": tensors_to_bytes(_optimizer_tensors(learner, optimizer)),
        "random.safetensors": tensors_to_bytes(_random_states()),
        "state.json": json.dumps(state).encode(),
    }
    if kept.best is not None:
        files["best.safetensors"] = tensors_to_bytes(kept.best)
    for step, weights in kept.published.items():
        files[f"{PUBLISHED}{step}.safetensors"] = tensors_to_bytes(weights)
    name = f"{prefix}/{progress.step:08d}-{attempt:04d}"
    placed = [ManifestFile(path, store.put(name, io.BytesIO(data))) for path, data in files.items()]
    manifest = Manifest(KIND, tuple(placed), {"step": progress.step, "attempt": attempt})
    store.commit(f"{name}.json", manifest.to_json())
    forget_older(store, prefix, attempt)
    return manifest


def newest(store: ObjectStore, prefix: str) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose bytes are what they were, and why each newer one was discarded.

    Raises: Unavailable (the store is away: nothing is discarded then).
    """
    rejected: list[str] = []
    for name in _names(store, prefix):
        try:
            manifest = Manifest.from_json(store.read(f"{name}.json"))
            step, attempt = _step_and_attempt(name)
            if manifest.data != {"step": step, "attempt": attempt}:
                raise InvalidInput("Its manifest is that of another.", reason="CHECKPOINT_INVALID")
            return _read(store, manifest), rejected
        except (ArtifactNotFound, InvalidInput) as error:
            rejected.append(f"{name}.json: {error.message}")
            _discard(store, name)
    return None, rejected


def restore(checkpoint: Checkpoint, learner: Learner, optimizer: torch.optim.Optimizer) -> None:
    """Put everything back where it was."""
    learner.load_adapter(checkpoint.adapter)
    parameters = learner.adapter
    for path, value in checkpoint.optimizer.items():
        key, _, name = path.partition("/")
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.to(parameter.device if key != "step" else "cpu")  # AdamW counts on the CPU
    torch.set_rng_state(checkpoint.random_states["cpu"])
    if "cuda" in checkpoint.random_states and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint.random_states["cuda"])
    version, words, gauss = checkpoint.python_random
    random.setstate((version, tuple(words), gauss))


def forget_older(store: ObjectStore, prefix: str, attempt: int) -> None:
    """Discard all but the last two, then what belongs to none: an attempt that was killed while it wrote left that.

    What a later attempt has written is its own: this one may have been replaced and not know it yet.
    """
    names = _names(store, prefix)
    for name in names[KEPT:]:
        _discard(store, name)
    for key in list(store.list(f"{prefix}/")):
        name = key.rpartition("/")[0]
        if name not in names[:KEPT] and FOLDER.search(name) and _step_and_attempt(name)[1] <= attempt:
            store.delete(key)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between two machines, as `machine` describes them."""
    return [f"{name} {now[name]} instead of {before.get(name)}" for name in now if before.get(name) != now[name]]


def machine(learner: Learner) -> dict[str, Any]:
    """Return what has to be the same for the same bits."""
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if learner.device.type == "cuda" else learner.device.type,
        "dtype": str(learner.dtype).removeprefix("torch."),
        "packing": learner.is_packing,
        "torch": torch.__version__,
    }


def _names(store: ObjectStore, prefix: str) -> list[str]:
    """Return the keys of all checkpoints' manifests without their suffix, the newest first."""
    return sorted((key.removesuffix(".json") for key in store.list(f"{prefix}/") if MANIFEST.search(key)), reverse=True)


def _step_and_attempt(name: str) -> tuple[int, int]:
    step, _, attempt = name.rpartition("/")[2].partition("-")
    return int(step), int(attempt)


def _discard(store: ObjectStore, name: str) -> None:
    """Delete the manifest, then the files."""
    store.delete(f"{name}.json")
    for key in list(store.list(f"{name}/")):
        store.delete(key)


def _read(store: ObjectStore, manifest: Manifest) -> Checkpoint:
    """Read and verify every file. Raises: ArtifactNotFound, InvalidInput."""
    files = {file.path: store.read_artifact(file.artifact) for file in manifest.files}
    try:
        state = json.loads(files["state.json"])
        return Checkpoint(
            progress=Progress(**state["progress"]),
            adapter=tensors_from_bytes(files["adapter.safetensors"]),
            optimizer=tensors_from_bytes(files["optimizer.safetensors"]),
            random_states=tensors_from_bytes(files["random.safetensors"]),
            python_random=state["python_random"],
            machine=state.get("machine", {}),  # of an earlier version: nothing is known
            kept=_kept(files),
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InvalidInput(f"This is not a checkpoint of this version: {error!r}.", reason="CHECKPOINT_INVALID") from error


def _kept(files: dict[str, bytes]) -> Kept:
    best = tensors_from_bytes(files["best.safetensors"]) if "best.safetensors" in files else None
    steps = sorted(int(p.removeprefix(PUBLISHED).removesuffix(".safetensors")) for p in files if p.startswith(PUBLISHED))
    return Kept(best, {step: tensors_from_bytes(files[f"{PUBLISHED}{step}.safetensors"]) for step in steps})


def _optimizer_tensors(learner: Learner, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return AdamW's state by parameter name; empty before the first step."""
    tensors = {}
    for name, parameter in learner.adapter.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value.detach().cpu()
    return tensors


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
