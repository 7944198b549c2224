"""Endpoint: a stable name that production calls. It changes only through its gate, and remembers every change."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.common.errors import Violation
from services.common.names import LOWER_ID
from services.inference.gate import DEFAULT_MIN_ITEM_COUNT, DEFAULT_SIGNIFICANCE_LEVEL, Gate

KIND = "endpoint"
NAME = "projects/{project}/endpoints/{endpoint}"


@dataclass(frozen=True)
class Promotion:
    """One change of an endpoint. `create_time` is ISO 8601 UTC."""

    model: str
    digest: str
    previous_model: str
    evaluation: str
    verdict: str
    create_time: str


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as it is stored; `model` is empty before the first promotion."""

    name: str
    gate: Gate
    model: str = ""
    digest: str = ""
    promotions: tuple[Promotion, ...] = field(default_factory=tuple)

    def promote(self, model: str, digest: str, evaluation: str, verdict: str, time: str) -> "Endpoint":
        """Return it pointing to another model, with the change in its history."""
        promotion = Promotion(model, digest, self.model, evaluation, verdict, time)
        return replace(self, model=model, digest=digest, promotions=(*self.promotions, promotion))

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Endpoint":
        """Read it from JSON."""
        promotions = tuple(Promotion(**promotion) for promotion in document["promotions"])
        return cls(**{**document, "gate": Gate(**document["gate"]), "promotions": promotions})


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
