"""What can be asked of the trainer: one short function a verb."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from services.common import attempts
from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unauthenticated, Violation, WrongState
from services.common.names import new_id, parse, project_of
from services.common.ports.database import Database, NewEvent, Record, StoredEvent
from services.common.ports.launcher import Launcher
from services.common.ports.object_store import ObjectStore
from services.common.store_access import Grant
from services.common.telemetry import trace_id
from services.trainer import recipe
from services.trainer.clients import Peers
from services.trainer.job import KIND, Job

JOB_PATTERN = "projects/{project}/fineTuningJobs/{job}"


@dataclass(frozen=True)
class Trainer:
    """What the trainer's use cases work with."""

    database: Database
    store: ObjectStore
    launcher: Launcher
    peers: Peers
    worker_environment: Mapping[str, str]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    silence_limit_s: float = 3600.0  # a worker that reports nothing new for so long is stopped, and followed by the next

    @property
    def signer(self) -> str:
        """Where workers have their requests to the store signed: where they report to."""
        return self.worker_environment.get("AFINA_REPORT_TO", "")


async def create_job(trainer: Trainer, parent: str, asked: Job, request_id: str) -> Record:
    """Create a job, which begins by itself. Raises: InvalidInput (every mistake at once), NotFound (file, dataset, base)."""
    project = project_of(parent)
    violations = [*violations_of(asked), *check_evaluation(asked, project)]
    if violations:
        raise InvalidInput("The job can't be created: " + " ".join(v.description for v in violations), violations=violations)
    if project_of(asked.training_file or asked.dataset) != project:
        raise NotFound(f"{parent} has no {asked.training_file or asked.dataset}.", metadata={"parent": parent})
    await trainer.peers.base(asked.base_model)
    if asked.training_file:
        await trainer.peers.file_exists(asked.training_file)
        if asked.validation_file:
            await trainer.peers.file_exists(asked.validation_file)
    else:
        await trainer.peers.dataset(asked.dataset)
    if suite := asked.evaluation_settings.get("suite"):
        await trainer.peers.suite(suite)
    job = replace(asked, name=f"projects/{project}/fineTuningJobs/{new_id('ftjob')}", trace_id=trace_id.get())
    return await _create(trainer, job, f"{parent}:{request_id}" if request_id else "")  # two projects may choose the same


async def begin_job(trainer: Trainer, job: Job) -> None:
    """Create a job whose name is known and whose fields have been checked. Idempotent."""
    try:
        await _create(trainer, replace(job, trace_id=trace_id.get()), "")
    except AlreadyExists:
        return


async def judge_winner(trainer: Trainer, name: str) -> None:
    """Have the model of a sweep's winner compared with its base. Idempotent. Raises: NotFound, Conflict."""
    await _change(trainer, name, Job.win, "It won its sweep, so its model is compared with its base.", "SWEEP_WON")


async def get_job(trainer: Trainer, name: str) -> Record:
    """Return a job. Raises: NotFound."""
    parse(JOB_PATTERN, name)
    return await trainer.database.get(KIND, name)


