"""How an evaluation moves: what the reconcile loop does in each state.

    PENDING → RUNNING → SUCCEEDED      (FAILED and CANCELLED from anywhere)

An attempt is one launch of the worker, with a token and a key of its own. Its number is taken by creating its record,
which holds the token's hash and the key's name, so that the key can be revoked whoever launched it. A service that dies
between taking a number and writing the evaluation finds the record again: if the launcher knows the workload it is
adopted, otherwise the number is passed over. A key whose name was lost with it can only ask models, and ends by itself.
For the same reason an evaluation that is cancelled stops every attempt that has a record, written or not.

A worker that leaves with exit code 75 was told to, because its node is taken away, say. That is no crash, so it is not
counted as one.

The result is what the manifest under the evaluation's one key says, read before anybody looks at processes.
"""

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from services.common import attempts, errors, telemetry
from services.common.names import last, project_of
from services.common.ports.database import NewEvent, Record
from services.common.ports.launcher import Observation, Workload, WorkloadState
from services.common.ports.manifest import Manifest
from services.common.reconcile import Change
from services.evaluator import suite
from services.evaluator.clients import Key
from services.evaluator.evaluation import KIND, MAX_CRASHES, Evaluation, now
from services.evaluator.scoring import criteria
from services.evaluator.suite import Suite
from services.evaluator.use_cases import Evaluator

LOOK_AGAIN_S = 0.5
LAST_WORDS = 3

_logger = logging.getLogger("afina.evaluator")


async def reconcile_evaluation(evaluator: Evaluator, record: Record) -> Change:
    """Look at an evaluation and move it by at most one state."""
    current = Evaluation.from_document(record.document)
    if current.state == "CANCELLING":
        return await _cancel(evaluator, current)
    try:
        result = await _result(evaluator, current)
        if result is not None:
            return await _succeed(evaluator, current, result)
        return await (_start if current.state == "PENDING" else _observe)(evaluator, current)
    except (errors.InvalidInput, errors.NotFound, errors.WrongState) as error:
        return await _end(evaluator, current.fail(error), error.message, "ERROR")


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
        if seen.state != WorkloadState.GONE:
            moved = current.move("RUNNING", start_time=current.start_time or now())
            return Change(moved.to_document(), LOOK_AGAIN_S, [_state_event(moved, f"Attempt {current.attempt} asks.")])
    attempt = await _launch(evaluator, current)
    if (await evaluator.database.get(KIND, current.name)).document["state"] != current.state:
        # Somebody cancelled while we launched, and may have looked before there was anything to stop.
        await evaluator.launcher.stop(current.workload_key(attempt))
        await _revoke_all(evaluator, current)
    seen = await evaluator.launcher.observe(current.workload_key(attempt))
    waits = seen.state == WorkloadState.PENDING
    events = [NewEvent("QUEUED", seen.message, data={"position": seen.position})] if waits else []
    return Change(replace(current, attempt=attempt).to_document(), LOOK_AGAIN_S if waits else 0.0, events)


async def _launch(evaluator: Evaluator, current: Evaluation) -> int:
    """Take a number, write the spec, launch. Returns: the attempt that runs now."""
    token = secrets.token_urlsafe(32)
    key = await evaluator.peers.create_key(project_of(current.name), f"evaluation {current.id}")
    for attempt in range(current.attempt + 1, current.attempt + 100):
        document = {**attempts.document_of(token), "api_key": key.name}
        try:
            await evaluator.database.create(attempts.KIND, attempts.name_of(current.name, attempt), document)
        except errors.AlreadyExists:
            if (await evaluator.launcher.observe(current.workload_key(attempt))).state == WorkloadState.GONE:
                continue
            await _revoke(evaluator, key.name)
            return attempt
        asked = Suite.from_document((await evaluator.database.get(suite.KIND, current.suite)).document)
        spec = json.dumps(spec_of(current, asked, attempt), indent=1).encode()
        await asyncio.to_thread(evaluator.store.commit, current.spec_key(attempt), spec)
        workload = _workload(evaluator, current, attempt, token, key)
        await evaluator.launcher.launch(evaluator.launcher.plan(workload))
        return attempt
    raise errors.WrongState(f"{current.name} has used up its attempts.", reason="ATTEMPTS_EXHAUSTED")


def _workload(evaluator: Evaluator, current: Evaluation, attempt: int, token: str, key: Key) -> Workload:
    return Workload(
        key=current.workload_key(attempt),
        kind="job",
        command=(sys.executable, "-m", "services.evaluator.worker"),
        environment={
            **evaluator.worker_environment,
            **evaluator.store.environment(),
            "AFINA_SPEC": current.spec_key(attempt),
            "AFINA_ATTEMPT_TOKEN": token,
            "OBJECT_STORE": evaluator.store.url,
            **telemetry.carried(telemetry.TRACEPARENT_VARIABLE),
            "GATEWAY_API_KEY": key.secret,
        },
        labels={"afina.dev/evaluation": current.id, "afina.dev/project": project_of(current.name)},
    )


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
            "prompts": [asdict(prompt) for prompt in asked.prompts],
        },
        "subjects": [{**asdict(subject), "has_choice": asked.has_choice(len(subject.prompts))} for subject in current.subjects],
        "result": {"prefix": f"evaluations/{current.id}/files", "manifest_key": current.manifest_key},
    }


