"""What can be asked of the evaluator: one short function a verb."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from services.common import attempts
from services.common.errors import AlreadyExists, Conflict, InvalidInput, Unauthenticated, Violation, WrongState
from services.common.names import LOWER_ID, new_id, parse
from services.common.ports.database import Database, NewEvent, Record, StoredEvent
from services.common.ports.launcher import Launcher
from services.common.ports.object_store import ObjectStore
from services.common.telemetry import trace_id
from services.evaluator import evaluation, suite
from services.evaluator.clients import Peers
from services.evaluator.evaluation import Evaluation, Subject
from services.evaluator.suite import Suite

PARENT = "projects/{project}"
DATASET = "projects/{project}/datasets/{dataset}"


@dataclass(frozen=True)
class Evaluator:
    """What the evaluator's use cases work with."""

    database: Database
    store: ObjectStore
    launcher: Launcher
    peers: Peers
    worker_environment: Mapping[str, str]


async def create_suite(evaluator: Evaluator, parent: str, asked: Suite, suite_id: str) -> Record:
    """Create a suite; the same content under the same id is the same suite. Raises: InvalidInput, NotFound, AlreadyExists."""
    project = parse(PARENT, parent)["project"]
    violations = suite.check(asked)
    if suite_id and not LOWER_ID.fullmatch(suite_id):
        violations.append(Violation("suite_id", "MALFORMED", "suite_id has 1 to 63 characters of a-z, 0-9 and -."))
    if not _belongs(asked.dataset, DATASET, project):
        text = f"Name a dataset of this project: projects/{project}/datasets/…."
        violations.append(Violation("suite.dataset", "MALFORMED", text))
        _refuse("suite", violations)
    questions = await evaluator.peers.questions(asked.dataset)
    whole = asked.over(questions)
    _refuse("suite", violations + suite.check_over(whole, questions.label_counts))
    name = f"{parent}/suites/{suite_id or f'suite-{whole.digest[:24]}'}"
    whole = replace(whole, name=name)
    try:
        return await evaluator.database.create(suite.KIND, name, whole.to_document())
    except AlreadyExists:
        existing = await evaluator.database.get(suite.KIND, name)
        if Suite.from_document(existing.document).digest != whole.digest:
            raise AlreadyExists(f"{name} exists with other content; choose another id.", metadata={"name": name}) from None
        return existing


async def get_suite(evaluator: Evaluator, name: str) -> Record:
    """Return a suite. Raises: NotFound."""
    parse(suite.NAME, name)
    return await evaluator.database.get(suite.KIND, name)


