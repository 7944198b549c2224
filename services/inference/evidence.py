"""Evidence: what an evaluation is worth before an endpoint's gate, once everything in it is held against what is here now.

Nobody is believed: the evaluation is read from the evaluator, every digest in it is compared, the champion must have been asked
in every way that the suite has, so that nobody wins against a weakened one, and the candidate must not have seen the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import NotFound, WrongState
from services.inference import gate, model
from services.inference.clients import Evidence, Suite
from services.inference.endpoint import Endpoint
from services.inference.gate import Comparison, mcnemar_p_value
from services.inference.inference import Inference
from services.inference.model import Model

# What somebody may take upon themselves by an override: all that says how good the evidence is, and nothing that says that the
# model, the champion or the suite is another than it was.
OVERRIDABLE = frozenset(
    {
        gate.Answer.NOT_BETTER,
        gate.Answer.INSUFFICIENT_EVIDENCE,
        "ROWS_NOT_HELD_OUT",
        "CHAMPION_MISSING",
        "CHAMPION_WEAKENED",
        "WRONG_CHAMPION",
        "WRONG_SUITE",
    }
)


@dataclass(frozen=True)
class Finding:
    """What was found, in a sentence, and the numbers of the comparison that decided, where there was one."""

    verdict: str
    numbers: dict[str, Any] = field(default_factory=dict)


class Refusal(WrongState):
    """The gate refuses; `finding` is what it found."""

    def __init__(self, reason: str, message: str, numbers: dict[str, Any] | None = None, **metadata: str) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.finding = Finding(f"{reason}: {message}", numbers or {})


async def judge(inference: Inference, current: Endpoint, candidate: Model, evidence: Evidence) -> Finding:
    """Say why a candidate may take an endpoint. Raises: Refusal."""
    suite = await inference.evaluations.suite(evidence.suite)
    await _check_digests(inference, current, candidate, evidence, suite)
    champion = _champion(current, candidate)
    pairs = [c for c in evidence.comparisons if c.candidate == candidate.name and c.champion == champion]
    _check_worth(current, candidate, champion, evidence, suite, pairs)
    for pair in reversed(pairs):  # the candidate has to pass each; told is the first, which is the least clear
        verdict = gate.decide(current.gate, pair)
        numbers = _numbers(evidence, pair)
        if verdict.answer != gate.Answer.BETTER:
            needed = {"items_needed": str(verdict.items_needed)} if verdict.items_needed else {}
            raise Refusal(verdict.answer, verdict.sentence, numbers, item_count=str(pair.item_count), **needed)
    return Finding(verdict.sentence, numbers)


async def _check_digests(inference: Inference, current: Endpoint, candidate: Model, evidence: Evidence, suite: Suite) -> None:
    """Refuse what is about another candidate, champion or suite than is here; no override passes this. Raises: Refusal."""
    if evidence.state != "SUCCEEDED":
        raise Refusal("EVALUATION_UNFINISHED", f"{evidence.name} is {evidence.state}; only a finished one counts.")
    if suite.digest != evidence.suite_digest:
        raise Refusal("EVALUATION_STALE", f"{evidence.suite} is not what {evidence.name} asked; evaluate again.")
    if candidate.name not in evidence.digests:
        raise Refusal("WRONG_CANDIDATE", f"{evidence.name} did not ask {candidate.name}; name an evaluation of it.")
    for name in {candidate.name, current.model or candidate.base} & set(evidence.digests):
        if evidence.digests[name] != await _digest(inference, name):
            raise Refusal("EVALUATION_STALE", f"{name} is not the model that {evidence.name} asked; evaluate again.")


def _champion(current: Endpoint, candidate: Model) -> str:
    if champion := current.model or candidate.base:
        return champion
    told = f"{candidate.name} names no base to be compared with; register it with its base, or promote another model first."
    raise Refusal("CHAMPION_MISSING", told)


def _check_worth(
    current: Endpoint, candidate: Model, champion: str, evidence: Evidence, suite: Suite, pairs: Sequence[Comparison]
) -> None:
    """Refuse evidence that shows nothing, however clear its numbers are. Raises: Refusal."""
    if current.gate.suite and evidence.suite != current.gate.suite:
        raise Refusal("WRONG_SUITE", f"The gate of {current.name} takes {current.gate.suite} alone, not {evidence.suite}.")
    if not pairs or champion not in evidence.digests:
        told = f"{evidence.name} does not compare {candidate.name} with {champion}; evaluate these two."
        raise Refusal("WRONG_CHAMPION", told)
    if told := seen_rows(candidate, evidence, suite):
        raise Refusal("ROWS_NOT_HELD_OUT", told)
    asked = evidence.prompts[champion] or suite.prompts
    if missing := [prompt for prompt in suite.prompts if prompt not in asked]:
        told = f"{evidence.name} did not ask the champion {champion} with {', '.join(missing)} of {evidence.suite}"
        raise Refusal("CHAMPION_WEAKENED", f"{told}; evaluate again and leave its prompts out, which asks with all.")


def seen_rows(candidate: Model, evidence: Evidence, suite: Suite) -> str:
    """Return why a suite's rows can't be called held out from a candidate's training; empty where they can.

    They can where they are test rows of the only dataset that trained it, whose split held them out – which is seen here, by
    digest – and where the evaluator has compared them with all that trained it and found none.
    """
    if not suite.is_test_part:
        return f"{evidence.suite} asks validation rows, which chose the candidate's checkpoint; evaluate it on test rows."
    finding, trained_on = evidence.held_out.get(candidate.name), candidate.trained_on
    is_same = bool(suite.dataset_digest) and set(trained_on.values()) == {suite.dataset_digest}
    if finding == "DISJOINT" or (finding != "OVERLAPS" and is_same):
        return ""
    if trained_on:
        known = ", ".join(sorted(trained_on))
        told = f"{candidate.name} was trained on {known}, and {evidence.suite} asks rows of {suite.dataset}"
        told += ", some of which are the same" if finding == "OVERLAPS" else ""
        fix = "evaluate it on test rows of the dataset that trained it, or of one that shares no row with it"
    else:
        told = f"The provenance of {candidate.name} names no dataset, so nobody knows whether it has seen {evidence.suite}"
        fix = "register it with its provenance, or override the gate with a reason"
    return f"{told}; {fix}."


def _numbers(evidence: Evidence, pair: Comparison) -> dict[str, Any]:
    return {
        "evaluation": evidence.name,
        "suite": evidence.suite,
        "suite_digest": evidence.suite_digest,
        "champion": pair.champion,
        "champion_digest": evidence.digests[pair.champion],
        "item_count": pair.item_count,
        "candidate_only_count": pair.candidate_only_count,
        "champion_only_count": pair.champion_only_count,
        "effect": pair.effect,
        "p_value": mcnemar_p_value(pair.candidate_only_count, pair.champion_only_count),
    }


async def _digest(inference: Inference, name: str) -> str:
    try:
        return str((await inference.database.get(model.KIND, name)).document["digest"])
    except NotFound:
        return ""
