"""Sweeps: what can be asked of them, and how one moves.

    RUNNING → PROVING → SUCCEEDED      (FAILED; CANCELLING → CANCELLED)

Its jobs are created one after another, so that other people's jobs get their turn in between. A member that fails, or that
somebody cancels, costs the others nothing. Each model is registered, but only the winner is proven on its server: loading
sixty adapters to prove what nobody will ask for would take longer than it is worth, and one that is asked for later is
proven then. A winner whose proof fails gives way to the next best.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.common import errors
from services.common.names import new_id, parse, project_of
from services.common.ports.database import NewEvent, Record, StoredEvent
from services.common.reconcile import Change
from services.common.telemetry import trace_id
from services.trainer import sweep as noun
from services.trainer import use_cases
from services.trainer.job import KIND as JOB_KIND
from services.trainer.job import Job
from services.trainer.proving import look
from services.trainer.sweep import KIND, Sweep
from services.trainer.use_cases import Trainer

PATTERN = "projects/{project}/sweeps/{sweep}"
LOOK_AGAIN_S = 0.5


async def create_sweep(trainer: Trainer, parent: str, asked: Sweep, request_id: str) -> Record:
    """Create a sweep, which begins by itself. Raises: InvalidInput (every mistake at once), NotFound (dataset, base)."""
    project = project_of(parent)
    _check(asked, project)
    if project_of(asked.dataset) != project:
        raise errors.NotFound(f"{parent} has no {asked.dataset}.", metadata={"parent": parent})
    await trainer.peers.base(asked.base_model)
    if not (await trainer.peers.dataset(asked.dataset))["validation"]:
        raise errors.InvalidInput(
            f"A sweep chooses by validation loss, and {asked.dataset} has no validation rows; make the dataset again with a "
            "validation fraction above 0 or a validation file (under 50 rows nothing is held out by itself).",
            reason="VALIDATION_ROWS_MISSING",
        )
    if suite := asked.evaluation_settings.get("suite"):
        await trainer.peers.suite(suite)
    sweep = replace(asked, name=f"projects/{project}/sweeps/{new_id('sweep')}", trace_id=trace_id.get())
    created = NewEvent("STATE_CHANGED", f"The sweep of {len(sweep.recipes)} recipes was created.", data={"state": sweep.state})
    return await trainer.database.create(
        KIND,
        sweep.name,
        sweep.to_document(),
        due_time=trainer.clock(),
        request_id=f"{parent}:{request_id}" if request_id else "",
        events=[created],
    )


async def get_sweep(trainer: Trainer, name: str) -> Record:
    """Return a sweep. Raises: NotFound."""
    parse(PATTERN, name)
    return await trainer.database.get(KIND, name)


async def list_sweeps(trainer: Trainer, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return sweeps of a project, newest first."""
    project_of(parent)
    return await trainer.database.list(KIND, parent, after=after, limit=limit)


async def list_events(trainer: Trainer, name: str, after: int, limit: int) -> Sequence[StoredEvent]:
    """Return a sweep's events, oldest first."""
    return await trainer.database.events(KIND, name, after=after, limit=limit)


async def current_job(trainer: Trainer, sweep: Sweep) -> Record | None:
    """Return the job whose turn it is; None between two, and when all have ended."""
    if sweep.begun_count == len(sweep.ended):
        return None
    return await trainer.database.get(JOB_KIND, sweep.job_name(sweep.begun_count - 1))


async def cancel_sweep(trainer: Trainer, name: str) -> Record:
    """Ask a sweep to end as CANCELLED. Raises: NotFound, WrongState (it has ended), Conflict."""
    for _ in range(10):  # the reconcile loop may write between our read and our write
        record = await get_sweep(trainer, name)
        sweep = Sweep.from_document(record.document)
        if sweep.has_ended:
            text = f"{name} has ended as {sweep.state}; there is nothing to cancel."
            raise errors.WrongState(text, metadata={"state": sweep.state})
        if sweep.state == "CANCELLING":
            return record
        moved = sweep.move("CANCELLING")
        event = _state_event(moved, "Somebody asked to cancel; the job that runs is cancelled with the sweep.")
        try:
            return await trainer.database.update(record, moved.to_document(), due_time=trainer.clock(), events=[event])
        except errors.Conflict:
            continue
    raise errors.Conflict(f"{name} changes too often; repeat.", metadata={"name": name})


async def reconcile_sweep(trainer: Trainer, record: Record) -> Change:
    """Look at a sweep and move it by at most one member or state."""
    sweep = Sweep.from_document(record.document)
    step = {"RUNNING": _run, "PROVING": _prove, "CANCELLING": _cancel}[sweep.state]
    try:
        change = await step(trainer, sweep)
    except (errors.InvalidInput, errors.NotFound, errors.WrongState) as error:
        change = _ended(sweep.fail(error), error.message, "ERROR")
    return change.stamped(Sweep.from_document(change.document).has_ended, trainer.clock())


async def _run(trainer: Trainer, sweep: Sweep) -> Change:
    """Note what came of the job whose turn it was, and begin the next; after the last, choose."""
    record = await current_job(trainer, sweep)
    told = []
    if record is not None:
        job = Job.from_document(record.document)
        if not job.has_ended:
            return Change(sweep.to_document(), LOOK_AGAIN_S)
        sweep = sweep.end_member(job)
        told = [_member_ended(sweep, job)]
    if sweep.begun_count < len(sweep.recipes):
        return await _begin_next(trainer, sweep, told)
    return _choose(sweep, told)


