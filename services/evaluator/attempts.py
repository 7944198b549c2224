"""How an evaluation moves: what the reconcile loop does in each state.

    PENDING → RUNNING → SUCCEEDED      (FAILED and CANCELLED from anywhere)

An attempt is one launch of the worker; `common/attempts.py` says how it is launched and known again. Each try has a key
for the gateway, whose name is in the attempt's record before the worker is launched, so that it can be revoked whoever
launched it. A key whose name was lost with its service can only ask models, and ends by itself.

A worker that leaves with exit code 75 was told to, because its node is taken away, say. That is no crash, so it is not
counted as one.

The result is what the manifest under the evaluation's one key says, read before anybody looks at processes.
"""

import asyncio
import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from services.common import attempts, errors, store_access, telemetry
from services.common.names import project_of
from services.common.ports.database import Document, NewEvent, Record
from services.common.ports.launcher import Observation, WorkloadState
from services.common.ports.manifest import Manifest
from services.common.reconcile import Change
from services.common.store_access import Grant
from services.evaluator import held_out, suite
from services.evaluator.evaluation import KIND, MAX_CRASHES, Evaluation
from services.evaluator.scoring import criteria
from services.evaluator.suite import Suite
from services.evaluator.use_cases import Evaluator

LOOK_AGAIN_S = 0.5
CLEAN_AGAIN_S = 5.0

_logger = logging.getLogger("afina.evaluator")


async def reconcile_evaluation(evaluator: Evaluator, record: Record) -> Change:
    """Look at an evaluation and move it by at most one state."""
    current = Evaluation.from_document(record.document)
    try:
        change = await _look(evaluator, current)
    except (errors.InvalidInput, errors.NotFound, errors.WrongState) as error:
        change = await _end(evaluator, current.fail(error), error.message, "ERROR")
    return change.stamped(Evaluation.from_document(change.document).has_ended, evaluator.clock())


async def _look(evaluator: Evaluator, current: Evaluation) -> Change:
    if current.has_ended:  # a key could not be revoked yet
        return Change(current.to_document(), None if await _clean(evaluator, current) else CLEAN_AGAIN_S)
    if current.state == "CANCELLING":
        return await _cancel(evaluator, current)
    current = await held_out.with_findings(evaluator, current)
    result = await _result(evaluator, current)
    if result is not None:
        return await _succeed(evaluator, current, result)
    return await (_start if current.state == "PENDING" else _observe)(evaluator, current)


async def _result(evaluator: Evaluator, current: Evaluation) -> Manifest | None:
    """Return what an attempt has committed, or None while none has. Raises: InvalidInput."""
    if not current.attempt:
        return None
    try:
        manifest = Manifest.from_json(await asyncio.to_thread(evaluator.store.read, current.manifest_key))
    except errors.ArtifactNotFound:
        return None
    if manifest.kind != "evaluation" or manifest.data.get("evaluation") != current.name:
        raise errors.InvalidInput(f"{current.manifest_key} is not the result of {current.name}.", reason="MANIFEST_INVALID")
    if not store_access.is_under(manifest.file("answers.jsonl").key, (f"evaluations/{current.id}/",)):
        raise errors.InvalidInput(f"{current.manifest_key} names answers that are not its own.", reason="KEY_FOREIGN")
    return manifest


async def _succeed(evaluator: Evaluator, current: Evaluation, manifest: Manifest) -> Change:
    moved = current.move(
        "SUCCEEDED",
        scores=manifest.data["scores"],
        comparisons=manifest.data["comparisons"],
        answers=asdict(manifest.file("answers.jsonl")),
    )
    return await _end(evaluator, moved, "The scores are there.", "INFO")


