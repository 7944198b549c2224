"""How a job moves: what the reconcile loop does in each state.

    VALIDATING → PENDING → RUNNING → PROVING → SUCCEEDED      (FAILED and CANCELLED from anywhere)
    PENDING, RUNNING → PAUSING → PAUSED → PENDING

An attempt is one launch of the worker; `common/attempts.py` says how it is launched and known again. Of those that ended
without a result, crashes are counted, and so many in a row, without a step saved between, end the job.

The result is what the manifest under the job's one key says. Whoever commits it first has won, and it is read before
anybody looks at processes: a worker that finished while the service was away has finished.

A worker leaves with exit code 75 when it was told to, with a checkpoint: because the job pauses, or because its node is
taken away; and when it was cut off from its store for longer than it waits. That is no crash, so it is not counted as one;
only leaving again and again without a step between is.
One that reports nothing new for an hour hangs, and is told so.
"""

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from typing import Any

from services.common import attempts, errors, store_access
from services.common.names import last, project_of
from services.common.ports.database import NewEvent, Record
from services.common.ports.launcher import Observation, WorkloadState
from services.common.ports.manifest import Manifest
from services.common.reconcile import Change
from services.common.store_access import Grant
from services.trainer import planning, recipe
from services.trainer.job import KIND, MAX_CRASHES, MAX_IDLE_STOPS, Job
from services.trainer.proving import prove, state_event
from services.trainer.sweep import KIND as SWEEP_KIND
from services.trainer.sweep import Sweep
from services.trainer.token_count import TokenCount
from services.trainer.token_counts import count_of, get_count
from services.trainer.use_cases import Trainer
from services.trainer.verdicts import find_verdict

LOOK_AGAIN_S = 0.5
PAUSE_LIMIT_S = 600.0  # a worker that has not left by then, between two steps, is stopped by the launcher


async def reconcile_job(trainer: Trainer, record: Record) -> Change:
    """Look at a job and move it by at most one state."""
    job = Job.from_document(record.document)
    step = {
        "VALIDATING": _validate,
        "PENDING": _start,
        "RUNNING": _observe,
        "PROVING": prove,
        "PAUSING": _pause,
        "CANCELLING": _cancel,
        "SUCCEEDED": find_verdict,
    }[job.state]
    try:
        change = await step(trainer, job)
    except (errors.InvalidInput, errors.NotFound, errors.WrongState) as error:
        change = _ended(job.fail(error), error.message, "ERROR")
    return change.stamped(Job.from_document(change.document).has_ended, trainer.clock())


async def _validate(trainer: Trainer, job: Job) -> Change:
    """Turn the file into a Dataset, find the base, have the tokens counted, and complete the recipe."""
    if job.sweep and not await _is_wanted(trainer, job.sweep):
        cancelled = job.move("CANCELLING")
        return Change(cancelled.to_document(), 0.0, [state_event(cancelled, "Its sweep is over before it has begun.")])
    name = job.dataset or await trainer.peers.finalize(job.training_file, job.split, job.validation_file)
    dataset = await trainer.peers.dataset(name)
    base = await trainer.peers.base(job.base_model)
    if job.token_count:
        record = await get_count(trainer, job.token_count)
    else:
        record = await count_of(trainer, project_of(job.name), dataset, base, job.base_model)
    count = TokenCount.from_document(record.document)
    if not count.has_ended:
        return Change(replace(job, dataset=name, token_count=count.name).to_document(), LOOK_AGAIN_S)
    manifest = Manifest.from_json(await asyncio.to_thread(trainer.store.read, base["manifest_key"]))
    base_config = json.loads(await asyncio.to_thread(trainer.store.read_artifact, manifest.file("config.json")))
    chosen, choices = recipe.resolve(job.asked_recipe, train_rows=dataset["train"]["row_count"], base_config=base_config)
    planned = replace(job, dataset=name, token_count=count.name, dataset_spec=dataset, base=base, recipe=chosen.to_document())
    events = planning.events(dataset, count, chosen, choices)
    refusal = await planning.refusal(trainer, count, chosen.max_length)
    if refusal is not None:
        failed = planned.fail(refusal)
        return Change(failed.to_document(), None, [*events, state_event(failed, refusal.message, "ERROR")])
    moved = planned.move("PENDING")
    return Change(moved.to_document(), 0.0, [*events, state_event(moved, "The job waits for its turn.")])