async def _begin_next(trainer: Trainer, sweep: Sweep, told: list[NewEvent]) -> Change:
    at = sweep.begun_count
    asked = Job(
        name=sweep.job_name(at),
        base_model=sweep.base_model,
        dataset=sweep.dataset,
        asked_recipe=sweep.recipes[at],
        suffix=sweep.suffix,
        metadata=sweep.metadata,
        sweep=sweep.name,
        evaluation_settings=sweep.evaluation_settings,
    )
    await use_cases.begin_job(trainer, asked)
    if (await trainer.database.get(KIND, sweep.name)).document["state"] != sweep.state:
        await _cancel_job(trainer, asked.name)  # somebody cancelled the sweep while we created, and may have looked before
    begun = replace(sweep, begun_count=at + 1)
    event = NewEvent(
        "MEMBER_BEGUN", f"Recipe {at + 1} of {len(sweep.recipes)} is tried by {asked.name}.", data={"member": at + 1}
    )
    return Change(begun.to_document(), LOOK_AGAIN_S, [*told, event])


def _choose(sweep: Sweep, told: list[NewEvent]) -> Change:
    """Name the winner, who has yet to be proven. Raises: WrongState (nobody is left)."""
    best = sweep.best
    if best is None:
        reasons = sorted({str(end["error"].get("message", end["state"])) for end in sweep.ended})
        text = f"None of the {len(sweep.ended)} recipes came to a model that can be served. {' '.join(reasons[:3])}"
        failed = replace(sweep, winner=None).fail(errors.WrongState(text, reason="NO_WINNER"))
        return Change(failed.to_document(), None, [*told, _state_event(failed, text, "ERROR")])
    loss = sweep.ended[best]["validation_loss"]
    moved = replace(sweep, state="PROVING", winner=best, prove_look_count=0)
    text = f"Recipe {best + 1} has the lowest validation loss, {loss:.4f}; its model is proven on its server."
    return Change(moved.to_document(), 0.0, [*told, _state_event(moved, text)])


async def _prove(trainer: Trainer, sweep: Sweep) -> Change:
    """See to it that the winner is proven; where it can't be, choose again."""
    assert sweep.winner is not None
    won = sweep.ended[sweep.winner]
    try:
        proof, look_count = await look(trainer, won["model"], sweep.prove_look_count)
    except (errors.InvalidInput, errors.NotFound, errors.WrongState) as error:
        text = f"The model of recipe {sweep.winner + 1} can't be proven, so the next best is taken: {error.message}"
        event = NewEvent("WARNING", text, "WARNING", {"member": sweep.winner + 1})
        return _choose(replace(sweep, refused=[*sweep.refused, sweep.winner]), [event])
    if proof is None:
        return Change(replace(sweep, prove_look_count=look_count).to_document(), 1.0)
    await use_cases.judge_winner(trainer, sweep.job_name(sweep.winner))
    return _ended(sweep.move("SUCCEEDED"), f"The sweep has succeeded: {won['fine_tuned_model']}.")


async def _cancel(trainer: Trainer, sweep: Sweep) -> Change:
    """Cancel the job that runs, also one that was created and could not be noted any more, and wait for its end."""
    for at in range(len(sweep.ended), min(sweep.begun_count + 1, len(sweep.recipes))):
        try:
            job = Job.from_document((await trainer.database.get(JOB_KIND, sweep.job_name(at))).document)
        except errors.NotFound:
            continue
        if not job.has_ended:
            await _cancel_job(trainer, job.name)
            return Change(sweep.to_document(), LOOK_AGAIN_S)
        sweep = replace(sweep.end_member(job), begun_count=at + 1)
    return _ended(sweep.move("CANCELLED"), "The sweep was cancelled.")


async def _cancel_job(trainer: Trainer, name: str) -> None:
    try:
        await use_cases.cancel_job(trainer, name)
    except errors.WrongState:
        return  # it has ended meanwhile


def _check(asked: Sweep, project: str) -> None:
    job = Job(
        "",
        asked.base_model,
        dataset=asked.dataset or "unnamed",
        suffix=asked.suffix,
        metadata=asked.metadata,
        evaluation_settings=asked.evaluation_settings,
    )
    found = [*use_cases.violations_of(job), *use_cases.check_evaluation(job, project)]
    violations = [replace(v, field=v.field.replace("fine_tuning_job", "sweep")) for v in found]
    if not asked.dataset:
        violations.append(errors.Violation("sweep.dataset", "REQUIRED", "Give dataset: `afina datasets list` shows them."))
    violations += noun.check(asked.recipes)
    if violations:
        text = "The sweep can't be created: " + " ".join(v.description for v in violations)
        raise errors.InvalidInput(text, violations=violations)


def _member_ended(sweep: Sweep, job: Job) -> NewEvent:
    at, told = len(sweep.ended), sweep.ended[-1]
    data = {"member": at, "state": job.state, "validation_loss": told["validation_loss"]}
    if told["validation_loss"] is None:
        text = f"Recipe {at} is {job.state.lower()}; the others go on. {job.error.get('message', '')}".rstrip()
        return NewEvent("MEMBER_ENDED", text, "WARNING", data)
    return NewEvent("MEMBER_ENDED", f"Recipe {at} has a validation loss of {told['validation_loss']:.4f}.", data=data)


def _state_event(sweep: Sweep, message: str, level: str = "INFO") -> NewEvent:
    return NewEvent("STATE_CHANGED", message, level, {"state": sweep.state})


def _ended(sweep: Sweep, message: str, level: str = "INFO") -> Change:
    return Change(sweep.to_document(), None, [_state_event(sweep, message, level)])
