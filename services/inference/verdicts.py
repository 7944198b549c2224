"""The verdict on a model: what a finished evaluation says of it beside its base, by the default gate. It promotes nothing.

It is for people who look at a model, and so it is as strict as a gate: the same checks, as for an endpoint that points to the
base. Evidence that shows nothing, however clear its numbers are, is no refusal here: the verdict says that it is too thin, and
why. An endpoint believes no verdict; it reads the evaluation itself, and holds it against a gate of its own.
"""

from collections.abc import Mapping
from typing import Any

from services.common.errors import Conflict, InvalidInput
from services.common.names import parse, project_of
from services.common.ports.database import Record
from services.inference import model
from services.inference.clients import Evidence
from services.inference.endpoint import Endpoint
from services.inference.evidence import Refusal, judge
from services.inference.gate import Answer, Gate
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.records import MAX_TRIES

EVALUATION_NAME = "projects/{project}/evaluations/{evaluation}"
_ANSWERS = {"NOT_BETTER": Answer.NOT_BETTER, "INSUFFICIENT_EVIDENCE": Answer.INSUFFICIENT_EVIDENCE}


async def judge_model(inference: Inference, name: str, evaluation: str) -> Record:
    """Keep what an evaluation says of a model beside its base. Idempotent.

    Raises: InvalidInput (a base, another project's evaluation), NotFound, WrongState (it is no evidence), Unavailable.
    """
    parse(model.OWN_NAME, name)
    if parse(EVALUATION_NAME, evaluation)["project"] != project_of(name):
        raise InvalidInput(f"{evaluation} is not of the project of {name}.", reason="WRONG_PROJECT")
    judged = Model.from_document((await inference.database.get(model.KIND, name)).document)
    verdict = await _verdict(inference, judged, await inference.evaluations.evidence(evaluation))
    for _ in range(MAX_TRIES):  # a proof may be written between our read and our write
        record = await inference.database.get(model.KIND, name)
        current = Model.from_document(record.document)
        if current.verdict.get("evaluation") == evaluation:
            return record
        try:
            return await inference.database.update(record, current.judge(verdict).to_document(), due_time=record.due_time)
        except Conflict:
            continue
    raise Conflict(f"{name} changes too often; repeat.", metadata={"name": name})


async def _verdict(inference: Inference, judged: Model, evidence: Evidence) -> dict[str, Any]:
    try:
        found = await judge(inference, Endpoint(name="", gate=Gate()), judged, evidence)
    except Refusal as refusal:
        if refusal.reason in _ANSWERS:
            needed = int(refusal.metadata.get("items_needed", 0))
            return _document(inference, evidence, _ANSWERS[refusal.reason], refusal.message, refusal.finding.numbers, needed)
        if refusal.reason != "ROWS_NOT_HELD_OUT":
            raise
        told = f"Nothing is proven: {refusal.message}"
        return _document(inference, evidence, Answer.INSUFFICIENT_EVIDENCE, told, refusal.finding.numbers)
    return _document(inference, evidence, Answer.BETTER, found.verdict, found.numbers)


def _document(
    inference: Inference, evidence: Evidence, answer: Answer, sentence: str, numbers: Mapping[str, Any], items_needed: int = 0
) -> dict[str, Any]:
    return {
        "answer": str(answer),
        "sentence": sentence,
        "evaluation": evidence.name,
        "item_count": numbers.get("item_count", 0),
        "effect": numbers.get("effect", 0.0),
        "p_value": numbers.get("p_value", 1.0),
        "items_needed": items_needed,
        "champion": numbers.get("champion", ""),
        "create_time": inference.clock().isoformat(),
    }