async def _is_wanted(trainer: Trainer, sweep: str) -> bool:
    """Whether a sweep goes on. A replica that froze may create a member after another one has cancelled the sweep."""
    found = Sweep.from_document((await trainer.database.get(SWEEP_KIND, sweep)).document)
    return not found.has_ended and found.state != "CANCELLING"


async def _start(trainer: Trainer, job: Job) -> Change:
    """Launch an attempt, or adopt the one that was launched."""
    if job.attempt and not job.is_attempt_over:
        seen = await trainer.launcher.observe(job.workload_key(job.attempt))
        if seen.state == WorkloadState.PENDING:
            return Change(job.to_document(), LOOK_AGAIN_S)
        await attempts.note_running(trainer.database, job.name, job.attempt)
        moved = job.move("RUNNING", start_time=job.start_time or trainer.clock().isoformat())
        return Change(moved.to_document(), LOOK_AGAIN_S, [state_event(moved, f"Attempt {job.attempt} runs.")])
    attempt = replace(_attempt(job, job.attempt + 1), grant=await asyncio.to_thread(_grant, trainer, job))
    seen = await attempts.ensure_launched(trainer, attempt, _spec(job, attempt.number))
    found = Job.from_document((await trainer.database.get(KIND, job.name)).document)
    if found.should_stop or found.has_ended:
        # Somebody cancelled or paused while we launched, and may have looked before there was anything to stop.
        await trainer.launcher.stop(attempt.key)
    changed = replace(job, attempt=attempt.number, is_attempt_over=False)
    waiting = [NewEvent("QUEUED", seen.message, data={"position": seen.position})] if seen.state == WorkloadState.PENDING else []
    return Change(changed.to_document(), 0.0 if not waiting else LOOK_AGAIN_S, waiting)


def _attempt(job: Job, number: int) -> attempts.Attempt:
    spec_key, label = f"jobs/{job.id}/spec-{number}.json", "afina.dev/fine-tuning-job"
    return attempts.Attempt(job.name, number, "services.trainer.worker", spec_key, label)


def _grant(trainer: Trainer, job: Job) -> Grant:
    """Return what a worker may touch: its job's keys, its base, and the rows that it learns from, not those held out."""
    parts = (job.dataset_spec.get(part) for part in ("train", "validation"))
    base = store_access.keys_of(trainer.store, [job.base["manifest_key"]], with_weights=True)
    reads = (*(part["key"] for part in parts if part), *base)
    return Grant(reads, (f"jobs/{job.id}/",), (f"{job.checkpoint_prefix}/",))


def _spec(job: Job, attempt: int) -> dict[str, Any]:
    dataset = job.dataset_spec
    return {
        "job": job.name,
        "attempt": attempt,
        "project": project_of(job.name),
        "base": job.base,
        "dataset": {key: dataset[key] for key in ("name", "digest", "train", "validation", "test")},
        "recipe": job.recipe,
        "chat_template": job.base.get("chat_template", ""),
        "result": {
            "prefix": f"jobs/{job.id}/files",
            "manifest_key": job.manifest_key,
            "checkpoint_prefix": job.checkpoint_prefix,
        },
    }


async def _observe(trainer: Trainer, job: Job) -> Change:
    """Look for the manifest first, then for the worker."""
    seen = await trainer.launcher.observe(job.workload_key(job.attempt))
    if await _has_result(trainer, job):
        return _trained(job)
    if seen.has_ended:
        return await _attempt_over(trainer, job, seen)
    if await attempts.silence_s(trainer.database, job.name, job.attempt, trainer.clock()) > trainer.silence_limit_s:
        await trainer.launcher.stop(job.workload_key(job.attempt))
    return Change(job.to_document(), LOOK_AGAIN_S)


def _trained(job: Job) -> Change:
    moved = job.move("PROVING")
    return Change(moved.to_document(), 0.0, [state_event(moved, "Training is done; the adapter is proven on its server.")])


