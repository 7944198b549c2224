"""Sweep: many recipes over one dataset and base, ending in one winner. Its fields, states, legal moves, and who wins."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.common.errors import AfinaError, Violation, WrongState
from services.common.names import last, project_of
from services.trainer import recipe
from services.trainer.job import Job

KIND = "sweep"
MAX_RECIPES = 64

MOVES: dict[str, tuple[str, ...]] = {
    "RUNNING": ("PROVING", "FAILED", "CANCELLING"),
    "PROVING": ("SUCCEEDED", "FAILED", "CANCELLING"),
    "CANCELLING": ("CANCELLED",),
    "SUCCEEDED": (),
    "FAILED": (),
    "CANCELLED": (),
}


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is stored. Times are ISO 8601 UTC, empty while they have not come."""

    name: str
    base_model: str
    dataset: str
    recipes: Sequence[Mapping[str, Any]]
    suffix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    state: str = "RUNNING"
    begun_count: int = 0  # jobs that were created: of the first so many recipes
    ended: Sequence[Mapping[str, Any]] = ()  # what came of the first jobs, in the order of recipes
    refused: Sequence[int] = ()  # members that would have won and could not be proven
    winner: int | None = None
    prove_look_count: int = 0
    error: Mapping[str, Any] = field(default_factory=dict)
    end_time: str = ""
    trace_id: str = ""
    evaluation_settings: Mapping[str, Any] = field(default_factory=dict)  # of the winner's job

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return not MOVES[self.state]

    @property
    def ranking(self) -> list[int]:
        """The members that came to a model, best first; of equal losses the earlier one."""
        succeeded = [at for at, told in enumerate(self.ended) if told["validation_loss"] is not None]
        return sorted(succeeded, key=lambda at: (self.ended[at]["validation_loss"], at))

    @property
    def best(self) -> int | None:
        """The member that wins, among those that have not failed their proof; None where nobody is left."""
        return next((at for at in self.ranking if at not in self.refused), None)

    def job_name(self, at: int) -> str:
        """Return the name of a member's job: known beforehand, so that creating it twice is creating it once."""
        return f"projects/{project_of(self.name)}/fineTuningJobs/{last(self.name).replace('sweep-', 'ftjob-', 1)}-{at + 1}"

    def end_member(self, job: Job) -> "Sweep":
        """Return the sweep with what came of the job whose turn it was."""
        has_model = job.state == "SUCCEEDED"
        told = {
            "state": job.state,
            "recipe": job.recipe,
            "validation_loss": job.validation_loss if has_model else None,
            "model": job.model if has_model else "",
            "fine_tuned_model": job.fine_tuned_model if has_model else "",
            "error": job.error,
        }
        return replace(self, ended=[*self.ended, told])

    def move(self, state: str, **changes: Any) -> "Sweep":
        """Return the sweep in another state. Raises: WrongState."""
        if state not in MOVES[self.state]:
            raise WrongState(f"{self.name} is {self.state} and can't become {state}.", metadata={"state": self.state})
        return replace(self, state=state, **changes)

    def fail(self, error: AfinaError) -> "Sweep":
        """Return the sweep as failed, for a reason that people and programs can read."""
        return self.move("FAILED", error=error.to_document())

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Sweep":
        """Read it from JSON."""
        return cls(**document)


def check(recipes: Sequence[Mapping[str, Any]]) -> list[Violation]:
    """Return every mistake in the recipes that were given."""
    if not 1 <= len(recipes) <= MAX_RECIPES:
        text = f"A sweep has 1 to {MAX_RECIPES} recipes, and this one {len(recipes)}; divide it, or use a job."
        return [Violation("sweep.recipes", "OUT_OF_BOUNDS", text)]
    violations = []
    for at, asked in enumerate(recipes):
        violations += [
            Violation(f"sweep.recipes[{at}]{v.field.removeprefix('recipe')}", v.reason, f"Recipe {at + 1}: {v.description}")
            for v in recipe.check(asked)
        ]
        if asked in recipes[:at]:
            text = f"Recipe {at + 1} is the same as recipe {recipes.index(asked) + 1}; leave one of them out."
            violations.append(Violation(f"sweep.recipes[{at}]", "RECIPE_REPEATED", text))
    return violations
