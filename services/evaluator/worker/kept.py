"""What has been answered already, kept block by block, so that the attempt after a killed one asks only the rest.

A block is a run of items of one model, prompt and part. It is committed when all of it is answered, so it is there whole
or not at all; what was asked can't have changed, since the evaluation names suite and models by digest. What is kept is
what the model said: it is read and judged again.
"""

import json
from dataclasses import asdict, dataclass

from services.common.errors import ArtifactNotFound
from services.common.ports.object_store import ObjectStore
from services.evaluator.worker.spec import Spec

BLOCK = 64  # items: what a killed worker loses of each prompt is less, and 10 000 items are 157 objects


@dataclass(frozen=True)
class Said:
    """What a model said to an item: a text and why it ended, or the log-probabilities of the labels, in nats."""

    text: str = ""
    finish_reason: str = ""
    logprobs: dict[str, float] | None = None


class Kept:
    """The blocks of one evaluation in the object store."""

    def __init__(self, store: ObjectStore, spec: Spec) -> None:
        self._store, self._is_first = store, spec.attempt == 1
        self._prefix = f"{spec.manifest_key.rpartition('/')[0]}/kept/"

    def find(self, block: str) -> list[Said] | None:
        """Return what was said in a block; None where an earlier attempt did not get through it."""
        if self._is_first:
            return None
        try:
            document = self._store.read(self._prefix + block)
        except ArtifactNotFound:
            return None
        return [Said(**said) for said in json.loads(document)]

    def keep(self, block: str, said: list[Said]) -> None:
        """Keep a whole block. Idempotent: the first one stays."""
        document = json.dumps([asdict(one) for one in said], ensure_ascii=False).encode()
        self._store.commit(self._prefix + block, document)