async def _start(evaluator: Evaluator, current: Evaluation) -> Change:
    """Launch an attempt, or adopt the one that was launched."""
    if current.attempt > current.given_up:
        seen = await evaluator.launcher.observe(current.workload_key(current.attempt))
        if seen.state == WorkloadState.PENDING:
            return Change(current.to_document(), LOOK_AGAIN_S)
        await attempts.note_running(evaluator.database, current.name, current.attempt)
        moved = current.move("RUNNING", start_time=current.start_time or evaluator.clock().isoformat())
        return Change(moved.to_document(), LOOK_AGAIN_S, [_state_event(moved, f"Attempt {current.attempt} asks.")])
    asked = Suite.from_document((await evaluator.database.get(suite.KIND, current.suite)).document)
    attempt = replace(_attempt(current, current.attempt + 1), grant=await _grant(evaluator, current, asked))
    issue = functools.partial(_issue, evaluator, current)
    seen = await attempts.ensure_launched(evaluator, attempt, spec_of(current, asked, attempt.number), issue)
    found = Evaluation.from_document((await evaluator.database.get(KIND, current.name)).document)
    if found.state == "CANCELLING" or found.has_ended:
        # Somebody cancelled while we launched, and may have looked before there was anything to stop.
        await evaluator.launcher.stop(attempt.key)
        await _revoke_all(evaluator, current)
    waits = seen.state == WorkloadState.PENDING
    events = [NewEvent("QUEUED", seen.message, data={"position": seen.position})] if waits else []
    return Change(replace(current, attempt=attempt.number).to_document(), LOOK_AGAIN_S if waits else 0.0, events)


def _attempt(current: Evaluation, number: int) -> attempts.Attempt:
    return attempts.Attempt(current.name, number, "services.evaluator.worker", current.spec_key(number), "afina.dev/evaluation")


async def _issue(evaluator: Evaluator, current: Evaluation, dropped: Sequence[Document]) -> attempts.Issued:
    """Issue the key that one try's worker asks models with, and revoke those of the tries that are dropped for it."""
    for one in dropped:
        await _revoke(evaluator, one["api_key"])
    key = await evaluator.peers.create_key(project_of(current.name), f"evaluation {current.id}")
    return attempts.Issued({"GATEWAY_API_KEY": key.secret}, {"api_key": key.name})


async def _grant(evaluator: Evaluator, current: Evaluation, asked: Suite) -> Grant:
    """Return what a worker may touch: its evaluation's keys, the rows that it asks, and the tokenizers of the bases."""
    rows = [part.artifact["key"] for part in (asked.train, asked.asked, asked.choosing) if part.artifact]
    manifests = [subject.base["manifest_key"] for subject in current.subjects if subject.base]
    bases = await asyncio.to_thread(store_access.keys_of, evaluator.store, manifests, with_weights=False)
    return Grant((*rows, *bases), (f"evaluations/{current.id}/",))


def spec_of(current: Evaluation, asked: Suite, attempt: int) -> dict[str, Any]:
    """Return everything that an attempt's worker has to know."""
    return {
        "evaluation": current.name,
        "attempt": attempt,
        "dataset": {
            "train": dict(asked.train.artifact),
            "asked": dict(asked.asked.artifact),
            "choosing": dict(asked.choosing.artifact),
        },
        "suite": {
            "part": asked.part.lower(),
            "criteria": [criteria.to_document(criterion) for criterion in asked.criteria],
            "labels": list(asked.labels),
            "max_tokens": asked.max_tokens,
            "max_items": asked.max_items,
            "prompts": [asdict(prompt) for prompt in asked.prompts],
        },
        "subjects": [{**asdict(subject), "has_choice": asked.has_choice(len(subject.prompts))} for subject in current.subjects],
        "result": {"prefix": f"evaluations/{current.id}/files", "manifest_key": current.manifest_key},
    }