async def _attempt_over(trainer: Trainer, job: Job, seen: Observation) -> Change:
    """Decide what follows an attempt that ended without a result."""
    await _raise_refusal(trainer, job, seen)
    has_crashed = seen.exit_code not in attempts.EXITS_STOPPED
    ended = job.end_attempt(await _saved_step(trainer, job), has_crashed=has_crashed)
    if ended.crash_count >= MAX_CRASHES:
        words = await attempts.last_words(trainer.launcher, job.workload_key(job.attempt))
        told = f"The worker ended {ended.crash_count} times without a result, and saved no step between. {seen.message} {words}"
        raise errors.WrongState(told, reason="WORKER_CRASHED")
    if ended.idle_stop_count >= MAX_IDLE_STOPS:
        raise errors.WrongState(
            f"The worker had to leave {ended.idle_stop_count} times in a row before it could save another step; find out what "
            "stops it (a node that is drained, a limit of the cluster, a store that it does not reach), then create it again.",
            reason="WORKER_STOPPED",
        )
    how = f"ended without a result: {seen.message}" if has_crashed else "was told to leave, or cut off from its store."
    message = f"Attempt {job.attempt} {how} The next one goes on from its last checkpoint."
    level, data = "WARNING" if has_crashed else "INFO", {"exit_code": seen.exit_code}
    return Change(ended.to_document(), 0.0, [NewEvent("ATTEMPT_ENDED", message, level, data)])


async def _saved_step(trainer: Trainer, job: Job) -> int:
    """Return the step of the newest checkpoint, which is what an attempt leaves to the next; 0 where there is none."""
    keys = await asyncio.to_thread(lambda: list(trainer.store.list(f"{job.checkpoint_prefix}/")))
    steps = [last(key).partition("-")[0] for key in keys if key.endswith(".json")]
    return max((int(step) for step in steps if step.isdigit()), default=0)


async def _raise_refusal(trainer: Trainer, job: Job, seen: Observation) -> None:
    """Raises: InvalidInput, as the worker said it, where it found that what was asked for can't work."""
    if seen.exit_code != attempts.EXIT_INVALID_INPUT:
        return
    told = await attempts.told_by(trainer.store, f"jobs/{job.id}/error-{job.attempt}.json")
    if told is not None:
        raise attempts.refusal_of(told)


async def _pause(trainer: Trainer, job: Job) -> Change:
    """Wait until the worker, which learns of it when it reports, has left; one that has not begun is stopped at once.

    So is one that was launched and is noted nowhere, since the program that launched it died.
    """
    if not await attempts.stop_all(trainer, job.name, since=job.attempt + 1):
        return Change(job.to_document(), LOOK_AGAIN_S)
    if job.attempt and not job.is_attempt_over:
        key = job.workload_key(job.attempt)
        seen = await trainer.launcher.observe(key)
        if await _has_result(trainer, job):
            return _trained(job)
        asked_s = (trainer.clock() - datetime.fromisoformat(job.pause_time)).total_seconds()
        if seen.state == WorkloadState.PENDING or (not seen.has_ended and asked_s > PAUSE_LIMIT_S):
            await trainer.launcher.stop(key)
            seen = await trainer.launcher.observe(key)
        if not seen.has_ended:
            return Change(job.to_document(), LOOK_AGAIN_S)
        await _raise_refusal(trainer, job, seen)
    paused = job.move("PAUSED", is_attempt_over=True)
    return Change(paused.to_document(), None, [state_event(paused, "The job is paused; resume it to go on from its checkpoint.")])


async def _has_result(trainer: Trainer, job: Job) -> bool:
    try:
        await asyncio.to_thread(trainer.store.head, job.manifest_key)
    except errors.ArtifactNotFound:
        return False
    return True


async def _cancel(trainer: Trainer, job: Job) -> Change:
    """Stop the worker, then end; also the one of an attempt that was launched and could not be written any more."""
    if not await attempts.stop_all(trainer, job.name, since=job.attempt):
        return Change(job.to_document(), LOOK_AGAIN_S)
    return _ended(job.move("CANCELLED"), "The job was cancelled.", "INFO")


def _ended(job: Job, message: str, level: str) -> Change:
    return Change(job.to_document(), None, [state_event(job, message, level)])
