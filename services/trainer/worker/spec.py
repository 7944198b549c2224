"""What an attempt is told: the job's spec, one JSON document in the object store."""

from dataclasses import dataclass
from typing import Any

from services.common.ports.manifest import unsealed
from services.common.ports.object_store import Artifact
from services.trainer.recipe import Recipe


@dataclass(frozen=True)
class Spec:
    """One attempt at one job. `base` and `dataset` are passed on to the manifest as they are.

    `chat_template` is what the catalogue declares for the base; empty means the tokenizer's own.
    """

    job: str
    attempt: int
    base: dict[str, Any]
    dataset: dict[str, Any]
    recipe: Recipe
    prefix: str
    manifest_key: str
    checkpoint_prefix: str
    chat_template: str = ""

    @classmethod
    def from_json(cls, document: bytes) -> "Spec":
        """Read what the trainer wrote. Raises: InvalidInput (it is no longer that)."""
        raw = unsealed(document)
        return cls(
            job=raw["job"],
            attempt=raw["attempt"],
            base=raw["base"],
            dataset=raw["dataset"],
            recipe=Recipe.from_document(raw["recipe"]),
            prefix=raw["result"]["prefix"],
            manifest_key=raw["result"]["manifest_key"],
            checkpoint_prefix=raw["result"]["checkpoint_prefix"],
            chat_template=raw.get("chat_template", ""),
        )

    def part(self, name: str) -> Artifact | None:
        """Return the rows of `train`, `validation` or `test`; None for a part that is empty."""
        told = self.dataset.get(name)
        return Artifact(told["key"], told["size_bytes"], told["sha256"]) if told else None

    def published_key(self, step: int) -> str:
        """Where the adapter of a step is committed that is published beside the result; one for all attempts."""
        return f"{self.manifest_key.rpartition('/')[0]}/checkpoints-published/{step}.json"

    @property
    def error_key(self) -> str:
        """Where the attempt says why it can't work."""
        return f"{self.manifest_key.rpartition('/')[0]}/error-{self.attempt}.json"
