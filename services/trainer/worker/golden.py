"""Golden chats: what a server is asked to prove that it serves this adapter, chosen and made from a job's own rows.

There are at least eight of them, different, one of several turns among them, and each fits the server that will be asked.
Rows are taken as they are where they do. What is missing is made from them, in this order: two rows become one chat of two
turns; a row of several turns ends at an earlier answer; more rows are joined; questions are cut short, or asked twice over.
A proof compares two programs on the same text, so golden chats have to be varied and need not make sense.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from services.common.errors import InvalidInput
from services.trainer.worker import batches
from services.trainer.worker.batches import Messages

GOLDEN_CHATS = 8
GOLDEN_TOKENS = 1024  # a chat that is longer proves no more and takes a server longer
LOOKED_AT = 4 * GOLDEN_CHATS


def choose_golden(chats: Sequence[Messages], tokenizer: Any, max_tokens: int = GOLDEN_TOKENS) -> list[Messages]:
    """Return golden chats, each with its answer at the end. Units: `max_tokens` of a chat with its answer.

    Fewer than eight come back only where `max_tokens` has no room for as many different ones.
    """
    rows = [_answered(messages) for messages in chats[:LOOKED_AT]]
    whole = [messages for messages in rows if _fits(messages, tokenizer, max_tokens)]
    chosen = _different(whole)[:GOLDEN_CHATS]
    if not chosen:
        rows = [_cut(messages, tokenizer, max_tokens) or messages for messages in rows]
        chosen = _different(rows)[:GOLDEN_CHATS]
    has_turns = False
    for made in _made(chosen):
        if len(chosen) >= GOLDEN_CHATS and has_turns:
            break
        cut = _cut(made, tokenizer, max_tokens)
        is_needed = len(chosen) < GOLDEN_CHATS or _turns(made) > 1
        if cut is not None and cut not in chosen and is_needed:
            chosen.append(cut)
            has_turns = has_turns or _turns(cut) > 1
    return chosen


def _made(rows: Sequence[Messages]) -> Iterator[Messages]:
    """Yield chats that can be made from rows, the most telling first."""
    rows = list(rows)
    yield from (_joined(rows, at, 2) for at in range(len(rows)))
    for messages in rows:
        answers = [
            at for at, message in enumerate(messages[:-1]) if message["role"] == "assistant" and "tool_calls" not in message
        ]
        yield from (messages[: at + 1] for at in answers)
    yield from (_joined(rows, at, count) for count in range(3, GOLDEN_CHATS + 2) for at in range(len(rows)))
    for parts in (2, 4, 8, 16):
        yield from (_asked(messages, functools.partial(_first_part, parts)) for messages in rows)
    for times in range(2, GOLDEN_CHATS + 1):
        yield from (_asked(messages, functools.partial(_repeated, times)) for messages in rows)


def _joined(rows: Sequence[Messages], begin: int, count: int) -> Messages:
    """Return so many rows one after another as one chat, from one on and round; what a row is told by the system only once."""
    first, *others = (rows[(begin + i) % len(rows)] for i in range(count))
    joined = list(first)
    for messages in others:
        joined[-1] = _as_text(joined[-1])  # what follows on a call would have to be its result
        joined += (message for message in messages if message["role"] != "system")
    return joined


def _asked(messages: Messages, change: Callable[[str], str]) -> Messages:
    """Return a chat with its questions changed."""
    return [
        {**message, "content": change(text)}
        if message["role"] == "user" and isinstance(text := message.get("content"), str)
        else message
        for message in messages
    ]


def _first_part(parts: int, text: str) -> str:
    return text[: len(text) // parts]


def _repeated(times: int, text: str) -> str:
    return " ".join([text] * times)


def _cut(messages: Messages, tokenizer: Any, max_tokens: int) -> Messages | None:
    """Return a chat with its longest texts halved until it fits, or None where it can't be made to."""
    cut = list(messages)
    while not _fits(cut, tokenizer, max_tokens):
        lengths = [len(text) if isinstance(text := message.get("content"), str) else 0 for message in cut]
        at = max(range(len(cut)), key=lengths.__getitem__)
        if lengths[at] < 2:
            if "tool_calls" not in cut[-1]:
                return None
            at, lengths[-1] = len(cut) - 1, len(str(_as_text(cut[-1])["content"]))
            cut[-1] = _as_text(cut[-1])
        cut[at] = {**cut[at], "content": cut[at]["content"][: lengths[at] // 2]}
    return cut


def _fits(messages: Messages, tokenizer: Any, max_tokens: int) -> bool:
    try:
        return len(batches.render(messages, tokenizer)) <= max_tokens
    except InvalidInput:  # a template that will not have two rows in one
        return False


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that calls tools as one that says so."""
    if "tool_calls" not in message:
        return message
    called = [call["function"] for call in message["tool_calls"]]
    return {"role": message["role"], "content": json.dumps(called, ensure_ascii=False)}


def _answered(messages: Messages) -> Messages:
    """Return a chat up to its last answer that follows on no call of a tool: a server is asked without tools."""
    end = next((at + 1 for at, message in enumerate(messages) if "tool_calls" in message), len(messages))
    last = max(at for at, message in enumerate(messages[:end]) if message["role"] == "assistant")
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages[: last + 1]]


def _turns(messages: Messages) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _different(chats: Sequence[Messages]) -> list[Messages]:
    """Return each chat once, in order."""
    return [messages for at, messages in enumerate(chats) if messages not in chats[:at]]
