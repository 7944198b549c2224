"""From chats to the tensors of a training step. The only place that knows how rows lie in memory.

Rows are packed: the rows of a step stand one after another in sequences without padding, positions begin again at each
row, and attention is told where rows end, so they can't see each other. The padded layout is the plain one; it is the
reference, and the way for models that can't be packed. Both give the same loss.

What is trained is chosen by position, never by token: many models pad with their end token, and the end of every
answer has to be learned.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor

from services.common.errors import InvalidInput, Violation

Messages = list[dict[str, Any]]
GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Chat:
    """One row of a dataset: what was said, and the tools that could be called."""

    messages: Messages
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Row:
    """One chat as the model reads it: token ids, and which of them it has to learn to say."""

    ids: tuple[int, ...]
    has_loss: tuple[bool, ...]

    @property
    def loss_count(self) -> int:
        """How many tokens carry loss; the first of a row can't, since nothing precedes it."""
        return sum(self.has_loss[1:])


@dataclass(frozen=True)
class Batch:
    """One forward pass. Shapes: B sequences, T tokens each, C kept columns, K trained tokens."""

    input_ids: Tensor  # (B, T)
    position_ids: Tensor  # (B, T)
    attention_mask: Tensor | None  # (B, T), 1 where a token is; None where nothing is padded
    row_lengths: list[int] | None  # of the rows packed into the one sequence; None for the padded layout
    columns: Tensor  # (C,) where some row predicts a trained token
    kept: tuple[Tensor, Tensor]  # (K,), (K,) which sequence and which of the C columns predict the targets
    targets: Tensor  # (K,)


# --- rows ------------------------------------------------------------------------------------------------------------


def encode_rows(part: str, chats: Iterable[Chat], tokenizer: Any, end_ids: set[int], max_length: int) -> list[Row]:
    """Turn chats into rows. Raises: InvalidInput, with one violation for each row that can't be learned as it is."""
    rows, violations = [], []
    for number, chat in enumerate(chats, start=1):
        try:
            row = encode(chat, tokenizer, end_ids)
        except InvalidInput as error:
            violations.append(Violation(f"{part}[{number}]", error.reason, error.message))
            continue
        if len(row.ids) > max_length:
            text = f"Row {number} of {part} has {len(row.ids)} tokens, allowed are {max_length}; shorten it or raise max_length."
            violations.append(Violation(f"{part}[{number}]", "ROW_TOO_LONG", text))
        rows.append(row)
    if violations:
        reasons = sorted({violation.reason for violation in violations})
        raise InvalidInput(
            f"{len(violations)} rows of {part} can't be trained on ({', '.join(reasons)}); each is listed.",
            reason="ROWS_INVALID",
            violations=violations,
        )
    return rows


def encode(chat: Chat, tokenizer: Any, end_ids: set[int]) -> Row:
    """Render a chat with the base's own template; every answer but those of weight 0 is trained, its end token included.

    Raises: InvalidInput (no answer; the template refuses the chat, leaves tools out, or renders its beginning differently alone).
    """
    if not any(_is_learned(message) for message in chat.messages):
        raise InvalidInput("The chat has no assistant message to learn.", reason="NO_ASSISTANT_TURN")
    is_marked = GENERATION_BLOCK.search(tokenizer.chat_template)
    ids, has_loss = (_marked_by_template if is_marked else _marked_by_prefixes)(chat, tokenizer, end_ids)
    _require_tools_shown(chat, ids, tokenizer)
    row = Row(tuple(ids), tuple(has_loss))
    if row.loss_count == 0:
        raise InvalidInput("The assistant's messages come to no tokens, so there is nothing to learn.", reason="ANSWER_EMPTY")
    return row


def _is_learned(message: dict[str, Any]) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0