async def _observe(evaluator: Evaluator, current: Evaluation) -> Change:
    """Look for the worker; its manifest was not there a moment ago."""
    seen = await evaluator.launcher.observe(current.workload_key(current.attempt))
    if not seen.has_ended:
        silent_s = await attempts.silence_s(evaluator.database, current.name, current.attempt, evaluator.clock())
        if silent_s > evaluator.silence_limit_s:
            await evaluator.launcher.stop(current.workload_key(current.attempt))
        return Change(current.to_document(), LOOK_AGAIN_S)
    result = await _result(evaluator, current)  # again: it may have published and left between our two looks
    if result is not None:
        return await _succeed(evaluator, current, result)
    return await _attempt_over(evaluator, current, seen)


async def _attempt_over(evaluator: Evaluator, current: Evaluation, seen: Observation) -> Change:
    """Decide what follows an attempt that ended without a result."""
    told = await attempts.told_by(evaluator.store, current.error_key(current.attempt))
    if seen.exit_code == attempts.EXIT_INVALID_INPUT and told:
        raise attempts.refusal_of(told)
    why = told["message"] if told else await attempts.last_words(evaluator.launcher, current.workload_key(current.attempt))
    is_crash = seen.exit_code not in attempts.EXITS_STOPPED
    crash_count = current.crash_count + is_crash
    if crash_count >= MAX_CRASHES:
        text = f"The worker ended {crash_count} times without a result. {seen.message} {why}"
        raise errors.WrongState(text, reason=told["reason"] if told else "WORKER_CRASHED")
    await _revoke_tries(evaluator, await attempts.find(evaluator.database, current.name, current.attempt))
    how = f"ended without a result: {seen.message} {why}" if is_crash else "was told to leave."
    message = f"Attempt {current.attempt} {how} The next one begins."
    event = NewEvent("ATTEMPT_ENDED", message, "WARNING" if is_crash else "INFO", {"exit_code": seen.exit_code})
    moved = current.move("PENDING", given_up=current.attempt, crash_count=crash_count)
    return Change(moved.to_document(), 0.0, [event])


async def _cancel(evaluator: Evaluator, current: Evaluation) -> Change:
    """Stop the worker, then end; also the one of an attempt that was launched and could not be written any more."""
    if not await attempts.stop_all(evaluator, current.name, since=current.given_up + 1):
        return Change(current.to_document(), LOOK_AGAIN_S)
    return await _end(evaluator, current.move("CANCELLED"), "The evaluation was cancelled.", "INFO")


async def _end(evaluator: Evaluator, ended: Evaluation, message: str, level: str) -> Change:
    """End and clean up; what can't be cleaned up now is looked at again, though the evaluation has ended."""
    is_clean = await _clean(evaluator, ended)
    return Change(ended.to_document(), None if is_clean else CLEAN_AGAIN_S, [_state_event(ended, message, level)])


async def _clean(evaluator: Evaluator, ended: Evaluation) -> bool:
    """Revoke the keys of all attempts, and remove what they kept of their answers. Idempotent. Returns: whether all is gone."""
    are_revoked = await _revoke_all(evaluator, ended)
    await asyncio.to_thread(_forget_answers, evaluator, ended)
    return are_revoked


def _forget_answers(evaluator: Evaluator, ended: Evaluation) -> None:
    for key in list(evaluator.store.list(ended.kept_prefix)):
        evaluator.store.delete(key)


async def _revoke_all(evaluator: Evaluator, current: Evaluation) -> bool:
    """Returns: whether no key of any attempt is left."""
    records = await attempts.recorded(evaluator.database, current.name)
    return all([await _revoke_tries(evaluator, record) for record in records])


async def _revoke_tries(evaluator: Evaluator, record: Record) -> bool:
    return all([await _revoke(evaluator, one["api_key"]) for one in attempts.tries_of(record)])


async def _revoke(evaluator: Evaluator, key: str) -> bool:
    try:
        await evaluator.peers.delete_key(key)
    except errors.Unavailable as error:
        telemetry.log(_logger, logging.WARNING, "a key is not revoked yet", key=key, error=error.message)
        return False
    return True


def _state_event(current: Evaluation, message: str, level: str = "INFO") -> NewEvent:
    return NewEvent("STATE_CHANGED", message, level, {"state": current.state})
