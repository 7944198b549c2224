"""The proof that a server answers as the trainer's model does: golden chats, asked again where the model is served.

A server that loads an adapter without complaint may still answer as the base. So the trainer leaves golden chats beside
the weights: the token ids that it saw (template parity) and the log-probabilities, of the adapter and of the base, for a
few next tokens. The rule looks at means alone: single differences reach 0.8 in bfloat16 for the right adapter.

Full weights have a server of their own, so there is no other model to be taken for them: their references may hold token
ids alone, or be missing, and the proof then says how little was shown; they can't be promoted so.

A server launched for fewer tokens than a golden chat has is asked the others. What a mismatch says of the model a length
does not: nobody is quarantined for a setting.
"""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.common.errors import InvalidInput, OverLimit
from services.common.ports.model_server import GoldenChat, ModelServer, Probe

# Source: 42 proofs on live servers: own adapter 0.04 to 0.08, another adapter or the base at least 0.9, an adapter scaled
# to 3% against its base 0.25.
MAX_MEAN_DIFFERENCE = 0.15
MIN_REFERENCE_GAP = 0.05
MIN_GOLDEN_CHATS = 8  # of an adapter that is registered; how many its server could be asked, its proof tells
MAX_CANDIDATES = 16
QUESTIONS_AT_ONCE = 8


@dataclass(frozen=True)
class Measured:
    """What one server said about one golden chat. Shapes: logprobs [probes][K]. Units: nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Proof:
    """What came of a proof; `reason` is empty where it holds. Units: differences are mean absolute nats."""

    reason: str
    message: str
    golden_count: int
    token_count: int
    mean_difference: float
    base_difference: float
    reference_gap: float

    @property
    def is_proven(self) -> bool:
        """Whether the server answers as the trainer's model."""
        return not self.reason

    @property
    def is_distinguishable(self) -> bool:
        """Whether it shows which weights answer; without that a model can't be promoted.

        An adapter's references have to tell it from its base; full weights, which share a server with nothing, need any.
        """
        return self.token_count > 0 and (math.isnan(self.reference_gap) or self.reference_gap >= MIN_REFERENCE_GAP)

    def to_json(self) -> dict[str, Any]:
        """Return it for a document or a Struct; a number that is not finite becomes null."""
        numbers = {name: getattr(self, name) for name in ("mean_difference", "base_difference", "reference_gap")}
        return {
            **{name: round(value, 6) if math.isfinite(value) else None for name, value in numbers.items()},
            "message": self.message,
            "token_count": self.token_count,
            "golden_count": self.golden_count,
            "is_distinguishable": self.is_distinguishable,
        }


