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
    `chat_template` and `tool_call_parser` are what the catalogue declares. `since` is when its state began, `used_time` when it
    was last seen to answer, both ISO 8601 UTC; `answered_count` counts answers of this generation. `port` is 0 exactly while
    nothing of this generation can run: before one is chosen, and once it was seen to have ended. One that `comes_back` is
    launched again when it has ended; one that `awaits_room` is launched when another has ended. `birth` tells it from one of the
    same weights that was forgotten, whose generations were counted from 1 too.
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
    comes_back: bool = False
    awaits_room: bool = False
    tool_call_parser: str = ""
    birth: str = ""

    @property
    def takes_memory(self) -> bool:
        """Whether something of it may run. A failed one gives its place back once it was seen to have ended."""
        return self.port != 0

    @property
    def key(self) -> str:
        """The launcher's key of this generation, which no launch has had before: a launcher adopts what it knows."""
        born = f"-{self.birth}" if self.birth else ""
        return f"server-{last(self.name)}{born}-{self.generation}"

    @property
    def url(self) -> str:
        """Root of its HTTP API."""
        return f"http://{HOST}:{self.port}"

    def state_age_s(self, now: datetime) -> float:
        """How long its state has lasted."""
        return (now - datetime.fromisoformat(self.since)).total_seconds() if self.since else 0.0

    def begin(self, port: int, api_key: str, now: datetime) -> "Server":
        """Return it with what its launch needs; written before the launch, so that a crash between them adopts it."""
        message = "" if self.awaits_room else self.message  # why its last launch failed is told until this one is up
        return replace(self, port=port, api_key=api_key, since=now.isoformat(), message=message, awaits_room=False)

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
        """Return it as one that waits for room, and says for whose."""
        return replace(self, message=message, awaits_room=True)

    def retire(self, message: str, now: datetime) -> "Server":
        """Return it as one that ends, for good until it is asked for; itself where it has ended or ends already."""
        if self.state == "STOPPED" or (self.state == "STOPPING" and not self.comes_back):
            return self
        return self._leave(message, now)

    def rest(self, now: datetime) -> "Server":
        """Return it as one of which nothing runs: the next generation, where it comes back; otherwise it keeps the reason."""
        if self.comes_back:
            return self.restart(now)
        return replace(self, state="STOPPED", since=now.isoformat(), failures=0, port=0)

    def end(self) -> "Server":
        """Return a failed one as one of which nothing runs any more."""
        return replace(self, port=0)

    def fail(self, message: str, now: datetime) -> "Server":
        """Return it as one that has to be launched again."""
        left = {"failures": self.failures + 1, "message": message, "awaits_room": False}
        return replace(self, state="FAILED", since=now.isoformat(), **left)  # type: ignore[arg-type]

    def restart(self, now: datetime) -> "Server":
        """Return the next generation, which has proven nothing yet."""
        blank = {"port": 0, "api_key": "", "misses": 0, "answered_count": 0, "used_time": "", "comes_back": False}
        return replace(self, state="STARTING", generation=self.generation + 1, since=now.isoformat(), **blank)  # type: ignore[arg-type]

    def grow(self, rank: int, now: datetime) -> "Server":
        """Return it as one that takes adapters of a higher rank; itself where it takes them already."""
        if rank <= self.max_rank:
            return self
        fitting = next(size for size in ENGINE_RANKS if size >= rank)
        return replace(self, max_rank=fitting)._relaunch(f"It is launched again for adapters of rank {rank}.", now)

    def fit(self, max_length: int, chat_template: str, tool_call_parser: str, now: datetime) -> "Server":
        """Return it as one with this longest length, template and parser; itself where it has them already."""
        changed = replace(self, max_length=max_length, chat_template=chat_template, tool_call_parser=tool_call_parser)
        if changed == self:
            return self
        return changed._relaunch("It is launched again for its catalogue entry, which was changed.", now)

    def _relaunch(self, message: str, now: datetime) -> "Server":
        """Return it as one to be launched again, where it was launched: at once, or when what it is asked is answered."""
        if self.state in ("STOPPING", "STOPPED") or not self.port:
            return self
        if self.state == "ACTIVE":
            return replace(self._leave(message, now), comes_back=True)
        return replace(self, state="FAILED", since=now.isoformat(), failures=0, message=message)

    def _leave(self, message: str, now: datetime) -> "Server":
        since = self.since if self.state == "STOPPING" else now.isoformat()
        return replace(self, state="STOPPING", since=since, message=message, comes_back=False, awaits_room=False)

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
    """One model on one server. `base_digest` is an adapter's; `generation` is the server's for which the state holds.

    `message` says why it is UNPROVABLE: the server is launched for too few tokens to be asked any of its golden chats.
    """

    name: str
    server: str
    model: str
    digest: str
    base_digest: str
    manifest_key: str
    state: str = "LOADING"
    generation: int = 0
    refusals: int = 0
    message: str = ""

    def load(self, generation: int) -> "Placement":
        """Return it as one that is to be loaded and proven on a generation."""
        return replace(self, state="LOADING", generation=generation, refusals=0, message="")

    def settle(self, state: str, message: str = "") -> "Placement":
        """Return it as one whose generation has nothing more to do for it."""
        return replace(self, state=state, message=message)

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
