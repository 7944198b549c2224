"""Promotions: how an endpoint comes to point to another model, forward through its gate or back to one from before.

Both end the same way. The model is proven on the server that will answer; then the pointer is written, with who, when, why and on
what evidence, in one write; then nobody is told that it is done before no gateway can answer by the old table (`watchers.py`).
"""

import asyncio
from dataclasses import asdict, replace

from services.common import scopes
from services.common.errors import Conflict, InvalidInput, Unavailable, WrongState
from services.common.names import last, parse, project_of
from services.common.ports.database import NewEvent, Record
from services.common.principal import acting
from services.inference import endpoint, evidence, model, watchers
from services.inference.candidacy import stand
from services.inference.endpoint import FIRST, OVERRIDE, PROMOTION, ROLLBACK, Endpoint, Promotion, check_reason
from services.inference.endpoints import PROMOTED, get_endpoint, has_history, history
from services.inference.evidence import OVERRIDABLE, Finding, Refusal
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.serving import ensure_served

EVALUATION_NAME = "projects/{project}/evaluations/{evaluation}"


async def promote(
    inference: Inference,
    name: str,
    candidate_name: str,
    evaluation: str,
    etag: str,
    timeout_s: float,
    *,
    override_reason: str = "",
    reason: str = "",
) -> Record:
    """Point an endpoint to a model if its gate lets it pass, or for an override's reason. Repeating it changes nothing.

    Raises: NotFound, InvalidInput, WrongState (with the gate's reason), Conflict (stale etag), Unavailable (not proven in time,
    or a gateway may still answer by the old table), PermissionDenied (it overrides, and who acts may only promote).
    """
    end = asyncio.get_running_loop().time() + timeout_s
    if override_reason:
        acting().require(scopes.OVERRIDE)
    _check(name, candidate_name, evaluation, override_reason, reason)
    record = await get_endpoint(inference, name)
    current = Endpoint.from_document(record.document)
    if etag and current.promotions and _is_made(current.promotions[-1], candidate_name, etag):
        return await _settled(inference, record, end)
    _require_unchanged(record, etag)
    candidate = await _active(inference, candidate_name)
    if (current.model, current.digest) == (candidate.name, candidate.digest):
        return await _settled(inference, record, end)
    finding, kind = await _decided(inference, current, candidate, evaluation, has_override=bool(override_reason))
    await _prove(inference, candidate, end)
    promotion = _promotion(inference, candidate, kind, finding, override_reason or reason, evaluation)
    return await _settled(inference, await _point(inference, record, promotion), end)


async def rollback(inference: Inference, name: str, target_name: str, reason: str, etag: str, timeout_s: float) -> Record:
    """Point an endpoint back to the model before, or to another that it pointed to.

    Repeating it with its target or with its etag changes nothing. Raises: as `promote`; WrongState also where there was none
    before, or never that one.
    """
    end = asyncio.get_running_loop().time() + timeout_s
    if violations := check_reason("reason", reason, is_required=True):
        raise InvalidInput(f"The endpoint is not rolled back: {violations[0].description}", violations=violations)
    record = await get_endpoint(inference, name)
    current = Endpoint.from_document(record.document)
    if etag and current.promotions and _is_repeated(current.promotions[-1], target_name, reason, etag):
        return await _settled(inference, record, end)
    _require_unchanged(record, etag)
    before = _target(current, [*await history(inference, name)], target_name)
    target = await _active(inference, before.model)
    if (current.model, current.digest) == (target.name, target.digest):
        return await _settled(inference, record, end)
    if target.digest != before.digest:
        raise WrongState(f"{target.name} is not the model that {name} pointed to.", reason="EVALUATION_STALE")
    await _prove(inference, target, end)
    told = Finding(f"Back to number {before.number}: {before.verdict}"[:1000], dict(before.evidence))
    promotion = _promotion(inference, target, ROLLBACK, told, reason, before.evaluation)
    return await _settled(inference, await _point(inference, record, promotion), end)


def _check(name: str, candidate_name: str, evaluation: str, override_reason: str, reason: str) -> None:
    project = project_of(name)
    violations = [
        *check_reason("override_reason", override_reason, is_required=bool(override_reason)),
        *check_reason("reason", reason, is_required=False),
    ]
    if violations:
        told = " ".join(violation.description for violation in violations)
        raise InvalidInput(f"The endpoint is not changed: {told}", violations=violations)
    is_known = bool(evaluation) or not override_reason
    if project_of(candidate_name) != project or (is_known and parse(EVALUATION_NAME, evaluation)["project"] != project):
        raise InvalidInput(f"Model and evaluation have to be of project {project}.", reason="WRONG_PROJECT")
    parse(model.OWN_NAME, candidate_name)


