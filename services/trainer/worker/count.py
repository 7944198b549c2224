"""Counts the tokens of a dataset's rows as one base reads them: `python -m services.trainer.worker.count`.

The rows are encoded by `batches`, as training encodes them, so the numbers are those that training will see. It needs the
base's small files only, holds one row at a time, and commits one document: per part the length of every row in order and the
tokens that carry loss, or the error, with every row that can't be read.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common import settings, telemetry
from services.common.backends import choose
from services.common.errors import AfinaError, InvalidInput, Violation
from services.common.ports.manifest import Manifest, fetch_folder, unsealed
from services.common.ports.object_store import ObjectStore, corrupt
from services.trainer.worker import batches
from services.trainer.worker.batches import Chat
from services.trainer.worker.tokens import end_ids, load_tokenizer

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
CRASHED = 1
TOLD_VIOLATIONS = 50  # as many as a status carries; the count is told in full

_logger = logging.getLogger("afina.trainer.count")


@dataclass(frozen=True)
class Settings:
    """What the launcher tells a count."""

    spec: str = settings.setting("AFINA_SPEC", "key of the spec in the object store")
    store: str = settings.setting("OBJECT_STORE", "URL of the object store")
    cache: str = settings.setting("AFINA_CACHE", "folder for bases, fetched by digest")


def main() -> int:
    """Count, commit the numbers or the error, and return the exit code."""
    telemetry.configure("trainer.count")
    told = settings.parse(Settings)
    try:
        _count(choose.object_store(told.store), told)
    except AfinaError as error:  # the attempt is over, or the store is away
        telemetry.log(_logger, logging.ERROR, "gave up", reason=error.reason, error=error.message)
        return CRASHED
    return 0


def _count(store: ObjectStore, told: Settings) -> None:
    spec = unsealed(store.read(told.spec))
    try:
        result = count(store, spec, Path(told.cache))
    except InvalidInput as error:
        result = {"error": error.to_document()}
    store.commit(spec["result_key"], json.dumps(result).encode())
    telemetry.log(_logger, logging.INFO, "counted", dataset=spec["dataset"]["digest"], base=spec["base"]["digest"])


def count(store: ObjectStore, spec: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Return the row lengths and trained tokens of each part that has rows.

    Raises: InvalidInput (no chat template; rows that can't be encoded, each with its number).
    """
    manifest = Manifest.from_json(store.read(spec["base"]["manifest_key"]))
    small = tuple(file for file in manifest.files if not file.path.endswith(WEIGHTS))
    folder = fetch_folder(store, Manifest(manifest.kind, small, manifest.data), cache)
    tokenizer = load_tokenizer(folder, spec["chat_template"])
    ends = end_ids(folder, tokenizer)
    parts: dict[str, Any] = {}
    violations: list[Violation] = []
    violation_count = 0
    for part in ("train", "validation"):
        if spec["dataset"][part] is None:
            continue
        lengths, trained = [], 0
        for number, chat in enumerate(_chats(store, spec["dataset"][part]), start=1):
            try:
                row = batches.encode(chat, tokenizer, ends)
            except InvalidInput as error:
                violation_count += 1
                if violation_count <= TOLD_VIOLATIONS:
                    violations.append(Violation(f"{part}[{number}]", error.reason, error.message))
                continue
            lengths.append(len(row.ids))
            trained += row.loss_count
        parts[part] = {"lengths": lengths, "trained_token_count": trained}
    if violation_count:
        raise InvalidInput(
            f"{violation_count} rows can't be read by the base; the first: {violations[0].description}",
            reason="ROWS_INVALID",
            violations=violations,
            violation_count=violation_count,
        )
    return parts


def _chats(store: ObjectStore, artifact: dict[str, Any]) -> Iterator[Chat]:
    """Yield the chats as they are read, hashed on the way. Raises: InvalidInput (a bit has flipped), at the end at the latest."""
    digest = hashlib.sha256()
    with store.open(artifact["key"]) as lines:
        for line in lines:
            digest.update(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # the dataset was written as JSON
                raise corrupt(artifact["key"]) from error
            yield Chat(row["messages"], row.get("tools"))
    if digest.hexdigest() != artifact["sha256"]:
        raise corrupt(artifact["key"])


if __name__ == "__main__":
    sys.exit(main())