def parse_golden(document: bytes, base_digest: str) -> tuple[GoldenChat, ...]:
    """Read golden.json; of full weights, which stand on no base, where `base_digest` is empty.

    Raises: InvalidInput (malformed, numbers that are not finite; an adapter's of another base, or without a probe).
    """
    is_adapter = bool(base_digest)
    try:
        raw = json.loads(document)
        told, chats = raw.get("base_digest", ""), tuple(_chat(chat, is_adapter) for chat in raw["chats"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"golden.json can't be read: {error!r}.", reason="GOLDEN_INVALID") from error
    if not is_adapter:
        return chats
    if told != base_digest:
        raise InvalidInput(f"golden.json was made on base {told}, not on {base_digest}.", reason="WRONG_BASE")
    if not any(chat.probes for chat in chats):
        raise InvalidInput("golden.json holds no probe; train again with rows that have an answer.", reason="GOLDEN_INVALID")
    return chats


def fit(chats: Sequence[GoldenChat], max_length: int) -> tuple[GoldenChat, ...]:
    """Return what a server of this longest length can be asked, one token for the answer included. Units: tokens.

    Raises: OverLimit (not one golden answer fits: it says nothing about the model, only about the server).
    """
    kept = [replace(chat, probes=tuple(p for p in chat.probes if len(p.prefix_token_ids) < max_length)) for chat in chats]
    kept = [chat for chat in kept if len(chat.prompt_token_ids) < max_length]
    if any(chat.probes for chat in chats) and not any(chat.probes for chat in kept):
        shortest = min(len(probe.prefix_token_ids) for chat in chats for probe in chat.probes)
        raise OverLimit(
            f"Its server takes {max_length} tokens and its shortest golden answer needs {shortest + 1}; raise max_length.",
            reason="MAX_LENGTH_TOO_SHORT",
            metadata={"max_length": str(max_length), "needed_length": str(shortest + 1)},
        )
    return tuple(kept)


def decide(chats: Sequence[GoldenChat], measured: Sequence[Measured]) -> Proof:
    """Hold what a server said against the references. Pure; chats and measured go pair by pair."""
    own: list[float] = []
    other: list[float] = []
    gaps: list[float] = []
    for chat, said in zip(chats, measured, strict=True):
        for probe, logprobs in zip(chat.probes, said.logprobs, strict=True):
            own += (abs(value - adapter) for value, adapter in zip(logprobs, probe.adapter_logprobs, strict=True))
            if probe.base_logprobs:
                other += (abs(value - base) for value, base in zip(logprobs, probe.base_logprobs, strict=True))
                gaps += (abs(a - base) for a, base in zip(probe.adapter_logprobs, probe.base_logprobs, strict=True))
    strays = [i for i, (chat, said) in enumerate(zip(chats, measured, strict=True)) if chat.prompt_token_ids != said.token_ids]
    if not strays and not any(chat.probes for chat in chats):
        return Proof("", _little(len(chats)), len(chats), 0, math.nan, math.nan, math.nan)
    reason, message = _verdict(_mean(own), _mean(other), _mean(gaps), strays, len(own))
    return Proof(reason, message, len(chats), len(own), _mean(own), _mean(other), _mean(gaps))


async def prove(server: ModelServer, digest: str, chats: Sequence[GoldenChat]) -> Proof:
    """Ask a server all golden chats, a few at a time, and decide. Raises: Unavailable; InvalidInput (not served there)."""
    gate = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def ask(probe: Probe) -> tuple[float, ...]:
        async with gate:
            return tuple(await server.logprobs(digest, probe.prefix_token_ids, probe.token_ids))

    async def measure(chat: GoldenChat) -> Measured:
        async with gate:
            token_ids = tuple(await server.token_ids(digest, chat.messages))
        return Measured(token_ids, tuple(await asyncio.gather(*(ask(probe) for probe in chat.probes))))

    return decide(chats, await asyncio.gather(*(measure(chat) for chat in chats)))


def _verdict(own: float, other: float, gap: float, strays: list[int], token_count: int) -> tuple[str, str]:
    if strays:
        return "TEMPLATE_MISMATCH", f"The server makes other token ids of golden chats {strays[:8]} than the trainer did."
    if not token_count or not math.isfinite(own):
        return "LOGPROBS_MISSING", "The server gave no log-probability, or one that is no number, for a golden token."
    if own >= MAX_MEAN_DIFFERENCE:
        return "LOGPROBS_DIFFER", f"Mean difference to the trainer's references is {own:.3f}; {MAX_MEAN_DIFFERENCE} is the limit."
    if gap >= MIN_REFERENCE_GAP and own >= other:
        return "ANSWERS_AS_BASE", f"The server is nearer to the base ({other:.3f}) than to the adapter ({own:.3f})."
    beside = f", from the base's by {other:.3f}" if math.isfinite(other) else ""
    return "", f"{token_count} log-probabilities differ by {own:.3f} on average{beside}."


def _little(golden_count: int) -> str:
    if not golden_count:
        return "The server answers under these weights' digest; there were no references to hold its answers against."
    return f"{golden_count} chats get the references' token ids; there were no log-probabilities to hold the answers against."


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _chat(raw: Mapping[str, Any], is_adapter: bool) -> GoldenChat:
    probes = tuple(_probe(probe, is_adapter) for probe in raw["probes"])
    return GoldenChat(tuple(raw["messages"]), tuple(int(i) for i in raw["prompt_token_ids"]), probes)


def _probe(raw: Mapping[str, Any], is_adapter: bool) -> Probe:
    probe = Probe(
        tuple(int(i) for i in raw["prefix_token_ids"]),
        tuple(int(i) for i in raw["token_ids"]),
        tuple(float(x) for x in raw["adapter_logprobs"]),
        tuple(float(x) for x in raw["base_logprobs"]) if is_adapter else (),
    )
    count = len(probe.token_ids)
    told = {len(probe.adapter_logprobs), len(probe.base_logprobs) if is_adapter else count}
    if not 1 <= count <= MAX_CANDIDATES or told != {count}:
        raise ValueError("a probe has to have 1 to 16 tokens, each with its log-probabilities")
    if not probe.prefix_token_ids or not all(map(math.isfinite, probe.adapter_logprobs + probe.base_logprobs)):
        raise ValueError("a probe has to have a prefix and finite log-probabilities")
    return probe