def _require_unchanged(record: Record, etag: str) -> None:
    if etag and etag != str(record.version):
        told = f"{record.name} has changed since you read it; read it again."
        raise Conflict(told, metadata={"etag": str(record.version)})


def _is_made(made: Promotion, candidate_name: str, etag: str) -> bool:
    """Whether the last change is the one that is asked for: the caller has not heard that it was made, or of every gateway."""
    return made.model == candidate_name and etag == str(made.made_over)


def _is_repeated(made: Promotion, target_name: str, reason: str, etag: str) -> bool:
    """Whether the last change is the rollback that is asked for: the caller has not heard that it was made."""
    is_same = made.kind == ROLLBACK and made.reason == reason.strip() and target_name in ("", made.model)
    return is_same and etag == str(made.made_over)


async def _active(inference: Inference, name: str) -> Model:
    found = Model.from_document((await inference.database.get(model.KIND, name)).document)
    found.require_active()
    return found


async def _decided(
    inference: Inference, current: Endpoint, candidate: Model, evaluation: str, *, has_override: bool
) -> tuple[Finding, str]:
    """Return what the gate found, and as what the change is kept. Raises: Refusal (none is overridden, or it can't be)."""
    if not evaluation:
        return Finding("No evaluation was given."), OVERRIDE
    try:
        told = await inference.evaluations.evidence(evaluation)
        return await evidence.judge(inference, current, candidate, told), PROMOTION if current.model else FIRST
    except Refusal as refusal:
        if not has_override or refusal.reason not in OVERRIDABLE:
            raise
        return refusal.finding, OVERRIDE


def _target(current: Endpoint, changes: list[Promotion], target_name: str) -> Promotion:
    """Return the promotion to go back to. Raises: WrongState (there is none)."""
    if target_name:
        found = next((p for p in reversed(changes) if p.model == target_name), None)
        if found is None:
            known = ", ".join(dict.fromkeys(p.model for p in reversed(changes)))
            told = f"{current.name} never pointed to {target_name}; it did to: {known or 'nothing'}. Promote it instead."
            raise WrongState(told, reason="NEVER_PROMOTED", metadata={"model": target_name})
        return found
    found = endpoint.before(changes)
    if found is None:
        told = f"{current.name} pointed to no other model before; there is nothing to go back to."
        raise WrongState(told, reason="NOTHING_BEFORE")
    return found


async def _prove(inference: Inference, candidate: Model, end: float) -> None:
    """See to it that a model is proven on the server that will answer. Raises: WrongState, Unavailable."""
    served, _ = await ensure_served(inference, candidate.name, _left_s(end))
    if not Model.from_document(served.document).is_distinguishable:
        raise WrongState(
            f"The references of {candidate.name} can't tell it from its base, so no proof shows which one answers.",
            reason="MODEL_INDISTINGUISHABLE",
            metadata={"model": candidate.name},
        )


def _promotion(inference: Inference, candidate: Model, kind: str, finding: Finding, reason: str, evaluation: str) -> Promotion:
    return Promotion(
        model=candidate.name,
        digest=candidate.digest,
        previous_model="",  # these and the number are the endpoint's to say
        evaluation=evaluation,
        verdict=finding.verdict,
        create_time=inference.clock().isoformat(),
        actor=acting().name,
        reason=reason.strip(),
        kind=kind,
        evidence=finding.numbers,
    )


async def _point(inference: Inference, record: Record, promotion: Promotion) -> Record:
    """Write the pointer with its history, over the version that was decided on. Raises: Conflict, WrongState, NotFound."""
    await stand(inference, promotion.model, record)
    before = Endpoint.from_document(record.document)
    after = before.change(replace(promotion, made_over=record.version))
    new = (*(() if has_history(record) else before.promotions), after.promotions[-1])
    events = [NewEvent(PROMOTED, f"{p.kind} of {p.model}", data=asdict(p)) for p in new]
    try:
        return await inference.database.update(record, after.to_document(), events=events)
    except Conflict as error:
        told = f"{record.name} was changed by somebody else meanwhile, or {promotion.model} was; look at it, and repeat."
        raise Conflict(told, metadata={"endpoint": record.name}) from error


async def _settled(inference: Inference, record: Record, end: float) -> Record:
    """Return once no gateway can answer a new request with a model before. Raises: Unavailable (one still may)."""
    revision = await watchers.advance(inference.database)
    await inference.routes.refresh()
    try:
        await inference.routes.watchers.wait_for(revision, _left_s(end))
    except Unavailable as error:
        if error.reason != "GATEWAYS_BEHIND":
            raise
        pointed = f"{last(record.name)} points to {record.document['model']} now, but {error.message}"
        told = f"{pointed} Repeat the call with the same model to wait for that."
        raise Unavailable(told, reason=error.reason, metadata=error.metadata) from error
    return record


def _left_s(end: float) -> float:
    return max(0.0, end - asyncio.get_running_loop().time())