def _marked_by_template(chat: Chat, tokenizer: Any, end_ids: set[int]) -> tuple[list[int], list[bool]]:
    """Take the spans that the template itself marks; where it leaves out the end token, add that."""
    said = _apply(chat.messages, chat.tools, tokenizer, return_dict=True, return_assistant_tokens_mask=True)
    ids, has_loss = list(said["input_ids"]), [bool(bit) for bit in said["assistant_masks"]]
    answers = [message for message in chat.messages if message["role"] == "assistant"]
    if not all(map(_is_learned, answers)):
        begins = [at for at in range(len(ids)) if has_loss[at] and not (at and has_loss[at - 1])]
        if len(begins) != len(answers):
            raise InvalidInput(
                f"The base's chat template marks {len(begins)} answers and the chat has {len(answers)}, so those of weight 0 "
                "can't be told apart; leave the weights out, or write one turn per row.",
                reason="WEIGHTS_NOT_TOLD_APART",
            )
        for answer, begin, end in zip(answers, begins, [*begins[1:], len(ids)], strict=True):
            has_loss[begin:end] = [bit and _is_learned(answer) for bit in has_loss[begin:end]]
    for at in range(1, len(ids)):
        if has_loss[at - 1] and ids[at - 1] not in end_ids and ids[at] in end_ids:
            has_loss[at] = True
    return ids, has_loss


def _marked_by_prefixes(chat: Chat, tokenizer: Any, end_ids: set[int]) -> tuple[list[int], list[bool]]:
    """Find each answer as what a chat that ends with it has more than its prompt has."""
    ids = render(chat.messages, tokenizer, chat.tools)
    has_loss = [False] * len(ids)
    for at, message in enumerate(chat.messages):
        if not _is_learned(message):
            continue
        prompt = render(chat.messages[:at], tokenizer, chat.tools, with_generation_prompt=True)
        answered = ids if at + 1 == len(chat.messages) else render(chat.messages[: at + 1], tokenizer, chat.tools)
        if answered[: len(prompt)] != prompt or ids[: len(answered)] != answered:
            raise InvalidInput(
                f"The base's chat template renders the chat up to message {at + 1} differently when more follows, so it can't "
                "be told what the model will be asked; use a template with a generation block, or one turn per row.",
                reason="TEMPLATE_NOT_PREFIX_STABLE",
            )
        end = _end_of_answer(answered, len(prompt), end_ids)
        has_loss[len(prompt) : end] = [True] * (end - len(prompt))
    return ids, has_loss


def _end_of_answer(ids: list[int], begin: int, end_ids: set[int]) -> int:
    """Return where an answer stops: after its end token, before the white space that a template puts behind it."""
    return next((at + 1 for at in range(len(ids) - 1, begin - 1, -1) if ids[at] in end_ids), len(ids))


def _require_tools_shown(chat: Chat, ids: list[int], tokenizer: Any) -> None:
    """Raises: InvalidInput, where the chat reads the same without its tools or its calls of them: they would not be learned."""
    callless = [
        {"content": "", **{key: value for key, value in message.items() if key != "tool_calls"}} for message in chat.messages
    ]
    advice = "so the model would not learn from them; choose a base whose template knows tools, or leave them out"
    if chat.tools and _reads(ids, chat.messages, None, tokenizer):
        raise InvalidInput(f"The base's chat template ignores the chat's tools, {advice}.", reason="TOOLS_IGNORED")
    if any("tool_calls" in message for message in chat.messages) and _reads(ids, callless, chat.tools, tokenizer):
        raise InvalidInput(f"The base's chat template ignores calls of tools, {advice}.", reason="TOOL_CALLS_IGNORED")


def _reads(ids: list[int], messages: Messages, tools: list[dict[str, Any]] | None, tokenizer: Any) -> bool:
    try:
        return render(messages, tokenizer, tools) == ids
    except InvalidInput:
        return False


def render(
    messages: Messages, tokenizer: Any, tools: list[dict[str, Any]] | None = None, *, with_generation_prompt: bool = False
) -> list[int]:
    """Return a chat's token ids. Raises: InvalidInput (the template refuses it)."""
    return list(_apply(messages, tools, tokenizer, add_generation_prompt=with_generation_prompt, return_dict=False))


