"""The gateway as the worker sees it: two questions, patience, and proof of who answered.

An evaluation is worth nothing if another model answered, so every response names the digest that answered, and a wrong
one ends the evaluation. What passes by itself – a model being loaded, a restart, a limit – is waited for, within bounds.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import openai

from services.common.errors import InvalidInput, Unauthenticated, Unavailable
from services.common.telemetry import carried
from services.evaluator.worker.prompts import Message
from services.evaluator.worker.spec import Subject

PARALLEL = 16  # requests in flight
PATIENCE_S = 600.0  # how long one question is repeated before the attempt gives up
TIMEOUT_S = 300.0  # one request; a busy CPU answers at a tenth of its speed
MAX_BACKOFF_S = 20.0
DIGEST_HEADER = "afina-model-digest"

T = TypeVar("T")


def open_client(gateway_url: str, api_key: str) -> openai.AsyncOpenAI:
    """Return a client of the gateway that leaves all retries to `Gateway`."""
    root = gateway_url.rstrip("/").removesuffix("/v1")
    return openai.AsyncOpenAI(base_url=f"{root}/v1", api_key=api_key, max_retries=0, timeout=TIMEOUT_S, default_headers=carried())


class Gateway:
    """Asks models by their public names. All questions share one limit of requests in flight."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        *,
        parallel: int = PARALLEL,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._patience_s, self._sleep, self._clock = client, patience_s, sleep, clock
        self._slots = asyncio.Semaphore(parallel)

    async def answer(self, subject: Subject, messages: Sequence[Message], max_tokens: int) -> tuple[str, str]:
        """Return what a model writes, greedily, and why it ended. Raises: InvalidInput, Unauthenticated, Unavailable."""

        async def ask() -> Any:
            chat: Any = list(messages)
            return await self._client.chat.completions.with_raw_response.create(
                model=subject.public_id, messages=chat, temperature=0, max_tokens=max_tokens
            )

        completion = await self._ask(subject, ask)
        choice = completion.choices[0]
        return choice.message.content or "", choice.finish_reason or ""

    async def logprobs(self, subject: Subject, prompt: Sequence[int], token_ids: Sequence[int]) -> dict[int, float]:
        """Return the log-probabilities of candidates for the next token. Shapes: [T], [K] -> K, K <= 16. Units: nats.

        Raises: InvalidInput (also where the server left one out), Unauthenticated, Unavailable.
        """

        async def ask() -> Any:
            return await self._client.completions.with_raw_response.create(
                model=subject.public_id,
                prompt=list(prompt),
                temperature=0,
                max_tokens=1,
                logprobs=1,
                extra_body={"logprob_token_ids": list(token_ids), "return_tokens_as_token_ids": True},
            )

        completion = await self._ask(subject, ask)
        told = completion.choices[0].logprobs
        top = told.top_logprobs[0] if told and told.top_logprobs else {}
        return {token: _number(top.get(f"token_id:{token}"), token, subject) for token in token_ids}

    async def _ask(self, subject: Subject, ask: Callable[[], Awaitable[Any]]) -> Any:
        async with self._slots:
            raw = await self._patiently(subject, ask)
        answered = raw.headers.get(DIGEST_HEADER, "")
        if answered != subject.digest:
            raise InvalidInput(
                f"{subject.public_id} was answered by {answered or 'an unnamed model'} instead of {subject.digest}; "
                "the scores would be another model's. Create a new evaluation.",
                reason="WRONG_MODEL_ANSWERED",
                metadata={"model": subject.model, "expected_digest": subject.digest, "answered_digest": answered},
            )
        return raw.parse()

    async def _patiently(self, subject: Subject, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeat a question that failed for a reason that passes, until patience ends."""
        give_up, tries = self._clock() + self._patience_s, 0
        while True:
            try:
                return await ask()
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
                pause_s = _pause_s(error, tries)
                if self._clock() + pause_s > give_up:
                    text = f"{subject.public_id} gave no answer within {self._patience_s:.0f} s; last: {_told(error)}"
                    metadata = {"model": subject.public_id}
                    raise Unavailable(text, reason="GATEWAY_UNAVAILABLE", metadata=metadata) from error
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                text = f"The gateway refused the evaluation's key: {_told(error)}"
                raise Unauthenticated(text, reason="KEY_REFUSED") from error
            except openai.APIStatusError as error:
                raise InvalidInput(
                    f"The gateway refused a question to {subject.public_id}: {_told(error)}",
                    reason="QUESTION_REFUSED",
                    metadata={"model": subject.public_id, "status": str(error.status_code)},
                ) from error
            tries += 1
            await self._sleep(pause_s)


def _number(logprob: float | None, token: int, subject: Subject) -> float:
    """Return a log-probability that is one. Raises: InvalidInput."""
    metadata = {"model": subject.public_id, "token_id": str(token)}
    if logprob is None:
        text = f"{subject.public_id} told no log-probability of token {token}; its server does not know logprob_token_ids."
        raise InvalidInput(text, reason="LOGPROBS_UNSUPPORTED", metadata=metadata)
    if math.isnan(logprob):
        text = f"{subject.public_id} told NaN as the log-probability of token {token}; its weights are broken."
        raise InvalidInput(text, reason="LOGPROBS_INVALID", metadata=metadata)
    return float(logprob)


def _pause_s(error: openai.APIError, tries: int) -> float:
    """Return how long to wait: what the server asks for, else a growing time with jitter."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), MAX_BACKOFF_S)
    return float(min(MAX_BACKOFF_S, 0.5 * 2.0 ** min(tries, 6)) * random.uniform(0.5, 1.0))


def _told(error: openai.APIError) -> str:
    status = getattr(error, "status_code", None)
    return f"{f'{status}: ' if status else ''}{error.message}"[:500]
