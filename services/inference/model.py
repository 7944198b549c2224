"""Model: weights that can be served. Immutable, named by digest, with provenance."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.common.errors import InvalidInput, WrongState
from services.common.names import last

KIND = "model"
BASE_NAME = "models/{model}"
NO_BASE = "full"  # in a public id, in the place of a base that full weights do not name
OWN_NAME = "projects/{project}/models/{model}"
ID_DIGITS = 24
SUFFIX = re.compile(r"[a-z0-9-]{0,64}")
CHECKPOINT = re.compile(r"ckpt-step-[1-9][0-9]{0,9}")
PROVENANCE_KEYS = (
    "job", "attempt", "base", "dataset", "datasets", "recipe", "best_step", "steps", "trained_tokens", "phases",
    "peak_memory_bytes", "environment", "source",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model as it is stored.

    `rank` is an adapter's; `max_length`, in tokens, and `has_chat_template` (its own files bring one) are whole weights'.
    `base` and `base_digest` are what an adapter stands on, or what full weights came from, where that is known.
    `candidacies` are the endpoints that were about to point to it, each with the version that its record had: see `candidacy.py`.
    """

    name: str
    kind: str  # "BASE" | "ADAPTER" | "FULL"
    digest: str
    public_id: str
    manifest_key: str
    size_bytes: int
    state: str = "ACTIVE"
    base: str = ""
    base_digest: str = ""
    max_length: int = 0
    rank: int = 0
    has_chat_template: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    quarantine_reason: str = ""
    proof: Mapping[str, Any] = field(default_factory=dict)
    candidacies: Mapping[str, int] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)  # beside its base; see verdicts.py

    @property
    def trained_on(self) -> Mapping[str, str]:
        """The digests of the datasets that trained it or chose its checkpoint, by name; empty where its provenance names none."""
        more = self.provenance.get("datasets")
        named = [self.provenance.get("dataset"), *(more if isinstance(more, list) else ())]
        told = [dataset for dataset in named if isinstance(dataset, Mapping) and dataset.get("name")]
        return {str(dataset["name"]): str(dataset.get("digest", "")) for dataset in told}

    @property
    def served_digest(self) -> str:
        """The whole weights that its server is started with: an adapter's base, or itself."""
        return self.base_digest if self.kind == "ADAPTER" else self.digest

    @property
    def is_distinguishable(self) -> bool:
        """Whether its proof shows which weights answer (see `Proof.is_distinguishable`); a base is what others are told from."""
        return self.kind == "BASE" or bool(self.proof.get("is_distinguishable"))

    def quarantine(self, reason: str) -> "Model":
        """Return it as one that is not served any more."""
        return replace(self, state="QUARANTINED", quarantine_reason=reason)

    def release(self) -> "Model":
        """Return it as one that may be proven again."""
        return replace(self, state="ACTIVE", quarantine_reason="")

    def judge(self, verdict: Mapping[str, Any]) -> "Model":
        """Return it with what the last evaluation beside its base says."""
        return replace(self, verdict=verdict)

    def require_active(self) -> None:
        """Raises: WrongState (it is quarantined)."""
        if self.state != "ACTIVE":
            raise WrongState(
                f"{self.name} is quarantined and is not served: {self.quarantine_reason} "
                "Where the cause is mended, `afina models prove` lifts it.",
                reason="MODEL_QUARANTINED",
                metadata={"model": self.name},
            )

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Model":
        """Read it from JSON."""
        return cls(**document)


def base_name(digest: str) -> str:
    """The name of the base with that digest."""
    return f"models/{digest[:ID_DIGITS]}"


def own_name(project: str, digest: str) -> str:
    """The name of the adapter, or of the full weights, with that digest in a project: registering twice makes one model."""
    return f"projects/{project}/models/{digest[:ID_DIGITS]}"


def public_id(base_public_id: str, project: str, suffix: str, name: str, step: int = 0) -> str:
    """The name to ask for in the OpenAI API; an empty suffix keeps its place, and a step is told at the end, as OpenAI's are."""
    return f"ft:{base_public_id}:{project}:{suffix}:{last(name)}" + (f":ckpt-step-{step}" if step else "")


def name_of_public_id(given: str) -> tuple[str, str] | None:
    """Return (project, resource name) of an `ft:` id, or None for another kind of id. Raises: InvalidInput (malformed)."""
    if not given.startswith("ft:"):
        return None
    parts = given.split(":")
    if len(parts) == 6 and CHECKPOINT.fullmatch(parts[5]):
        del parts[5]
    if len(parts) != 5 or not all(parts[i] for i in (1, 2, 4)):
        raise InvalidInput(f"{given!r} is not ft:{{base}}:{{project}}:{{suffix}}:{{id}}.", reason="NAME_INVALID")
    return parts[2], f"projects/{parts[2]}/models/{parts[4]}"
