"""Whether a model has seen the rows that it is asked: found for each subject before its evaluation begins, and kept with it.

The provenance of a model names the datasets that trained it and chose its checkpoint; so does that of what it stands on. Where
that is the suite's own dataset, by digest, its division held the test rows out. Any other dataset is compared row by row by
`dataset`, which finds what is equal and what is nearly so: another split of the same file is caught there. A model that says
nothing about its origin may have seen everything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from services.common import errors
from services.evaluator import suite
from services.evaluator.evaluation import Evaluation, Subject
from services.evaluator.suite import TEST, Suite
from services.evaluator.use_cases import Evaluator

SAME_SPLIT, DISJOINT, OVERLAPS, UNKNOWN = "SAME_SPLIT", "DISJOINT", "OVERLAPS", "UNKNOWN"


@dataclass(frozen=True)
class HeldOut:
    """What was found of a model; `rows` are the first of those that it has seen, from 1."""

    model: str
    finding: str
    message: str
    datasets: Sequence[str] = ()
    row_count: int = 0
    overlap_count: int = 0
    rows: Sequence[int] = ()


async def with_findings(evaluator: Evaluator, current: Evaluation) -> Evaluation:
    """Return an evaluation that says of each subject whether it has seen the rows. Raises: Unavailable."""
    if current.held_out:
        return current
    asked = Suite.from_document((await evaluator.database.get(suite.KIND, current.suite)).document)
    found = [asdict(await _find(evaluator, asked, subject)) for subject in current.subjects]
    return replace(current, held_out=found)


async def _find(evaluator: Evaluator, asked: Suite, subject: Subject) -> HeldOut:
    if asked.part != TEST:
        return HeldOut(subject.model, UNKNOWN, "The suite asks validation rows, which are not looked for.")
    try:
        origins = await evaluator.peers.origins(subject.model)
    except errors.NotFound as error:
        return HeldOut(subject.model, UNKNOWN, f"Its origin can't be looked at: {error.message}")
    if not origins:
        return HeldOut(subject.model, UNKNOWN, "Its provenance names no dataset, so nobody knows what it has seen.")
    names = [origin["name"] for origin in origins]
    others = [origin["name"] for origin in origins if origin["digest"] != asked.dataset_digest]
    is_same = len(others) < len(names)
    if not others:
        told = f"It was trained on the other rows of {asked.dataset}, whose division held these out."
        return HeldOut(subject.model, SAME_SPLIT, told, names, asked.test.row_count)
    try:
        seen = await evaluator.peers.compare(asked.dataset, others)
    except (errors.NotFound, errors.InvalidInput) as error:
        return HeldOut(subject.model, UNKNOWN, f"Its datasets can't be looked at: {error.message}", names)
    return _compared(asked, subject, names, others, seen, is_same=is_same)


def _compared(
    asked: Suite, subject: Subject, names: Sequence[str], others: Sequence[str], seen: Mapping[str, Any], *, is_same: bool
) -> HeldOut:
    count, among = seen["overlap_count"], ", ".join(others)
    told = f"{count or 'None'} of the {seen['row_count']} test rows of {asked.dataset} {'are' if count > 1 else 'is'} among "
    told += f"the rows of {among} that it was trained on, or nearly so."
    finding = OVERLAPS if count else SAME_SPLIT if is_same else DISJOINT
    return HeldOut(subject.model, finding, told, names, seen["row_count"], count, seen["rows"])
