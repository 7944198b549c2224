"""One attempt at one job, from its spec to its manifest: load, train, publish."""

import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.common.errors import ArtifactNotFound, InvalidInput
from services.common.ports.manifest import Manifest, fetch_folder, put_folder
from services.common.ports.object_store import ObjectStore
from services.trainer.provenance import code, version_of
from services.trainer.worker import batches, loop, model, publish
from services.trainer.worker.batches import Chat, Messages
from services.trainer.worker.checkpoint import Progress
from services.trainer.worker.golden import GOLDEN_TOKENS, choose_golden
from services.trainer.worker.loop import Report, Rows, Shelf, Stopped
from services.trainer.worker.model import Learner
from services.trainer.worker.spec import Spec
from services.trainer.worker.tokens import end_ids


@dataclass(frozen=True)
class Loaded:
    """All that training needs, in memory."""

    base_folder: Path
    learner: Learner
    tokenizer: Any
    rows: Rows
    chats: list[Messages]  # validation rows first: the golden answers should not be learned by heart
    load_s: float


def run(
    spec: Spec, store: ObjectStore, cache: Path, report: Report, is_stop_requested: Callable[[], bool], interval_s: float
) -> None:
    """Work until the manifest is committed. Idempotent: nothing is done where it is already.

    Raises: Stopped (with a checkpoint), InvalidInput (it can't work as it was asked for).
    """
    try:
        store.head(spec.manifest_key)
    except ArtifactNotFound:
        pass
    else:
        report("PUBLISHED", "Another attempt has published already.", {"manifest_key": spec.manifest_key})
        return
    loaded = load(spec, store, cache, report, is_stop_requested)
    shelf = Shelf(store, spec.checkpoint_prefix, spec.attempt, interval_s)
    progress, published = loop.train(loaded.learner, loaded.rows, spec.recipe, shelf, report, is_stop_requested)
    _publish(spec, store, loaded, progress, published, report)


def load(
    spec: Spec, store: ObjectStore, cache: Path, report: Report, is_stop_requested: Callable[[], bool] = lambda: False
) -> Loaded:
    """Bring base and rows here and choose how to compute.

    Raises: InvalidInput; Stopped (before the base is loaded, which may take longer than one is given to leave).
    """
    begin_s = time.monotonic()
    folder = fetch_folder(store, Manifest.from_json(store.read(spec.base["manifest_key"])), cache)
    if is_stop_requested():
        raise Stopped
    device = model.choose_device()
    dtype = model.choose_dtype(device)
    learner, tokenizer = model.load(folder, spec.recipe, device, dtype, spec.chat_template)
    train, validation = (read_chats(store, spec, part) for part in ("train", "validation"))
    rows = _encode(spec, train, validation, learner, tokenizer, end_ids(folder, tokenizer))
    reason = model.why_not_packed(learner, rows.train + rows.validation)
    learner.use_packing(reason is None)
    if reason is not None:
        report("PADDED", f"Rows are padded, which is slower: {reason}.", {"why": reason}, level="WARNING")
    load_s = time.monotonic() - begin_s
    facts = {"train_rows": len(rows.train), "validation_rows": len(rows.validation), **_machine(learner)}
    text = f"Base and {len(rows.train)} rows are loaded; training on {device.type} in {facts['dtype']}."
    report("LOADED", text, {**facts, "is_packing": learner.is_packing, "load_s": load_s})
    return Loaded(folder, learner, tokenizer, rows, [chat.messages for chat in (*validation, *train)], load_s)


def read_chats(store: ObjectStore, spec: Spec, part: str) -> list[Chat]:
    """Return the chats of a part of the dataset; none for a part that is empty. Raises: InvalidInput (a bit has flipped)."""
    artifact = spec.part(part)
    if artifact is None:
        return []
    rows = [json.loads(line) for line in store.read_artifact(artifact).split(b"\n") if line.strip()]
    return [Chat(row["messages"], row.get("tools")) for row in rows]


