"""A checkpoint: all that the next attempt needs to go on as if nothing had happened.

Adapter, AdamW's averages, random states, and the progress with the cursor (the order of rows and the learning rate are
functions of the step, so the step is enough). Tensors are safetensors and the rest JSON: a checkpoint is data, and
reading one runs no code. The manifest is committed last, so a half-written checkpoint can't be seen; one that no longer
matches its digests is passed over for the one before.
"""

import dataclasses
import hashlib
import io
import json
import random
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
    threads: int
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
    state = {"progress": dataclasses.asdict(progress), "python_random": random.getstate(), "threads": torch.get_num_threads()}
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
    placed = [ManifestFile(path, store.put(f"{prefix}/files", io.BytesIO(data))) for path, data in files.items()]
    manifest = Manifest(KIND, tuple(placed), {"step": progress.step, "attempt": attempt})
    store.commit(f"{prefix}/{progress.step:08d}-{attempt:04d}.json", manifest.to_json())
    _forget_older(store, prefix)
    return manifest


def newest(store: ObjectStore, prefix: str) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose bytes are what they were, and why each newer one was passed over."""
    rejected: list[str] = []
    manifests = [key for key in store.list(f"{prefix}/") if key.endswith(".json")]
    for key in sorted(manifests, reverse=True):
        try:
            return _read(store, Manifest.from_json(store.read(key))), rejected
        except (ArtifactNotFound, InvalidInput) as error:
            rejected.append(f"{key}: {error.message}")
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


def _forget_older(store: ObjectStore, prefix: str) -> None:
    """Delete all but the last two manifests that can be read, then the files that those two don't name."""
    keys = list(store.list(f"{prefix}/"))
    kept: set[str] = set()
    named: set[str] = set()
    for key in sorted((key for key in keys if key.endswith(".json")), reverse=True):
        files = _files_named_by(store, key) if len(kept) < KEPT else None
        if files is None:
            store.delete(key)
        else:
            kept.add(key)
            named |= files
    for key in keys:
        if not key.endswith(".json") and key not in named:
            store.delete(key)


def _files_named_by(store: ObjectStore, key: str) -> set[str] | None:
    """Return the keys of a checkpoint's files; None for a manifest that can't be read."""
    try:
        return {file.artifact.key for file in Manifest.from_json(store.read(key)).files}
    except InvalidInput:
        return None


def _read(store: ObjectStore, manifest: Manifest) -> Checkpoint:
    """Read and verify every file. Raises: ArtifactNotFound, InvalidInput."""
    files = {}
    for file in manifest.files:
        data = store.read(file.artifact.key)
        if hashlib.sha256(data).hexdigest() != file.artifact.sha256:
            raise InvalidInput(f"{file.artifact.key} holds other bytes than its digest says.", reason="ARTIFACT_CORRUPT")
        files[file.path] = data
    try:
        state = json.loads(files["state.json"])
        return Checkpoint(
            progress=Progress(**state["progress"]),
            adapter=tensors_from_bytes(files["adapter.safetensors"]),
            optimizer=tensors_from_bytes(files["optimizer.safetensors"]),
            random_states=tensors_from_bytes(files["random.safetensors"]),
            python_random=state["python_random"],
            threads=state["threads"],
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
