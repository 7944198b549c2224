"""How a job moves: what the reconcile loop does in each state.

    VALIDATING → PENDING → RUNNING → PROVING → SUCCEEDED      (FAILED and CANCELLED from anywhere)

An attempt is one launch of the worker. Its number is taken by creating its record, which holds the hash of its token,
so a token is never known for a launch that somebody else made. A service that dies between taking a number and writing
the job finds the record again: if the launcher knows the workload it is adopted, otherwise the number is passed over.

The result is what the manifest under the job's one key says. Whoever commits it first has won, and it is read before
anybody looks at processes: a worker that finished while the service was away has finished.
"""

import asyncio
import json
import secrets
import sys
from datetime import UTC, datetime
from typing import Any

from services.common import errors
from services.common.names import project_of
from services.common.ports.database import NewEvent, Record
from services.common.ports.launcher import Observation, Workload, WorkloadState
from services.common.ports.manifest import Manifest
from services.common.reconcile import Change
from services.trainer import recipe
from services.trainer.job import ATTEMPT_KIND, MAX_ATTEMPTS, Job, now
from services.trainer.use_cases import Trainer, token_sha256

LOOK_AGAIN_S = 0.5
EXIT_INVALID_INPUT = 64
PROVE_LIMIT_S = 1800.0


async def reconcile_job(trainer: Trainer, record: Record) -> Change:
    """Look at a job and move it by at most one state."""
    job = Job.from_document(record.document)
    step = {
        "VALIDATING": _validate,
        "PENDING": _start,
        "RUNNING": _observe,
        "PROVING": _prove,
        "CANCELLING": _cancel,
    }[job.state]
    try:
        return await step(trainer, job)
    except (errors.InvalidInput, errors.NotFound, errors.WrongState) as error:
        return _ended(job.fail(error), error.message, "ERROR")


async def _validate(trainer: Trainer, job: Job) -> Change:
    """Turn the file into a Dataset, find the base, and complete the recipe."""
    name = job.dataset or await trainer.peers.finalize(job.training_file, job.split, job.validation_file)
    dataset = await trainer.peers.dataset(name)
    base = await trainer.peers.base(job.base_model)
    manifest = Manifest.from_json(await asyncio.to_thread(trainer.store.read, base["manifest_key"]))
    base_config = json.loads(await asyncio.to_thread(trainer.store.read, manifest.file("config.json").key))
    chosen, choices = recipe.resolve(job.asked_recipe, train_rows=dataset["train"]["row_count"], base_config=base_config)
    counts = {part: (dataset[part] or {}).get("row_count", 0) for part in ("train", "validation", "test")}
    events = [
        NewEvent(
            "DATASET_READY",
            "The data are valid: {train} rows to train, {validation} to validate, {test} held out.".format(**counts),
            data={"dataset": name, **counts},
        ),
        *(
            NewEvent("HYPERPARAMETER", f"{c.name} = {c.value} ({c.rule}).", data={"name": c.name, "value": c.value})
            for c in choices
        ),
        *(NewEvent("WARNING", text, "WARNING") for text in [*recipe.warnings(chosen), *dataset["warnings"]]),
    ]
    moved = job.move("PENDING", dataset=name, dataset_spec=dataset, base=base, recipe=chosen.to_document())
    return Change(moved.to_document(), 0.0, [*events, _state_event(moved, "The job waits for its turn.")])


async def _start(trainer: Trainer, job: Job) -> Change:
    """Launch an attempt, or adopt the one that was launched."""
    if job.attempt and not job.is_attempt_over:
        seen = await trainer.launcher.observe(job.workload_key(job.attempt))
        if seen.state == WorkloadState.PENDING:
            return Change(job.to_document(), LOOK_AGAIN_S)
        moved = job.move("RUNNING", start_time=job.start_time or now())
        return Change(moved.to_document(), LOOK_AGAIN_S, [_state_event(moved, f"Attempt {job.attempt} runs.")])
    attempt = await _launch(trainer, job)
    changed = Job.from_document({**job.to_document(), "attempt": attempt, "is_attempt_over": False})
    seen = await trainer.launcher.observe(job.workload_key(attempt))
    waiting = [NewEvent("QUEUED", seen.message, data={"position": seen.position})] if seen.state == WorkloadState.PENDING else []
    return Change(changed.to_document(), 0.0 if not waiting else LOOK_AGAIN_S, waiting)


async def _launch(trainer: Trainer, job: Job) -> int:
    """Take a number, write the spec, launch. Returns: the attempt that runs now."""
    for attempt in range(job.attempt + 1, job.attempt + 100):
        token = secrets.token_urlsafe(32)
        document = {"token_sha256": token_sha256(token), "next_number": 0}
        try:
            await trainer.database.create(ATTEMPT_KIND, f"{job.name}/attempts/{attempt}", document)
        except errors.AlreadyExists:
            if (await trainer.launcher.observe(job.workload_key(attempt))).state != WorkloadState.GONE:
                return attempt
            continue
        spec_key = f"jobs/{job.id}/spec-{attempt}.json"
        await asyncio.to_thread(trainer.store.commit, spec_key, json.dumps(_spec(job, attempt), indent=1).encode())
        workload = Workload(
            key=job.workload_key(attempt),
            kind="job",
            command=(sys.executable, "-m", "services.trainer.worker"),
            environment={
                **trainer.worker_environment,
                "AFINA_SPEC": spec_key,
                "AFINA_ATTEMPT_TOKEN": token,
                "OBJECT_STORE": trainer.store.url,
            },
            labels={"afina.dev/fine-tuning-job": job.id, "afina.dev/project": project_of(job.name)},
        )
        await trainer.launcher.launch(trainer.launcher.plan(workload))
        return attempt
    raise errors.WrongState(f"{job.name} has used up its attempts.", reason="ATTEMPTS_EXHAUSTED")