async def _observe(evaluator: Evaluator, current: Evaluation) -> Change:
    """Look for the worker; its manifest was not there a moment ago."""
    seen = await evaluator.launcher.observe(current.workload_key(current.attempt))
    if not seen.has_ended:
        return Change(current.to_document(), LOOK_AGAIN_S)
    result = await _result(evaluator, current)  # again: it may have published and left between our two looks
    if result is not None:
        return await _succeed(evaluator, current, result)
    return await _attempt_over(evaluator, current, seen)


async def _attempt_over(evaluator: Evaluator, current: Evaluation, seen: Observation) -> Change:
    """Decide what follows an attempt that ended without a result."""
    told = await _told(evaluator, current)
    if seen.exit_code == attempts.EXIT_INVALID_INPUT and told:
        violations = [errors.Violation(**violation) for violation in told["violations"]]
        raise errors.InvalidInput(
            told["message"],
            reason=told["reason"],
            metadata=told["metadata"],
            violations=violations,
            violation_count=told["violation_count"],
        )
    why = told["message"] if told else await _last_words(evaluator, current)
    is_crash = seen.exit_code not in attempts.EXITS_STOPPED
    crash_count = current.crash_count + is_crash
    if crash_count >= MAX_CRASHES:
        text = f"The worker ended {crash_count} times without a result. {seen.message} {why}"
        raise errors.WrongState(text, reason=told["reason"] if told else "WORKER_CRASHED")
    record = await evaluator.database.get(attempts.KIND, attempts.name_of(current.name, current.attempt))
    await _revoke(evaluator, record.document["api_key"])
    how = f"ended without a result: {seen.message} {why}" if is_crash else "was told to leave."
    message = f"Attempt {current.attempt} {how} The next one begins."
    event = NewEvent("ATTEMPT_ENDED", message, "WARNING" if is_crash else "INFO", {"exit_code": seen.exit_code})
    moved = current.move("PENDING", given_up=current.attempt, crash_count=crash_count)
    return Change(moved.to_document(), 0.0, [event])


async def _told(evaluator: Evaluator, current: Evaluation) -> dict[str, Any] | None:
    """Return why the worker gave up, where it said so."""
    try:
        document: dict[str, Any] = json.loads(await asyncio.to_thread(evaluator.store.read, current.error_key(current.attempt)))
        return document
    except errors.ArtifactNotFound:
        return None


async def _last_words(evaluator: Evaluator, current: Evaluation) -> str:
    output, _ = await evaluator.launcher.logs(current.workload_key(current.attempt))
    lines = output.decode(errors="replace").strip().splitlines()[-LAST_WORDS:]
    return f"Its last words: {' | '.join(lines)}" if lines else "It said nothing."


async def _cancel(evaluator: Evaluator, current: Evaluation) -> Change:
    """Stop the worker, then end; also the one of an attempt that was launched and could not be written any more."""
    numbers = [int(last(record.name)) for record in await _attempts(evaluator, current)]
    for attempt in [number for number in numbers if number > current.given_up]:
        key = current.workload_key(attempt)
        await evaluator.launcher.stop(key)
        if not (await evaluator.launcher.observe(key)).has_ended:
            return Change(current.to_document(), LOOK_AGAIN_S)
    return await _end(evaluator, current.move("CANCELLED"), "The evaluation was cancelled.", "INFO")


async def _end(evaluator: Evaluator, ended: Evaluation, message: str, level: str) -> Change:
    """End, revoke the keys of all attempts, and remove what they kept of their answers. Idempotent.

    A key that can't be revoked now ends by itself, in time; answers don't, so without a store the end waits.
    """
    await _revoke_all(evaluator, ended)
    await asyncio.to_thread(_forget_answers, evaluator, ended)
    return Change(ended.to_document(), None, [_state_event(ended, message, level)])


def _forget_answers(evaluator: Evaluator, ended: Evaluation) -> None:
    for key in list(evaluator.store.list(ended.kept_prefix)):
        evaluator.store.delete(key)


async def _revoke_all(evaluator: Evaluator, current: Evaluation) -> None:
    for record in await _attempts(evaluator, current):
        await _revoke(evaluator, record.document["api_key"])


async def _attempts(evaluator: Evaluator, current: Evaluation) -> Sequence[Record]:
    """Return the records of all attempts, newest first."""
    return await evaluator.database.list(attempts.KIND, f"{current.name}/attempts", limit=1000)


async def _revoke(evaluator: Evaluator, key: str) -> None:
    try:
        await evaluator.peers.delete_key(key)
    except errors.Unavailable as error:
        telemetry.log(_logger, logging.WARNING, "a key was not revoked; it expires", key=key, error=error.message)


def _state_event(current: Evaluation, message: str, level: str = "INFO") -> NewEvent:
    return NewEvent("STATE_CHANGED", message, level, {"state": current.state})
