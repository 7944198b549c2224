"""FineTuningJob: dataset + base model + recipe → a Model. Its fields, states and legal moves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from services.common.errors import AfinaError, WrongState
from services.common.names import last

KIND = "fineTuningJob"
# Of attempts that ended without a result, in a row: a saved step between two of them begins both counts anew, or a long job
# would fail of the crashes of many days.
MAX_CRASHES = 3  # that nobody asked to leave
MAX_IDLE_STOPS = 20  # that were told to leave, or cut off from their store

MOVES: dict[str, tuple[str, ...]] = {
    "VALIDATING": ("PENDING", "FAILED", "CANCELLING", "PAUSING"),
    "PENDING": ("RUNNING", "PROVING", "FAILED", "CANCELLING", "PAUSING"),
    "RUNNING": ("PENDING", "PROVING", "FAILED", "CANCELLING", "PAUSING"),
    "PROVING": ("SUCCEEDED", "FAILED", "CANCELLING"),
    "PAUSING": ("PAUSED", "PROVING", "FAILED", "CANCELLING", "PENDING", "VALIDATING"),
    "PAUSED": ("PENDING", "VALIDATING", "CANCELLING"),
    "CANCELLING": ("CANCELLED",),
    "SUCCEEDED": (),
    "FAILED": (),
    "CANCELLED": (),
}


@dataclass(frozen=True)
class Job:
    """A fine-tuning job as it is stored. Times are ISO 8601 UTC, empty while they have not come."""

    name: str
    base_model: str
    state: str = "VALIDATING"
    training_file: str = ""
    validation_file: str = ""
    dataset: str = ""
    token_count: str = ""
    split: Mapping[str, Any] = field(default_factory=dict)
    asked_recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    sweep: str = ""  # whose member it is; its model is then proven only if it wins
    base: Mapping[str, Any] = field(default_factory=dict)
    dataset_spec: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    is_attempt_over: bool = False
    crash_count: int = 0
    saved_step: int = 0  # of the newest checkpoint, when an attempt last ended without a result
    idle_stop_count: int = 0
    model: str = ""
    fine_tuned_model: str = ""
    validation_loss: float | None = None  # of the weights that were published
    result_file: str = ""
    checkpoints: Sequence[Mapping[str, Any]] = ()  # as published_checkpoints in the manifest; without model: could not be served
    error: Mapping[str, Any] = field(default_factory=dict)
    start_time: str = ""
    pause_time: str = ""
    prove_look_count: int = 0
    end_time: str = ""
    trace_id: str = ""
    evaluation_settings: Mapping[str, Any] = field(default_factory=dict)  # is_disabled, suite, candidate_prompts
    suite: str = ""
    evaluation: str = ""
    verdict: Mapping[str, Any] = field(default_factory=dict)  # as inference keeps it on the Model
    awaits_verdict: bool = False

    @property
    def id(self) -> str:
        """The last part of the name."""
        return last(self.name)

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return not MOVES[self.state]

    @property
    def is_to_be_judged(self) -> bool:
        """Whether its model is compared with the base: there are rows that were held out, and nobody asked not to."""
        return bool(self.dataset_spec.get("test")) and not self.evaluation_settings.get("is_disabled")

    @property
    def manifest_key(self) -> str:
        """Where its result is committed; one for all attempts, so only one can win."""
        return f"jobs/{self.id}/manifest.json"

    @property
    def checkpoint_prefix(self) -> str:
        """Where its checkpoints are."""
        return f"jobs/{self.id}/checkpoints"

    @property
    def should_stop(self) -> bool:
        """Whether a worker that asks is told to save a checkpoint and leave."""
        return self.state in ("PAUSING", "PAUSED", "CANCELLING")

    def workload_key(self, attempt: int) -> str:
        """The launcher's key of an attempt."""
        return f"{self.id}-{attempt}"

    def move(self, state: str, **changes: Any) -> "Job":
        """Return the job in another state. Raises: WrongState."""
        if state not in MOVES[self.state]:
            raise WrongState(f"{self.name} is {self.state} and can't become {state}.", metadata={"state": self.state})
        return replace(self, state=state, **changes)

    def pause(self, time: datetime) -> "Job":
        """Return the job as one that pauses. Raises: WrongState."""
        return self.move("PAUSING", pause_time=time.isoformat())

    def resume(self) -> "Job":
        """Return the job as one that goes on where it was. Raises: WrongState (it is not paused).

        One that was still pausing keeps its attempt: it trains on, or leaves with its checkpoint and is followed by the next.
        """
        if self.state not in ("PAUSING", "PAUSED"):
            raise WrongState(
                f"{self.name} is {self.state}, not paused; there is nothing to resume.", metadata={"state": self.state}
            )
        return self.move("PENDING" if self.recipe else "VALIDATING")

    def end_attempt(self, saved_step: int, *, has_crashed: bool) -> "Job":
        """Return the job after an attempt without a result, as it waits for the next; `saved_step` is what that begins with."""
        begins_anew = saved_step > self.saved_step
        crashes, stops = (0, 0) if begins_anew else (self.crash_count, self.idle_stop_count)
        stops += not has_crashed and not begins_anew
        counted = {"crash_count": crashes + has_crashed, "idle_stop_count": stops, "saved_step": saved_step}
        return self.move("PENDING", is_attempt_over=True, **counted)

    def succeed(self) -> "Job":
        """Return the job as one that has succeeded; of a sweep's members only the winner then awaits a verdict."""
        return self.move("SUCCEEDED", awaits_verdict=self.is_to_be_judged and not self.sweep)

    def win(self) -> "Job":
        """Return the job of a sweep's winner, which is compared with its base. Idempotent."""
        is_new = self.state == "SUCCEEDED" and self.is_to_be_judged and not self.evaluation
        return replace(self, awaits_verdict=True) if is_new else self

    def fail(self, error: AfinaError) -> "Job":
        """Return the job as failed, for a reason that people and programs can read."""
        return self.move("FAILED", error=error.to_document())

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Job":
        """Read it from JSON."""
        return cls(**document)


def now() -> str:
    """The time, ISO 8601 UTC."""
    return datetime.now(UTC).isoformat()