def _apply(messages: Messages, tools: list[dict[str, Any]] | None, tokenizer: Any, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template([shown(message) for message in messages], tools=tools or None, **options)
    except (TemplateError, TypeError, ValueError, RecursionError) as error:  # a template is a program, and not ours
        raise InvalidInput(f"The base's chat template refuses the chat: {error}.", reason="TEMPLATE_REFUSED") from error


def shown(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as a server hands it to a template: without a weight, and with the arguments of calls as objects."""
    said = {key: value for key, value in message.items() if key != "weight"}
    if "tool_calls" in said:
        functions = [call["function"] for call in said["tool_calls"]]
        parsed = [{**function, "arguments": json.loads(function["arguments"])} for function in functions]
        said["tool_calls"] = [{**call, "function": function} for call, function in zip(said["tool_calls"], parsed, strict=True)]
    return said


# --- order -----------------------------------------------------------------------------------------------------------


def rows_of_step(step: int, row_count: int, batch_size: int, seed: int) -> Sequence[int]:
    """Return which rows a step takes, from 0: each epoch takes every row once, in its own order. A pure function."""
    epoch, at = divmod(step, steps_per_epoch(row_count, batch_size))
    return _order(row_count, seed, epoch)[at * batch_size : (at + 1) * batch_size]


def steps_per_epoch(row_count: int, batch_size: int) -> int:
    """Return the steps of an epoch; the last may be a smaller one."""
    return -(-row_count // batch_size)


@lru_cache(maxsize=1)
def _order(row_count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(row_count))
    random.Random(f"afina order {seed} {epoch}").shuffle(order)
    return tuple(order)


# --- layouts ---------------------------------------------------------------------------------------------------------


def divide(rows: Sequence[Row], limit_tokens: int, area: Callable[[Sequence[Row]], int]) -> list[list[Row]]:
    """Divide rows, short ones first, into groups of about equal size and about `limit_tokens` tokens at most.

    A row that alone has more is a group of its own.
    """
    total, longest = sum(len(row.ids) for row in rows), max(len(row.ids) for row in rows)
    limit = min(limit_tokens, total // -(-total // limit_tokens) + longest)
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if not groups or area([*groups[-1], row]) > limit:
            groups.append([])
        groups[-1].append(row)
    return groups


def packed_area(rows: Sequence[Row]) -> int:
    """Return the tokens that rows take without padding."""
    return sum(len(row.ids) for row in rows)


def padded_area(rows: Sequence[Row]) -> int:
    """Return the tokens that rows take with padding."""
    return len(rows) * max(len(row.ids) for row in rows)


def pack(rows: Sequence[Row], device: torch.device) -> Batch:
    """Lay rows one after another in one sequence."""
    ids = [token for row in rows for token in row.ids]
    positions = [at for row in rows for at in range(len(row.ids))]
    columns, targets, begin = [], [], 0
    for row in rows:
        trained = [at for at in range(1, len(row.ids)) if row.has_loss[at]]
        columns += [begin + at - 1 for at in trained]  # a token is predicted where the one before it stands
        targets += [row.ids[at] for at in trained]
        begin += len(row.ids)
    return Batch(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        attention_mask=None,
        row_lengths=[len(row.ids) for row in rows],
        columns=torch.tensor(columns, dtype=torch.long, device=device),
        kept=(torch.zeros(len(columns), dtype=torch.long, device=device), torch.arange(len(columns), device=device)),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
    )


def pad(rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
    """Lay rows one below another, filled up on the right."""
    length = max(len(row.ids) for row in rows)
    places = [(b, at) for b, row in enumerate(rows) for at in range(1, len(row.ids)) if row.has_loss[at]]
    columns = sorted({at - 1 for _, at in places})
    column_of = {column: c for c, column in enumerate(columns)}
    return Batch(
        input_ids=torch.tensor([[*row.ids, *[pad_id] * (length - len(row.ids))] for row in rows], device=device),
        position_ids=torch.arange(length, device=device).expand(len(rows), length),
        attention_mask=torch.tensor([[1] * len(row.ids) + [0] * (length - len(row.ids)) for row in rows], device=device),
        row_lengths=None,
        columns=torch.tensor(columns, dtype=torch.long, device=device),
        kept=(
            torch.tensor([b for b, _ in places], dtype=torch.long, device=device),
            torch.tensor([column_of[at - 1] for _, at in places], dtype=torch.long, device=device),
        ),
        targets=torch.tensor([rows[b].ids[at] for b, at in places], dtype=torch.long, device=device),
    )
