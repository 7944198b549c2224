"""The verdict on a model: what a finished evaluation says of it beside its base, by the default gate. It promotes nothing.

It is for people who look at a model, and so it is as strict as a gate: the bytes have to be those that are here now, the base
has to have been asked in every way that the suite has, and rows that the model has seen prove nothing. An endpoint believes
no verdict; it reads the evaluation itself, and holds it against a gate of its own.
"""

from typing import Any

from services.common.errors import Conflict, InvalidInput, WrongState
from services.common.names import parse, project_of
from services.common.ports.database import Record
from services.inference import gate, model
from services.inference.clients import Evidence, Suite
from services.inference.gate import Answer, Comparison, Gate, Verdict
from services.inference.inference import Inference
from services.inference.model import Model

EVALUATION_NAME = "projects/{project}/evaluations/{evaluation}"
_WORST_FIRST = (Answer.NOT_BETTER, Answer.INSUFFICIENT_EVIDENCE, Answer.BETTER)


async def judge_model(inference: Inference, name: str, evaluation: str) -> Record:
    """Keep what an evaluation says of a model beside its base. Idempotent.

    Raises: InvalidInput (a base, another project's evaluation), NotFound, WrongState (it is no evidence), Unavailable.
    """
    parse(model.OWN_NAME, name)
    if parse(EVALUATION_NAME, evaluation)["project"] != project_of(name):
        raise InvalidInput(f"{evaluation} is not of the project of {name}.", reason="WRONG_PROJECT")
    judged = Model.from_document((await inference.database.get(model.KIND, name)).document)
    evidence = await inference.evaluations.evidence(evaluation)
    suite = await inference.evaluations.suite(evidence.suite)
    compared = await _compared(inference, judged, evidence, suite)
    document = _document(inference, evidence, *_verdict(judged, evidence, suite, compared))
    for _ in range(10):  # a proof may be written between our read and our write
        record = await inference.database.get(model.KIND, name)
        current = Model.from_document(record.document)
        if current.verdict.get("evaluation") == evaluation:
            return record
        try:
            return await inference.database.update(record, current.judge(document).to_document(), due_time=record.due_time)
        except Conflict:
            continue
    raise Conflict(f"{name} changes too often; repeat.", metadata={"name": name})


async def _compared(inference: Inference, judged: Model, evidence: Evidence, suite: Suite) -> list[Comparison]:
    """Return the comparisons of a model with its base, held against what is here now. Raises: WrongState."""
    if evidence.state != "SUCCEEDED":
        raise _refusal("EVALUATION_UNFINISHED", f"{evidence.name} is {evidence.state}; only a finished one counts.")
    found = [c for c in evidence.comparisons if c.candidate == judged.name and c.champion == judged.base]
    if not judged.base or not found:
        told = f"{evidence.name} does not compare {judged.name} with {judged.base or 'a base'}; evaluate these two."
        raise _refusal("WRONG_CHAMPION", told)
    base = Model.from_document((await inference.database.get(model.KIND, judged.base)).document)
    if any(evidence.digests.get(one.name) != one.digest for one in (base, judged)) or suite.digest != evidence.suite_digest:
        raise _refusal("EVALUATION_STALE", f"{evidence.name} asked other bytes than are here now; evaluate again.")
    asked = evidence.prompts[base.name] or suite.prompts
    if missing := [prompt for prompt in suite.prompts if prompt not in asked]:
        told = f"{evidence.name} did not ask {base.name} with {', '.join(missing)} of {evidence.suite}; evaluate again."
        raise _refusal("CHAMPION_WEAKENED", told)
    return found


def _verdict(judged: Model, evidence: Evidence, suite: Suite, compared: list[Comparison]) -> tuple[Verdict, Comparison]:
    """Return what the least clear comparison says, and that comparison; rows that the model has seen say nothing."""
    said = [(gate.decide(Gate(), comparison), comparison) for comparison in compared]
    worst, comparison = min(said, key=lambda one: _WORST_FIRST.index(one[0].answer))
    seen = evidence.held_out.get(judged.name) == "OVERLAPS"
    if seen or not suite.is_held_out:
        why = "rows of the suite were among those that trained the model" if seen else "the suite asks validation rows"
        sentence = f"Nothing is proven, since {why}: {worst.sentence[:1].lower()}{worst.sentence[1:]}"
        return Verdict(Answer.INSUFFICIENT_EVIDENCE, sentence), comparison
    return worst, comparison


def _document(inference: Inference, evidence: Evidence, verdict: Verdict, comparison: Comparison) -> dict[str, Any]:
    return {
        "answer": str(verdict.answer),
        "sentence": verdict.sentence,
        "evaluation": evidence.name,
        "item_count": comparison.item_count,
        "effect": comparison.effect,
        "p_value": gate.mcnemar_p_value(comparison.candidate_only_count, comparison.champion_only_count),
        "items_needed": verdict.items_needed,
        "champion": comparison.champion,
        "create_time": inference.clock().isoformat(),
    }


def _refusal(reason: str, message: str) -> WrongState:
    return WrongState(message, reason=reason)
