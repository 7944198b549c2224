"""Endpoint: a stable name that production calls. It changes only through its gate, and remembers every change."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.common.errors import Violation
from services.common.names import LOWER_ID
from services.inference.gate import DEFAULT_MIN_ITEM_COUNT, DEFAULT_SIGNIFICANCE_LEVEL, Gate

KIND = "endpoint"
NAME = "projects/{project}/endpoints/{endpoint}"
FIRST, PROMOTION, ROLLBACK, OVERRIDE = "FIRST", "PROMOTION", "ROLLBACK", "OVERRIDE"
MAX_LAST_PROMOTIONS = 5
MAX_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Promotion:
    """One change of an endpoint. `create_time` is ISO 8601 UTC; `number` counts from 1; `kind` is one of the four below.

    `evidence` has the numbers that decided, as `evidence.py` makes them; those made before they were kept have none.
    """

    model: str
    digest: str
    previous_model: str
    evaluation: str
    verdict: str
    create_time: str
    previous_digest: str = ""
    actor: str = ""
    reason: str = ""
    kind: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    made_over: int = 0  # the version of the endpoint's record that it was decided on


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as it is stored; `model` is empty before the first promotion, `promotions` are the last ones."""

    name: str
    gate: Gate
    model: str = ""
    digest: str = ""
    promotions: tuple[Promotion, ...] = field(default_factory=tuple)
    promotion_count: int = 0

    def change(self, promotion: Promotion) -> "Endpoint":
        """Return it pointing to another model, with the change, numbered, among its last ones."""
        number = self.promotion_count + 1
        made = replace(promotion, number=number, previous_model=self.model, previous_digest=self.digest)
        last = (*self.promotions, made)[-MAX_LAST_PROMOTIONS:]
        return replace(self, model=made.model, digest=made.digest, promotions=last, promotion_count=number)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Endpoint":
        """Read it from JSON; in those written before there was a history, the promotions are all there were, unnumbered."""
        given = enumerate(document["promotions"], start=1)
        promotions = tuple(Promotion(**{"number": number, **promotion}) for number, promotion in given)
        counted = {"promotion_count": len(promotions), **document}
        return cls(**{**counted, "gate": Gate(**document["gate"]), "promotions": promotions})


def before(history: Sequence[Promotion]) -> Promotion | None:
    """Return the promotion of the model to which a rollback leads; None where there was none before.

    Models that were rolled back from do not count, so that rolling back twice goes back two steps, not forward again.
    """
    standing: list[Promotion] = []
    for promotion in history:
        models = [other.model for other in standing]
        if promotion.kind == ROLLBACK and promotion.model in models:
            del standing[len(models) - models[::-1].index(promotion.model) :]
        else:
            standing.append(promotion)
    return standing[-2] if len(standing) > 1 else None


def complete(gate: Gate) -> Gate:
    """Return a gate with its defaults in the places of zeros."""
    return replace(
        gate,
        significance_level=gate.significance_level or DEFAULT_SIGNIFICANCE_LEVEL,
        min_item_count=gate.min_item_count or DEFAULT_MIN_ITEM_COUNT,
    )


def check(project: str, endpoint_id: str, gate: Gate) -> list[Violation]:
    """Return everything that is wrong with an endpoint that is to be created."""
    violations = []
    if not LOWER_ID.fullmatch(endpoint_id):
        violations.append(Violation("endpoint_id", "MALFORMED", f"endpoint_id {endpoint_id!r}: a-z, 0-9 and -, at most 63."))
    if not 0 < gate.significance_level <= 0.5:
        violations.append(Violation("endpoint.gate.significance_level", "OUT_OF_RANGE", "significance_level is above 0, to 0.5."))
    if not 0 <= gate.min_effect < 1:
        violations.append(Violation("endpoint.gate.min_effect", "OUT_OF_RANGE", "min_effect is from 0 to below 1."))
    if gate.min_item_count < 1:
        violations.append(Violation("endpoint.gate.min_item_count", "OUT_OF_RANGE", "min_item_count is at least 1."))
    if gate.suite and not gate.suite.startswith(f"projects/{project}/suites/"):
        rule = f"suite is one of projects/{project}/suites/"
        violations.append(Violation("endpoint.gate.suite", "MALFORMED", f"{rule}, not {gate.suite!r}."))
    return violations


def check_reason(field: str, reason: str, *, is_required: bool) -> list[Violation]:
    """Return what is wrong with a reason for a change."""
    if is_required and not reason.strip():
        return [Violation(field, "REQUIRED", f"{field} is needed: say why, for the history.")]
    if len(reason) > MAX_REASON_CHARACTERS:
        told = f"{field} has {len(reason)} characters; at most {MAX_REASON_CHARACTERS} are kept."
        return [Violation(field, "TOO_LONG", told)]
    return []
