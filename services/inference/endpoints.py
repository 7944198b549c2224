"""What can be asked of inference about endpoints: one short function a verb.

A promotion believes nobody: the evaluation is read from the evaluator, every digest in it is held against what is here
now, the champion must have been asked in every way that the suite has, so that nobody wins against a weakened one, and
the candidate is proven on the server that will answer.
"""

from collections.abc import Sequence

from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, WrongState
from services.common.names import parse, project_of
from services.common.ports.database import Record
from services.inference import endpoint, gate, model
from services.inference.clients import Evidence
from services.inference.endpoint import Endpoint
from services.inference.gate import Comparison, Gate
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.public_ids import holder_of
from services.inference.serving import ensure_served

EVALUATION_NAME = "projects/{project}/evaluations/{evaluation}"


async def create_endpoint(inference: Inference, parent: str, endpoint_id: str, given: Gate) -> Record:
    """Create an endpoint that points to nothing yet. Raises: InvalidInput (all violations), AlreadyExists."""
    project = parse("projects/{project}", parent)["project"]
    rule = endpoint.complete(given)
    if violations := endpoint.check(project, endpoint_id, rule):
        told = " ".join(violation.description for violation in violations)
        raise InvalidInput(f"The endpoint can't be created: {told}", violations=violations)
    if (holder := await holder_of(inference, endpoint_id)) is not None:
        told = f"{endpoint_id} is a name of {holder.name}; choose another."
        raise AlreadyExists(told, metadata={"id": endpoint_id, "holder": holder.name})
    name = f"{parent}/endpoints/{endpoint_id}"
    return await inference.database.create(endpoint.KIND, name, Endpoint(name, rule).to_document())


async def get_endpoint(inference: Inference, name: str) -> Record:
    """Return an endpoint. Raises: NotFound."""
    parse(endpoint.NAME, name)
    return await inference.database.get(endpoint.KIND, name)


async def list_endpoints(inference: Inference, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return endpoints of a project, newest first."""
    project_of(parent)
    return await inference.database.list(endpoint.KIND, f"{parent}/endpoints", after=after, limit=limit)


async def promote(inference: Inference, name: str, candidate_name: str, evaluation: str, etag: str, timeout_s: float) -> Record:
    """Point an endpoint to a model if its gate lets it pass. Repeating it changes nothing.

    Raises: NotFound, WrongState (with the gate's reason), Conflict (stale etag), Unavailable (not proven in time).
    """
    record = await get_endpoint(inference, name)
    if etag and etag != str(record.version):
        raise Conflict(f"{name} has changed since you read it; read it again.", metadata={"etag": str(record.version)})
    current = Endpoint.from_document(record.document)
    project = project_of(name)
    if project_of(candidate_name) != project or parse(EVALUATION_NAME, evaluation)["project"] != project:
        raise InvalidInput(f"Model and evaluation have to be of project {project}.", reason="WRONG_PROJECT")
    parse(model.OWN_NAME, candidate_name)
    candidate = Model.from_document((await inference.database.get(model.KIND, candidate_name)).document)
    candidate.require_active()
    if current.model == candidate.name and current.digest == candidate.digest:
        return record
    evidence = await inference.evaluations.evidence(evaluation)
    comparisons = await _checked(inference, current, candidate, evidence)
    for comparison in reversed(comparisons):  # the candidate has to pass each; told is the first, which is the least clear
        verdict = gate.decide(current.gate, comparison)
        if verdict.answer != gate.Answer.BETTER:
            needed = {"items_needed": str(verdict.items_needed)} if verdict.items_needed else {}
            count = {"item_count": str(comparison.item_count)}
            raise WrongState(verdict.sentence, reason=verdict.answer, metadata={**needed, **count})
    served, _ = await ensure_served(inference, candidate.name, timeout_s)
    if not Model.from_document(served.document).is_distinguishable:
        raise WrongState(
            f"The references of {candidate.name} can't tell it from its base, so no proof shows which one answers.",
            reason="MODEL_INDISTINGUISHABLE",
            metadata={"model": candidate.name},
        )
    time = inference.clock().isoformat()
    promoted = current.promote(candidate.name, candidate.digest, evaluation, verdict.sentence, time)
    changed = await inference.database.update(record, promoted.to_document())
    await inference.routes.refresh()
    return changed


async def _checked(inference: Inference, current: Endpoint, candidate: Model, evidence: Evidence) -> list[Comparison]:
    """Return the comparisons that count, after holding the evaluation against what is here now. Raises: WrongState."""
    if evidence.state != "SUCCEEDED":
        raise _refusal("EVALUATION_UNFINISHED", f"{evidence.name} is {evidence.state}; only a finished one counts.")
    if current.gate.suite and evidence.suite != current.gate.suite:
        raise _refusal("WRONG_SUITE", f"The gate of {current.name} takes {current.gate.suite} alone, not {evidence.suite}.")
    champion = current.model or candidate.base
    if not champion:
        told = f"{candidate.name} names no base to be compared with; register it with its base, or promote another model first."
        raise _refusal("CHAMPION_MISSING", told)
    pairs = [c for c in evidence.comparisons if c.candidate == candidate.name and c.champion == champion]
    if not pairs:
        told = f"{evidence.name} does not compare {candidate.name} with {champion}; evaluate these two."
        raise _refusal("WRONG_CHAMPION", told)
    suite = await inference.evaluations.suite(evidence.suite)
    if suite.digest != evidence.suite_digest:
        raise _refusal("EVALUATION_STALE", f"{evidence.suite} is not what {evidence.name} asked; evaluate again.")
    if not suite.is_held_out:
        told = f"{evidence.suite} asks validation rows, which chose the candidate's checkpoint; evaluate it on test rows."
        raise _refusal("ROWS_NOT_HELD_OUT", told)
    for name in (champion, candidate.name):
        if evidence.digests.get(name) != await _digest(inference, name):
            raise _refusal("EVALUATION_STALE", f"{name} is not the model that {evidence.name} asked; evaluate again.")
    asked = evidence.prompts[champion] or suite.prompts
    if missing := [prompt for prompt in suite.prompts if prompt not in asked]:
        told = f"{evidence.name} did not ask the champion {champion} with {', '.join(missing)} of {evidence.suite}"
        raise _refusal("CHAMPION_WEAKENED", f"{told}; evaluate again and leave its prompts out, which asks with all.")
    return pairs


async def _digest(inference: Inference, name: str) -> str:
    try:
        return str((await inference.database.get(model.KIND, name)).document["digest"])
    except NotFound:
        return ""


def _refusal(reason: str, message: str) -> WrongState:
    return WrongState(message, reason=reason)