def _encode(spec: Spec, train: list[Chat], validation: list[Chat], learner: Learner, tokenizer: Any, ends: set[int]) -> Rows:
    """Encode both parts and report the mistakes of both at once."""
    base = learner.model.get_base_model()
    max_length = min(spec.recipe.max_length, getattr(base.config, "max_position_embeddings", spec.recipe.max_length))
    encoded, violations = {}, []
    for part, chats in (("train", train), ("validation", validation)):
        try:
            encoded[part] = batches.encode_rows(part, chats, tokenizer, ends, max_length)
        except InvalidInput as error:
            violations += error.violations
    if violations:
        raise InvalidInput(
            f"{len(violations)} rows can't be trained on; each is listed.", reason="ROWS_INVALID", violations=violations
        )
    return Rows(encoded["train"], encoded["validation"])


def _publish(
    spec: Spec,
    store: ObjectStore,
    loaded: Loaded,
    progress: Progress,
    published: Mapping[int, Mapping[str, Tensor]],
    report: Report,
) -> None:
    """Write the result and the checkpoints beside it, each a folder with golden answers; the result's manifest comes last."""
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="afina-adapter-") as scratch:
        folder, public_id = Path(scratch, "result"), spec.base["public_id"]
        publish.write_adapter(loaded.learner, folder, public_id)  # it holds the best weights now
        folders = {step: Path(scratch, f"step-{step}") for step in published}
        for step, weights in published.items():
            loaded.learner.load_adapter(weights)
            publish.write_adapter(loaded.learner, folders[step], public_id)
        loaded.learner.release()  # the reference is a model of its own, in fp32
        publish.write_golden(
            [folder, *folders.values()],
            loaded.base_folder,
            spec.base["digest"],
            choose_golden(loaded.chats, loaded.tokenizer, _golden_tokens(spec)),
            loaded.tokenizer,
            loaded.learner.device,
        )
        manifest = put_folder(store, spec.prefix, folder, "adapter", {})
        checkpoints = [_publish_checkpoint(spec, store, loaded, progress, step, folders[step]) for step in sorted(folders)]
    phases = {"load_s": loaded.load_s, "train_s": progress.train_s, "validate_s": progress.validate_s}
    phases["publish_s"] = time.monotonic() - begin_s
    data = {
        **_provenance(spec, loaded),
        "best_step": progress.best_step,
        "steps": progress.step,
        "trained_tokens": progress.trained_tokens,
        "metrics": progress.metrics,
        "validation": progress.validation,
        "published_checkpoints": checkpoints,
        "phases": phases,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts KiB
    }
    is_first = store.commit(spec.manifest_key, Manifest(manifest.kind, manifest.files, data).to_json())
    text = f"The adapter of step {progress.best_step} is published." if is_first else "Another attempt has published already."
    report("PUBLISHED", text, {"manifest_key": spec.manifest_key, "digest": manifest.digest, **phases})


def _golden_tokens(spec: Spec) -> int:
    """How long a golden chat may be: the server that will be asked for one more token has to take it."""
    return min(GOLDEN_TOKENS, int(spec.base.get("max_length", GOLDEN_TOKENS + 1)) - 1)


def _publish_checkpoint(
    spec: Spec, store: ObjectStore, loaded: Loaded, progress: Progress, step: int, folder: Path
) -> dict[str, Any]:
    """Commit the adapter of a step under its own key, and return what the result's manifest says of it."""
    metrics = progress.metrics[step - 1]
    manifest = put_folder(store, spec.prefix, folder, "adapter", {})
    data = {**_provenance(spec, loaded), "steps": step, "metrics": [metrics]}
    key = spec.published_key(step)
    store.commit(key, Manifest(manifest.kind, manifest.files, data).to_json())
    return {"step": step, "manifest_key": key, "metrics": metrics}


def _provenance(spec: Spec, loaded: Loaded) -> dict[str, Any]:
    return {
        "job": spec.job,
        "attempt": spec.attempt,
        "base": spec.base,
        "dataset": {key: spec.dataset[key] for key in ("name", "digest")},
        "recipe": spec.recipe.to_document(),
        "environment": _environment(loaded.learner),
    }


def _machine(learner: Learner) -> dict[str, Any]:
    name = str(learner.dtype).removeprefix("torch.")
    return {"device": learner.device.type, "dtype": name, "threads": torch.get_num_threads()}


def _environment(learner: Learner) -> dict[str, Any]:
    return {
        **code(),
        "python": platform.python_version(),
        **{package: version_of(package) for package in ("torch", "transformers", "peft")},
        **_machine(learner),
    }