def _spec(job: Job, attempt: int) -> dict[str, Any]:
    dataset = job.dataset_spec
    return {
        "job": job.name,
        "attempt": attempt,
        "project": project_of(job.name),
        "base": job.base,
        "dataset": {key: dataset[key] for key in ("name", "digest", "train", "validation", "test")},
        "recipe": job.recipe,
        "result": {
            "prefix": f"jobs/{job.id}/files",
            "manifest_key": job.manifest_key,
            "checkpoint_prefix": f"jobs/{job.id}/checkpoints",
        },
    }


async def _observe(trainer: Trainer, job: Job) -> Change:
    """Look for the manifest first, then for the worker."""
    seen = await trainer.launcher.observe(job.workload_key(job.attempt))
    try:
        await asyncio.to_thread(trainer.store.head, job.manifest_key)
    except errors.ArtifactNotFound:
        if not seen.has_ended:
            return Change(job.to_document(), LOOK_AGAIN_S)
        return await _attempt_over(trainer, job, seen)
    moved = job.move("PROVING", prove_time=now())
    return Change(moved.to_document(), 0.0, [_state_event(moved, "Training is done; the adapter is proven on its server.")])


async def _attempt_over(trainer: Trainer, job: Job, seen: Observation) -> Change:
    """Decide what follows an attempt that ended without a result."""
    if seen.exit_code == EXIT_INVALID_INPUT:
        told = json.loads(await asyncio.to_thread(trainer.store.read, f"jobs/{job.id}/error-{job.attempt}.json"))
        violations = [errors.Violation(**violation) for violation in told.get("violations", [])]
        raise errors.InvalidInput(told["message"], reason=told["reason"], violations=violations)
    if job.attempt >= MAX_ATTEMPTS:
        output, _ = await trainer.launcher.logs(job.workload_key(job.attempt))
        lines = output.decode(errors="replace").strip().splitlines()[-3:]
        raise errors.WrongState(
            f"The worker ended {job.attempt} times without a result. {seen.message} Its last words: {' | '.join(lines)}",
            reason="WORKER_CRASHED",
        )
    moved = job.move("PENDING", is_attempt_over=True)
    message = f"Attempt {job.attempt} ended without a result: {seen.message} The next one goes on from its last checkpoint."
    return Change(moved.to_document(), 0.0, [NewEvent("ATTEMPT_ENDED", message, "WARNING", {"exit_code": seen.exit_code})])


async def _prove(trainer: Trainer, job: Job) -> Change:
    """Register the model and wait, look by look, until it is proven on a server."""
    if not job.model:
        model, public_id = await trainer.peers.register(project_of(job.name), job.manifest_key, job.suffix)
        registered = Job.from_document({**job.to_document(), "model": model, "fine_tuned_model": public_id})
        event = NewEvent("MODEL_REGISTERED", f"The model is registered as {public_id}.", data={"model": model})
        return Change(registered.to_document(), 0.0, [event])
    try:
        proof = await trainer.peers.prove(job.model)
    except errors.Unavailable as error:
        waited_s = (datetime.now(UTC) - datetime.fromisoformat(job.prove_time)).total_seconds()
        if waited_s > PROVE_LIMIT_S:
            raise errors.WrongState(
                f"No server could load {job.model} within {waited_s:.0f} s: {error.message}", reason="NOT_SERVED"
            ) from error
        return Change(job.to_document(), 1.0)
    succeeded = job.move("SUCCEEDED")
    events = [NewEvent("MODEL_PROVEN", "The server's answers are the model's.", data=proof)]
    return Change(
        succeeded.to_document(), None, [*events, _state_event(succeeded, f"The job has succeeded: {job.fine_tuned_model}.")]
    )


async def _cancel(trainer: Trainer, job: Job) -> Change:
    """Stop the worker, then end."""
    if job.attempt:
        key = job.workload_key(job.attempt)
        await trainer.launcher.stop(key)
        if not (await trainer.launcher.observe(key)).has_ended:
            return Change(job.to_document(), LOOK_AGAIN_S)
    return _ended(job.move("CANCELLED"), "The job was cancelled.", "INFO")


def _ended(job: Job, message: str, level: str) -> Change:
    return Change(job.to_document(), None, [_state_event(job, message, level)])


def _state_event(job: Job, message: str, level: str = "INFO") -> NewEvent:
    return NewEvent("STATE_CHANGED", message, level, {"state": job.state})
