"""What the learning tests build on: a spec and a store on disk, the worker run in this process, a report that remembers."""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.manifest import Manifest, put_folder, sealed
from services.common.ports.object_store import ObjectStore
from services.trainer.recipe import Recipe
from services.trainer.worker import attempt, batches, model
from services.trainer.worker.batches import Chat, Messages, Row
from services.trainer.worker.model import Learner
from services.trainer.worker.spec import Spec
from services.trainer.worker.tokens import end_ids
from tests.tiny_model import CORPUS

CPU = torch.device("cpu")
RECIPE = Recipe(
    learning_rate=1e-2,
    epochs=1,
    batch_size=4,
    rank=8,
    alpha=16,
    dropout=0.0,
    target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    warmup_fraction=0.1,
    schedule="cosine",
    weight_decay=0.01,
    max_gradient_norm=1.0,
    max_length=512,
    validation_interval_steps=2,
    seed=0,
)
WORDS = [word for sentence in CORPUS[2:5] for word in sentence.split()]


def recipe(**changes: Any) -> Recipe:
    """Return the usual recipe, changed."""
    return dataclasses.replace(RECIPE, **changes)


def chat(*turns: str) -> Messages:
    """Return a chat of user and assistant by turns."""
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)]


def uneven_chats(count: int) -> list[Messages]:
    """Return chats whose questions and answers differ widely in length, the same every time."""
    chats = []
    for at in range(count):
        question = " ".join(WORDS[(at * 7 + i) % len(WORDS)] for i in range(1 + at * 5 % 23))
        answer = " ".join(WORDS[(at * 3 + i) % len(WORDS)] for i in range(1 + at * 3 % 7))
        chats.append(chat(question, answer))
    return chats


def learner_of(base: Path, told: Recipe = RECIPE, dtype: torch.dtype = torch.float32) -> tuple[Learner, Any]:
    """Load a base with a new adapter whose second half is not zero, so that every part of it gets a gradient."""
    learner, tokenizer = model.load(base, told, CPU, dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in learner.adapter.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return learner, tokenizer


def rows_of(chats: Sequence[Messages], learner: Learner, tokenizer: Any) -> list[Row]:
    """Encode chats for a learner."""
    ends = end_ids(Path(tokenizer.name_or_path), tokenizer)
    return batches.encode_rows("train", [Chat(messages) for messages in chats], tokenizer, ends, 512)


class Events:
    """A report that remembers, and may do something at a step."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self._at_step = at_step

    def __call__(self, type: str, message: str, data: Mapping[str, Any] | None = None, level: str = "INFO") -> None:
        self.events.append((type, message, dict(data or {})))
        if type == "STEP":
            self._at_step(self.events[-1][2]["step"])

    def of(self, type: str) -> list[dict[str, Any]]:
        """Return the data of all events of a type."""
        return [data for kind, _, data in self.events if kind == type]


@dataclasses.dataclass
class Desk:
    """A job as the trainer would hand it out: its store, its spec, a cache for bases."""

    store: ObjectStore
    cache: Path
    spec: Spec

    def run(self, events: Events, number: int = 1, stop: Callable[[], bool] = lambda: False, interval_s: float = 0.0) -> Manifest:
        """Run an attempt in this process, with a checkpoint after every step, and return what it published."""
        spec = dataclasses.replace(self.spec, attempt=number)
        attempt.run(spec, self.store, self.cache, events, stop, interval_s)
        return Manifest.from_json(self.store.read(spec.manifest_key))


def desk(
    folder: Path,
    base: Path,
    train: Sequence[Messages],
    validation: Sequence[Messages] = (),
    told: Recipe = RECIPE,
    store: ObjectStore | None = None,
) -> Desk:
    """Put base and rows into a store, a new one unless told, and write the spec of a first attempt."""
    store = store or LocalObjectStore(folder / "store")
    manifest = put_folder(store, "bases", base, "base", {})
    key = f"manifests/bases/{manifest.digest}.json"
    store.commit(key, manifest.to_json())
    document = {
        "job": "projects/default/fineTuningJobs/ftjob-1",
        "attempt": 1,
        "project": "default",
        "base": {"manifest_key": key, "digest": manifest.digest, "name": "models/tiny", "public_id": "Tiny"},
        "dataset": {"name": "d", "digest": "d" * 64, "train": part_of(store, train), "validation": part_of(store, validation)},
        "recipe": told.to_document(),
        "result": {"prefix": "jobs/1/files", "manifest_key": "jobs/1/manifest.json", "checkpoint_prefix": "jobs/1/checkpoints"},
    }
    store.commit("jobs/1/spec-1.json", sealed(document))
    return Desk(store, folder / "cache", Spec.from_json(sealed(document)))


def part_of(store: ObjectStore, chats: Sequence[Messages]) -> dict[str, Any] | None:
    """Put rows as a part of a dataset and return what a spec says of it; None where there are none."""
    if not chats:
        return None
    lines = b"".join(json.dumps({"messages": messages}).encode() + b"\n" for messages in chats)
    artifact = store.put("datasets", io.BytesIO(lines))
    return {**dataclasses.asdict(artifact), "row_count": len(chats)}
