"""Counting tokens: what can be asked of it, and how a count moves.

    PENDING → RUNNING → SUCCEEDED or FAILED

Rows are rendered by an errand of the launcher (`worker/count.py`), not in this program: a chat template and a tokenizer are
somebody else's program and data, and must be the very ones that training uses. An errand does not wait for the jobs before
it. Its result is committed under one key; a service that was away reads it, and what crashed is launched again.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from services.common import attempts, errors
from services.common.names import parse, project_of
from services.common.ports.database import Record
from services.common.ports.launcher import Workload
from services.common.ports.manifest import sealed
from services.common.reconcile import Change
from services.common.telemetry import trace_id
from services.trainer import provenance, token_count
from services.trainer.token_count import KIND, MAX_CRASHES, TokenCount
from services.trainer.use_cases import Trainer

PATTERN = "projects/{project}/tokenCounts/{token_count}"
LOOK_AGAIN_S = 0.5
MAX_ASKED_LENGTHS = 100


async def create_count(trainer: Trainer, parent: str, dataset: str, base_model: str) -> Record:
    """Return the count of a dataset for a base, begun if there is none. Raises: InvalidInput, NotFound (dataset or base)."""
    project = project_of(parent)
    missing = [
        errors.Violation(f"token_count.{field}", "REQUIRED", f"Give {field}: {what}.")
        for field, value, what in (("dataset", dataset, "what to count"), ("base_model", base_model, "for which base"))
        if not value
    ]
    if missing:
        raise errors.InvalidInput("Nothing can be counted: " + " ".join(v.description for v in missing), violations=missing)
    if project_of(dataset) != project:
        raise errors.NotFound(f"{parent} has no {dataset}.", metadata={"parent": parent})
    told, base = await trainer.peers.dataset(dataset), await trainer.peers.base(base_model)
    return await count_of(trainer, project, told, base, base_model)


async def count_of(
    trainer: Trainer, project: str, dataset: Mapping[str, Any], base: Mapping[str, Any], base_model: str
) -> Record:
    """Return the count of what peers told of a dataset and a base, begun if there is none or it had crashed. Idempotent."""
    code = await asyncio.to_thread(provenance.source_digest, provenance.WORKER)
    name = token_count.name_of(project, dataset["digest"], base["digest"], base.get("chat_template", ""), code)
    parts = {key: dataset[key] for key in ("name", "digest", "train", "validation")}
    fresh = TokenCount(name, dataset["name"], base_model, parts, base, trace_id=trace_id.get())
    try:
        return await trainer.database.create(KIND, name, fresh.to_document(), due_time=datetime.now(UTC))
    except errors.AlreadyExists:
        record = await trainer.database.get(KIND, name)
    known = TokenCount.from_document(record.document)
    if known.error.get("reason") == "WORKER_CRASHED":
        again = replace(known, state="PENDING", crash_count=0, error={}, end_time="")
        return await trainer.database.update(record, again.to_document(), due_time=datetime.now(UTC))
    return record


async def get_count(trainer: Trainer, name: str, max_lengths: Sequence[int] = ()) -> Record:
    """Return a count. Raises: NotFound, InvalidInput (lengths to tell the cut of)."""
    parse(PATTERN, name)
    if len(max_lengths) > MAX_ASKED_LENGTHS or any(length < 1 for length in max_lengths):
        raise errors.InvalidInput(
            f"max_lengths has at most {MAX_ASKED_LENGTHS} lengths, each at least 1 token.", reason="MAX_LENGTHS_INVALID"
        )
    return await trainer.database.get(KIND, name)


async def list_counts(trainer: Trainer, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return counts of a project, newest first."""
    project_of(parent)
    return await trainer.database.list(KIND, parent, after=after, limit=limit)


async def too_long(trainer: Trainer, count: TokenCount, max_length: int, limit: int) -> list[errors.Violation]:
    """Return a violation for each of the first rows that are longer than a maximum."""
    result = json.loads(await asyncio.to_thread(trainer.store.read, count.result_key))
    return [
        errors.Violation(
            f"{part}[{number}]",
            "ROW_TOO_LONG",
            f"Row {number} of {part} has {length} tokens, allowed are {max_length}; shorten it or raise max_length.",
        )
        for part in count.parts
        for number, length in enumerate(result[part]["lengths"], start=1)
        if length > max_length
    ][:limit]


async def reconcile_count(trainer: Trainer, record: Record) -> Change:
    """Look at a count and move it by at most one state."""
    count = TokenCount.from_document(record.document)
    result = await _result(trainer, count)
    if result is not None:
        return _ended(count, result)
    if count.state == "PENDING":
        attempt = count.attempt + 1
        await _launch(trainer, count, attempt)
        return Change(replace(count, state="RUNNING", attempt=attempt).to_document(), LOOK_AGAIN_S)
    key = f"{count.id}-{count.attempt}"
    seen = await trainer.launcher.observe(key)
    if not seen.has_ended:
        return Change(count.to_document(), LOOK_AGAIN_S)
    result = await _result(trainer, count)  # it may have come between the two looks
    if result is not None:
        return _ended(count, result)
    crash_count = count.crash_count + (seen.exit_code not in attempts.EXITS_STOPPED)
    if crash_count < MAX_CRASHES:
        return Change(replace(count, state="PENDING", crash_count=crash_count).to_document(), 0.0)
    output, _ = await trainer.launcher.logs(key)
    words = " | ".join(output.decode(errors="replace").strip().splitlines()[-3:])
    text = f"Counting the tokens ended {MAX_CRASHES} times without a result. {seen.message} Its last words: {words}"
    return Change(count.fail(errors.WrongState(text, reason="WORKER_CRASHED").to_document()).to_document(), None)


def _ended(count: TokenCount, result: Mapping[str, Any]) -> Change:
    if "error" in result:
        return Change(count.fail(result["error"]).to_document(), None)
    parts = {part: {**told, "lengths": token_count.distribution(told["lengths"])} for part, told in result.items()}
    return Change(count.succeed(parts).to_document(), None)


async def _result(trainer: Trainer, count: TokenCount) -> dict[str, Any] | None:
    try:
        document = await asyncio.to_thread(trainer.store.read, count.result_key)
    except errors.ArtifactNotFound:
        return None
    told: dict[str, Any] = json.loads(document)
    return told


async def _launch(trainer: Trainer, count: TokenCount, attempt: int) -> None:
    """Write the spec and launch; both are the same for every attempt and every replica."""
    spec_key = f"token-counts/{count.id}/spec.json"
    spec = {
        "dataset": count.dataset_spec,
        "base": count.base,
        "chat_template": count.base.get("chat_template", ""),
        "result_key": count.result_key,
    }
    await asyncio.to_thread(trainer.store.commit, spec_key, sealed(spec))
    workload = Workload(
        key=f"{count.id}-{attempt}",
        kind="errand",
        command=(sys.executable, "-m", "services.trainer.worker.count"),
        environment={
            **trainer.worker_environment,
            **trainer.store.environment(),
            "AFINA_SPEC": spec_key,
            "OBJECT_STORE": trainer.store.url,
        },
        labels={"afina.dev/token-count": count.id, "afina.dev/project": project_of(count.name)},
    )
    await trainer.launcher.launch(trainer.launcher.plan(workload))
