"""The model server: an engine that serves one base and adapters on it, by digest.

Readiness means proven: a server that answers is not enough, its answers have to be the model's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Probe:
    """A prefix and the log-probabilities that the next token should have: the model's, and for an adapter its base's.

    Shapes: prefix_token_ids [T]; token_ids, adapter_logprobs, base_logprobs [K], K <= 16. Units: nats.
    """

    prefix_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    adapter_logprobs: tuple[float, ...]
    base_logprobs: tuple[float, ...]


@dataclass(frozen=True)
class GoldenChat:
    """A chat, the token ids that the trainer saw for it, and probes of the answer."""

    messages: tuple[dict[str, Any], ...]
    prompt_token_ids: tuple[int, ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Activity:
    """Requests that a server has under way, waiting ones included, and how many it has answered since it started."""

    running_count: int
    answered_count: int


class ModelServer(ABC):
    """One running engine. All verbs are coroutines with bounded time; all raise Unavailable while the engine does not answer."""

    @abstractmethod
    async def is_up(self) -> bool:
        """Whether the engine takes requests. Never raises."""

    @abstractmethod
    async def load(self, digest: str) -> None:
        """Load an adapter by digest. Idempotent: loading twice is one load.

        Raises: InvalidInput (missing, or refused by the engine) – never the base model's answer.
        """

    @abstractmethod
    async def unload(self, digest: str) -> None:
        """Forget an adapter; the absent is success."""

    @abstractmethod
    async def loaded(self) -> list[str]:
        """The digests that the engine knows, the base's first."""

    @abstractmethod
    async def activity(self) -> Activity:
        """What the engine has to do and has done."""

    @abstractmethod
    async def token_ids(self, digest: str, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The token ids that the server makes of a chat, ready for an answer. Shapes: [T]."""

    @abstractmethod
    async def logprobs(self, digest: str, prefix_token_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """Log-probabilities of K candidates for the token after a prefix. Shapes: [T], [K] -> [K], K <= 16. Units: nats."""
