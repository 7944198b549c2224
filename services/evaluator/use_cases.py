"""What can be asked of the evaluator: one short function a verb."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from services.common import attempts
from services.common.errors import (
    AfinaError,
    AlreadyExists,
    Conflict,
    InvalidInput,
    NotFound,
    Unauthenticated,
    Violation,
    WrongState,
)
from services.common.names import LOWER_ID, new_id, parse
from services.common.ports.database import Database, NewEvent, Record, StoredEvent
from services.common.ports.launcher import Launcher
from services.common.ports.object_store import ObjectStore
from services.common.store_access import Grant
from services.common.telemetry import trace_id
from services.evaluator import default_suite, evaluation, suite, suite_checks
from services.evaluator.clients import Peers
from services.evaluator.evaluation import Evaluation, Subject
from services.evaluator.sample import sample
from services.evaluator.suite import Part, Suite

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
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    silence_limit_s: float = 3600.0  # a worker that reports nothing new for so long is stopped, and followed by the next

    @property
    def signer(self) -> str:
        """Where workers have their requests to the store signed: where they report to."""
        return self.worker_environment.get("AFINA_REPORT_TO", "")


async def create_suite(evaluator: Evaluator, parent: str, asked: Suite, suite_id: str) -> Record:
    """Create a suite; the same content under the same id is the same suite. Raises: InvalidInput, NotFound, AlreadyExists."""
    project = parse(PARENT, parent)["project"]
    violations = suite_checks.check(asked)
    if suite_id and not LOWER_ID.fullmatch(suite_id):
        violations.append(Violation("suite_id", "MALFORMED", "suite_id has 1 to 63 characters of a-z, 0-9 and -."))
    if not _belongs(asked.dataset, DATASET, project):
        text = f"Name a dataset of this project: projects/{project}/datasets/…."
        violations.append(Violation("suite.dataset", "MALFORMED", text))
        _refuse("suite", violations)
    try:
        questions = await evaluator.peers.questions(asked.dataset)
    except NotFound as error:
        raise _refusal_of_unknown("suite", [_unknown("suite.dataset", error, "datasets")], violations) from error
    whole = asked.over(questions)
    _refuse("suite", violations + suite_checks.check_over(whole, questions.label_counts))
    name = f"{parent}/suites/{suite_id or f'suite-{whole.digest[:24]}'}"
    whole = replace(whole, name=name)
    try:
        return await evaluator.database.create(suite.KIND, name, whole.to_document())
    except AlreadyExists:
        existing = await evaluator.database.get(suite.KIND, name)
        if Suite.from_document(existing.document).digest != whole.digest:
            raise AlreadyExists(f"{name} exists with other content; choose another id.", metadata={"name": name}) from None
        return existing


async def ensure_default_suite(evaluator: Evaluator, parent: str, dataset: str) -> Record:
    """Return the default suite of a dataset, made where it is not there. Raises: InvalidInput, NotFound, Unavailable."""
    project = parse(PARENT, parent)["project"]
    if not _belongs(dataset, DATASET, project):
        text = f"Name a dataset of this project: projects/{project}/datasets/…."
        _refuse("suite", [Violation("dataset", "MALFORMED", text)])
    suite_id = default_suite.suite_id(dataset)
    try:
        return await get_suite(evaluator, f"{parent}/suites/{suite_id}")
    except NotFound:
        questions = await evaluator.peers.questions(dataset)
    answers, choosing = [
        await asyncio.to_thread(_sampled_answers, evaluator.store, part) for part in (questions.test, questions.validation)
    ]
    made = default_suite.default_suite(dataset, questions, answers, choosing)
    return await create_suite(evaluator, parent, made, suite_id)


def _sampled_answers(store: ObjectStore, part: Part) -> list[str]:
    """Return the answers of the rows that are asked, in constant memory."""
    if not part.row_count:
        return []
    chosen = sample(part.row_count, default_suite.MAX_ITEMS)
    with store.open(part.artifact["key"]) as stream:
        return default_suite.answers_of(line for place, line in enumerate(stream) if place in chosen)


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
    visible = evaluation.check_subjects([replace(s, prompts=()) for s in subjects], ())  # without knowing the suite
    if not _belongs(suite_name, suite.NAME, project):
        text = f"Name a suite of this project: projects/{project}/suites/…."
        _refuse("evaluation", [Violation("evaluation.suite", "MALFORMED", text), *visible])
    try:
        asked = Suite.from_document((await evaluator.database.get(suite.KIND, suite_name)).document)
    except NotFound as error:
        raise _refusal_of_unknown("evaluation", [_unknown("evaluation.suite", error, "suites")], visible) from error
    found = await _subjects(evaluator, project, asked, subjects)
    name = f"{parent}/evaluations/{new_id('eval')}"
    new = Evaluation(
        name=name,
        suite=suite_name,
        suite_digest=asked.digest,
        subjects=found,
        labels=asked.labels,
        deciding_metric=asked.deciding_metric,
        choice="VALIDATION" if asked.choosing.row_count else "CLOSEST",
        question_count=sum(asked.question_count(len(subject.prompts)) for subject in found),
        trace_id=trace_id.get(),
    )
    created = NewEvent("STATE_CHANGED", "The evaluation was created; it waits for its turn.", data={"state": new.state})
    return await evaluator.database.create(
        evaluation.KIND,
        name,
        new.to_document(),
        due_time=evaluator.clock(),
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
            return await evaluator.database.update(record, moved.to_document(), due_time=evaluator.clock(), events=[event])
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
    current, reported = await _attempt_of(evaluator, name, attempt, token)
    await attempts.record_events(evaluator.database, reported, evaluation.KIND, name, first_number, events)
    return current.state == "CANCELLING"


async def store_grant(evaluator: Evaluator, name: str, attempt: int, token: str) -> Grant:
    """Return what an attempt may touch of the store. Raises: NotFound, Unauthenticated (it is over, or not its token)."""
    _, record = await _attempt_of(evaluator, name, attempt, token)
    return Grant.of(record.document)


async def _attempt_of(evaluator: Evaluator, name: str, attempt: int, token: str) -> tuple[Evaluation, Record]:
    """Return the evaluation and the attempt that a token belongs to. Raises: NotFound, Unauthenticated (also: it is over)."""
    parse(evaluation.NAME, name)
    record = await attempts.require(evaluator.database, name, attempt, token)  # first: who has no token learns nothing
    current = Evaluation.from_document((await get_evaluation(evaluator, name)).document)
    if current.has_ended or attempt < current.attempt or attempt <= current.given_up:
        raise Unauthenticated(f"Attempt {attempt} of {name} is over.", reason="ATTEMPT_OVER")
    return current, record


async def _subjects(evaluator: Evaluator, project: str, asked: Suite, subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Return who is asked, completed. Raises: InvalidInput (every mistake), NotFound (unknown models alone)."""
    prompts = tuple(prompt.id for prompt in asked.prompts)
    violations, unknown, found = evaluation.check_subjects(subjects, prompts), [], []
    for index, subject in enumerate(subjects[: evaluation.MAX_SUBJECTS]):
        path = f"evaluation.subjects[{index}].model"
        try:
            if subject.model:
                found.append(await evaluator.peers.subject(replace(subject, prompts=subject.prompts or prompts), project))
        except NotFound as error:
            unknown.append(_unknown(path, error, "models"))
        except InvalidInput as error:
            violations.append(Violation(path, error.reason, error.message))
    if unknown:
        raise _refusal_of_unknown("evaluation", unknown, violations)
    _refuse("evaluation", violations or evaluation.check_subjects(found, prompts))  # two names may be one model
    return tuple(found)


def _belongs(name: str, pattern: str, project: str) -> bool:
    """Whether a name has a form and is of a project."""
    try:
        return parse(pattern, name)["project"] == project
    except InvalidInput:
        return False


def _unknown(field: str, error: NotFound, nouns: str) -> Violation:
    return Violation(field, "NOT_FOUND", f"{error.message} Take one that the list of {nouns} shows.")


def _refusal_of_unknown(what: str, unknown: Sequence[Violation], others: Sequence[Violation]) -> AfinaError:
    """Return the error for names that nothing has: NotFound where they are all that is wrong."""
    return _refusal(what, [*others, *unknown], InvalidInput if others else NotFound)


def _refuse(what: str, violations: Sequence[Violation]) -> None:
    if violations:
        raise _refusal(what, violations, InvalidInput)


def _refusal(what: str, violations: Sequence[Violation], kind: type[AfinaError]) -> AfinaError:
    told = " ".join(violation.description for violation in violations)
    return kind(f"The {what} can't be created: {told}", violations=violations)