async def list_suites(evaluator: Evaluator, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return suites of a project, newest first."""
    parse(PARENT, parent)
    return await evaluator.database.list(suite.KIND, parent, after=after, limit=limit)


async def create_evaluation(
    evaluator: Evaluator, parent: str, suite_name: str, subjects: Sequence[Subject], request_id: str
) -> Record:
    """Create an evaluation, which begins by itself. Raises: InvalidInput (every mistake at once), NotFound (suite, model)."""
    project = parse(PARENT, parent)["project"]
    if not _belongs(suite_name, suite.NAME, project):
        text = f"Name a suite of this project: projects/{project}/suites/…."
        malformed = Violation("evaluation.suite", "MALFORMED", text)
        _refuse("evaluation", [malformed, *evaluation.check_subjects([replace(s, prompts=()) for s in subjects], ())])
    asked = Suite.from_document((await evaluator.database.get(suite.KIND, suite_name)).document)
    prompts = [prompt.id for prompt in asked.prompts]
    _refuse("evaluation", evaluation.check_subjects(subjects, prompts))
    whole = [replace(s, prompts=s.prompts or tuple(prompts)) for s in subjects]
    found = tuple([await evaluator.peers.subject(subject, project) for subject in whole])
    _refuse("evaluation", evaluation.check_subjects(found, prompts))  # two names may be one model
    name = f"{parent}/evaluations/{new_id('eval')}"
    new = Evaluation(
        name=name,
        suite=suite_name,
        suite_digest=asked.digest,
        subjects=found,
        labels=asked.labels,
        question_count=asked.test.row_count * sum(len(subject.prompts) for subject in found),
        trace_id=trace_id.get(),
    )
    created = NewEvent("STATE_CHANGED", "The evaluation was created; it waits for its turn.", data={"state": new.state})
    return await evaluator.database.create(
        evaluation.KIND,
        name,
        new.to_document(),
        due_time=datetime.now(UTC),
        request_id=f"{parent}:{request_id}" if request_id else "",
        events=[created],
    )


async def get_evaluation(evaluator: Evaluator, name: str) -> Record:
    """Return an evaluation. Raises: NotFound."""
    parse(evaluation.NAME, name)
    return await evaluator.database.get(evaluation.KIND, name)


async def list_evaluations(evaluator: Evaluator, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return evaluations of a project, newest first."""
    parse(PARENT, parent)
    return await evaluator.database.list(evaluation.KIND, parent, after=after, limit=limit)


async def cancel_evaluation(evaluator: Evaluator, name: str) -> Record:
    """Ask an evaluation to end as CANCELLED. Raises: NotFound, WrongState (it has ended)."""
    for _ in range(10):  # the reconcile loop may write between our read and our write
        record = await get_evaluation(evaluator, name)
        current = Evaluation.from_document(record.document)
        if current.state == "CANCELLING":
            return record
        if current.has_ended:
            text = f"{name} has ended as {current.state}; there is nothing to cancel."
            raise WrongState(text, metadata={"state": current.state})
        moved = current.move("CANCELLING")
        event = NewEvent("STATE_CHANGED", "Somebody asked to cancel; the evaluation stops.", data={"state": moved.state})
        try:
            return await evaluator.database.update(record, moved.to_document(), due_time=datetime.now(UTC), events=[event])
        except Conflict:
            continue
    raise Conflict(f"{name} changes too often to be cancelled; repeat.")


async def list_events(evaluator: Evaluator, name: str, after: int, limit: int) -> Sequence[StoredEvent]:
    """Return an evaluation's events, oldest first. Raises: NotFound."""
    await get_evaluation(evaluator, name)
    return await evaluator.database.events(evaluation.KIND, name, after=after, limit=limit)


async def answered_count(evaluator: Evaluator, name: str) -> int:
    """Return how many questions this attempt has answered, as last reported; derived, so progress never competes with state."""
    told = await evaluator.database.last_event(evaluation.KIND, name, "ANSWERED")
    ended = await evaluator.database.last_event(evaluation.KIND, name, "ATTEMPT_ENDED")
    return int(told.data["answered"]) if told and (not ended or ended.sequence < told.sequence) else 0


async def report_progress(
    evaluator: Evaluator, name: str, attempt: int, token: str, first_number: int, events: Sequence[NewEvent]
) -> bool:
    """Record a worker's events, each once, and say whether it should stop. Raises: NotFound, Unauthenticated."""
    current = Evaluation.from_document((await get_evaluation(evaluator, name)).document)
    reported = await attempts.require(evaluator.database, name, attempt, token)
    if current.has_ended or attempt < current.attempt or attempt <= current.given_up:
        raise Unauthenticated(f"Attempt {attempt} of {name} is over.", reason="ATTEMPT_OVER")
    await attempts.record_events(evaluator.database, reported, evaluation.KIND, name, first_number, events)
    return current.state == "CANCELLING"


def _belongs(name: str, pattern: str, project: str) -> bool:
    """Whether a name has a form and is of a project."""
    try:
        return parse(pattern, name)["project"] == project
    except InvalidInput:
        return False


def _refuse(what: str, violations: Sequence[Violation]) -> None:
    if violations:
        told = " ".join(violation.description for violation in violations)
        raise InvalidInput(f"The {what} can't be created: {told}", violations=violations)
