"""Servers and placements: their fields and legal moves.

One server serves whole weights, a base's or a full model's. Its generation counts launches, and what was proven holds for
one generation only: a server that was launched again has proven nothing. A placement is one adapter on its base's server, or
full weights on their own; it stays when the server goes, so that the next generation gets it back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from services.common.names import last
from services.common.ports.model_server import Activity
from services.inference.model import ID_DIGITS

SERVER_KIND = "server"
PLACEMENT_KIND = "placement"
HOST = "127.0.0.1"
MAX_BACKOFF_S = 60.0
HEALTHY_AFTER_S = 60.0
START_LIMIT_S = 1800.0  # a large base, on cores that a training run uses
MAX_MISSES = 6
MAX_REFUSALS = 3
# The ranks that vLLM can be started for. Every slot is computed at its server's highest, so a server starts low and grows:
# on a CPU, 64 halves the throughput of rank 16, the base's too.
ENGINE_RANKS = (16, 32, 64, 128, 256)
IDLE_AFTER_S = 60.0  # since it last answered; only then may another have its place


@dataclass(frozen=True)
class Server:
    """A model server as it is stored.

    `base` is models/{id} of its weights' digest, whatever they are; `max_rank` is 0 for one that takes no adapters;
    `chat_template` is what the catalogue declares. `since` is when its state began, `used_time` when it was last seen to
    answer, both ISO 8601 UTC; `answered_count` counts answers of this generation; `port` is 0 before one is chosen.
    """

    name: str
    base: str
    digest: str
    manifest_key: str
    max_length: int
    max_rank: int = ENGINE_RANKS[0]
    state: str = "STARTING"
    generation: int = 1
    port: int = 0
    api_key: str = ""
    since: str = ""
    failures: int = 0
    misses: int = 0
    message: str = ""
    chat_template: str = ""
    used_time: str = ""
    answered_count: int = 0

    @property
    def takes_memory(self) -> bool:
        """Whether something of it runs, or is about to. A failed one has ended, and needs a place to start again."""
        return self.state in ("ACTIVE", "STOPPING") or (self.state == "STARTING" and self.port != 0)

    @property
    def key(self) -> str:
        """The launcher's key of this generation."""
        return f"server-{last(self.name)}-{self.generation}"

    @property
    def url(self) -> str:
        """Root of its HTTP API."""
        return f"http://{HOST}:{self.port}"

    def state_age_s(self, now: datetime) -> float:
        """How long its state has lasted."""
        return (now - datetime.fromisoformat(self.since)).total_seconds() if self.since else 0.0

    def begin(self, port: int, api_key: str, now: datetime) -> "Server":
        """Return it with what its launch needs; written before the launch, so that a crash between them adopts it."""
        return replace(self, port=port, api_key=api_key, since=now.isoformat())

    def activate(self, now: datetime) -> "Server":
        """Return it as one whose base is proven."""
        return replace(self, state="ACTIVE", since=now.isoformat(), misses=0, message="")

    def look(self, is_up: bool, now: datetime) -> "Server":
        """Return an active server after one look at its health."""
        if not is_up:
            return replace(self, misses=self.misses + 1)
        has_recovered = self.state_age_s(now) >= HEALTHY_AFTER_S
        return replace(self, misses=0, failures=0 if has_recovered else self.failures)

    def note(self, activity: Activity, now: datetime) -> "Server":
        """Return it with what it was seen to do since the last look."""
        if not activity.running_count and activity.answered_count == self.answered_count:
            return self
        return replace(self, used_time=now.isoformat(), answered_count=activity.answered_count)

    def idle_s(self, now: datetime) -> float:
        """How long nobody has asked it, since it became active at most."""
        last_used = max(self.since, self.used_time)  # both are UTC in the same form
        return (now - datetime.fromisoformat(last_used)).total_seconds() if last_used else 0.0

    def wait(self, message: str) -> "Server":
        """Return it as one that says what it waits for."""
        return replace(self, message=message)

    def retire(self, message: str, now: datetime) -> "Server":
        """Return it as one that ends, for good until it is asked for; itself where it has ended or ends already."""
        if self.state in ("STOPPING", "STOPPED"):
            return self
        return replace(self, state="STOPPING", since=now.isoformat(), message=message)

    def rest(self, now: datetime) -> "Server":
        """Return it as one of which nothing runs; it keeps the reason."""
        return replace(self, state="STOPPED", since=now.isoformat(), failures=0)

    def fail(self, message: str, now: datetime) -> "Server":
        """Return it as one that has to be launched again."""
        return replace(self, state="FAILED", since=now.isoformat(), failures=self.failures + 1, message=message)

    def restart(self, now: datetime) -> "Server":
        """Return the next generation, which has proven nothing yet."""
        again = {"generation": self.generation + 1, "port": 0, "api_key": "", "misses": 0, "answered_count": 0, "used_time": ""}
        return replace(self, state="STARTING", since=now.isoformat(), **again)  # type: ignore[arg-type]

    def grow(self, rank: int, now: datetime) -> "Server":
        """Return it as one that takes adapters of a higher rank; itself where it takes them already."""
        if rank <= self.max_rank:
            return self
        fitting = next(size for size in ENGINE_RANKS if size >= rank)
        return replace(self, max_rank=fitting)._relaunch(f"It is launched again for adapters of rank {rank}.", now)

    def fit(self, max_length: int, chat_template: str, now: datetime) -> "Server":
        """Return it as one with this longest length and template; itself where it has them already."""
        if (self.max_length, self.chat_template) == (max_length, chat_template):
            return self
        changed = replace(self, max_length=max_length, chat_template=chat_template)
        return changed._relaunch("It is launched again for its catalogue entry, which was changed.", now)

    def _relaunch(self, message: str, now: datetime) -> "Server":
        """Return it as one to be launched again, where it was launched."""
        if self.state in ("STOPPING", "STOPPED") or not self.port:
            return self
        return replace(self, state="FAILED", since=now.isoformat(), failures=0, message=message)

    @property
    def restart_time(self) -> datetime:
        """When a failed one may be launched again: at once at first, then after 1, 2, 4 … 60 s."""
        pause_s = 0.0 if self.failures <= 1 else min(MAX_BACKOFF_S, 2.0 ** (self.failures - 2))
        return datetime.fromisoformat(self.since) + timedelta(seconds=pause_s)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Server":
        """Read it from JSON."""
        return cls(**document)


@dataclass(frozen=True)
class Placement:
    """One model on one server. `base_digest` is an adapter's; `generation` is the server's for which the state holds."""

    name: str
    server: str
    model: str
    digest: str
    base_digest: str
    manifest_key: str
    state: str = "LOADING"
    generation: int = 0
    refusals: int = 0

    def load(self, generation: int) -> "Placement":
        """Return it as one that is to be loaded and proven on a generation."""
        return replace(self, state="LOADING", generation=generation, refusals=0)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Placement":
        """Read it from JSON."""
        return cls(**document)


def server_name(digest: str) -> str:
    """The server of whole weights; there is one, whoever asks for them under whichever name."""
    return f"servers/{digest[:ID_DIGITS]}"


def placement_name(server: str, model: str) -> str:
    """The placement of a model on a server. Models of two projects may have the same digest, so the whole name counts."""
    return f"placements/{last(server)}/{model.replace('/', '.')}"