async def list_jobs(trainer: Trainer, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return jobs of a project, newest first."""
    project_of(parent)
    return await trainer.database.list(KIND, parent, after=after, limit=limit)


async def cancel_job(trainer: Trainer, name: str) -> Record:
    """Ask a job to end as CANCELLED. Raises: NotFound, WrongState (it has ended)."""

    def cancel(job: Job) -> Job:
        if job.has_ended:
            raise WrongState(f"{name} has ended as {job.state}; there is nothing to cancel.", metadata={"state": job.state})
        return job if job.state == "CANCELLING" else job.move("CANCELLING")

    return await _change(trainer, name, cancel, "Somebody asked to cancel; the job stops.")


async def pause_job(trainer: Trainer, name: str) -> Record:
    """Ask a job to pause; twice is once. Raises: NotFound, WrongState (it has ended, is cancelled, or its training is done)."""

    def pause(job: Job) -> Job:
        if job.has_ended or job.state in ("CANCELLING", "PROVING"):
            raise WrongState(f"{name} is {job.state}; there is no training to pause.", metadata={"state": job.state})
        return job if job.state in ("PAUSING", "PAUSED") else job.pause(trainer.clock())

    return await _change(trainer, name, pause, "Somebody asked to pause; the worker saves a checkpoint and leaves.")


async def resume_job(trainer: Trainer, name: str) -> Record:
    """Let a paused job go on from its last checkpoint. Raises: NotFound, WrongState (it is not paused)."""
    return await _change(trainer, name, Job.resume, "Somebody resumed the job; it goes on from its last checkpoint.")


async def list_events(trainer: Trainer, name: str, after: int, limit: int, newest_first: bool = False) -> Sequence[StoredEvent]:
    """Return a job's events, oldest first, or newest first. Raises: NotFound."""
    await get_job(trainer, name)
    return await trainer.database.events(KIND, name, after=after, limit=limit, newest_first=newest_first)


async def progress_of(trainer: Trainer, name: str) -> Mapping[str, Any]:
    """Return the data of a job's newest STEP event, or nothing. Derived, so that progress never competes with state."""
    event = await trainer.database.last_event(KIND, name, "STEP")
    return event.data if event else {}


async def report_progress(
    trainer: Trainer, name: str, attempt: int, token: str, first_number: int, events: Sequence[NewEvent]
) -> bool:
    """Record a worker's events, each once, and say whether it should stop. Raises: Unauthenticated."""
    job, reported = await _attempt_of(trainer, name, attempt, token)
    await attempts.record_events(trainer.database, reported, KIND, name, first_number, events)
    return job.should_stop


async def store_grant(trainer: Trainer, name: str, attempt: int, token: str) -> Grant:
    """Return what an attempt may touch of the store. Raises: Unauthenticated (it is over, or this is not its token)."""
    _, record = await _attempt_of(trainer, name, attempt, token)
    return Grant.of(record.document)


async def _attempt_of(trainer: Trainer, name: str, attempt: int, token: str) -> tuple[Job, Record]:
    """Return the job and the attempt that a token belongs to. Raises: NotFound, Unauthenticated (also: it is over)."""
    parse(JOB_PATTERN, name)
    record = await attempts.require(trainer.database, name, attempt, token)  # first: who has no token learns nothing
    job = Job.from_document((await trainer.database.get(KIND, name)).document)
    if job.has_ended or attempt < job.attempt:
        raise Unauthenticated(f"Attempt {attempt} of {name} is over.", reason="ATTEMPT_OVER")
    return job, record


async def _create(trainer: Trainer, job: Job, request_id: str) -> Record:
    created = NewEvent("STATE_CHANGED", "The job was created; its data are validated next.", data={"state": job.state})
    document, due = job.to_document(), trainer.clock()
    return await trainer.database.create(KIND, job.name, document, due_time=due, request_id=request_id, events=[created])


async def _change(
    trainer: Trainer, name: str, change: Callable[[Job], Job], message: str, event_type: str = "STATE_CHANGED"
) -> Record:
    """Move a job by what somebody asked for, and have the loop look at it. Raises: NotFound, WrongState, Conflict."""
    for _ in range(10):  # the reconcile loop may write between our read and our write
        record = await get_job(trainer, name)
        job = Job.from_document(record.document)
        moved = change(job)
        if moved == job:
            return record
        event = NewEvent(event_type, message, data={"state": moved.state})
        try:
            return await trainer.database.update(record, moved.to_document(), due_time=trainer.clock(), events=[event])
        except Conflict:
            continue
    raise Conflict(f"{name} changes too often; repeat.", metadata={"name": name})


def violations_of(asked: Job) -> list[Violation]:
    """Return every mistake in what was asked for."""
    violations = recipe.check(asked.asked_recipe)
    if not asked.base_model:
        violations.append(Violation("fine_tuning_job.base_model", "REQUIRED", "Give base_model: an id from the catalogue."))
    if bool(asked.training_file) == bool(asked.dataset):
        violations.append(Violation("fine_tuning_job.training_file", "EXACTLY_ONE", "Give either training_file or dataset."))
    if asked.validation_file:
        violations += _check_validation_file(asked)
    if asked.suffix and not re.fullmatch(r"[a-z0-9-]{1,64}", asked.suffix):
        violations.append(Violation("fine_tuning_job.suffix", "MALFORMED", "suffix has at most 64 characters of a-z, 0-9 and -."))
    if len(asked.metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in asked.metadata.items()):
        violations.append(
            Violation(
                "fine_tuning_job.metadata", "TOO_LARGE", "metadata has at most 16 pairs, keys of 64 and values of 512 characters."
            )
        )
    return violations


def check_evaluation(asked: Job, project: str) -> list[Violation]:
    """Return every mistake in how base and candidate are to be compared."""
    settings, path = asked.evaluation_settings, "fine_tuning_job.evaluation_settings"
    violations = []
    suite = settings.get("suite", "")
    if suite and not re.fullmatch(rf"projects/{project}/suites/[a-z0-9-]{{1,63}}", suite):
        told = f"Name a suite of this project: projects/{project}/suites/…."
        violations.append(Violation(f"{path}.suite", "MALFORMED", told))
    if settings.get("is_disabled") and (suite or settings.get("candidate_prompts")):
        told = "Nothing is compared, so neither suite nor prompts have a use; leave them out, or is_disabled."
        violations.append(Violation(f"{path}.is_disabled", "CONTRADICTORY", told))
    elif settings.get("candidate_prompts") and not suite:
        told = "Prompts are chosen from a suite of your own; the default suite has one."
        violations.append(Violation(f"{path}.candidate_prompts", "MISPLACED", told))
    return violations


def _check_validation_file(asked: Job) -> list[Violation]:
    violations = []
    if not asked.training_file:
        told = "validation_file goes with training_file; a dataset has its validation rows already."
        violations.append(Violation("fine_tuning_job.validation_file", "MISPLACED", told))
    if asked.validation_file == asked.training_file:
        told = "validation_file is training_file; name another file, or leave it out to hold out a share."
        violations.append(Violation("fine_tuning_job.validation_file", "VALIDATION_IS_TRAINING", told))
    if asked.split.get("validation_fraction"):
        told = "validation_file gives the rows that validate; make split's validation_fraction 0."
        violations.append(Violation("fine_tuning_job.split", "VALIDATION_GIVEN_TWICE", told))
    return violations
