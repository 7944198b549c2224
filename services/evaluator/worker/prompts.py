"""Rows into questions: what a model is shown, and what it should have said.

Examples for few-shot prompts are chosen by a hash of seed and row number: the same everywhere and in every version of
Python, and the same for every item, so that the server computes them once.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from services.common.errors import InvalidInput, Violation
from services.evaluator.scoring.labels import label_for
from services.evaluator.template import fill
from services.evaluator.worker.spec import Prompt

Message = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A chat: what comes before the last assistant turn, and the text of that turn."""

    question: tuple[Message, ...]
    reference: str


def read_rows(lines: Iterable[bytes], part: str) -> list[Row]:
    """Parse JSONL of normalised chats. Raises: InvalidInput with one violation for each line without a text answer at its end."""
    rows, violations = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        messages = json.loads(line)["messages"]
        answer = _text(messages[-1]) if messages and messages[-1]["role"] == "assistant" else None
        if answer is None:
            text = f"Line {number} of the {part} rows does not end with an assistant's text; evaluate rows that do."
            violations.append(Violation(f"{part} line {number}", "ROW_WITHOUT_ANSWER", text))
            continue
        rows.append(Row(tuple(messages[:-1]), answer))
    if violations:
        raise InvalidInput(
            f"{len(violations)} {part} rows have no answer to compare with.", reason="ROW_WITHOUT_ANSWER", violations=violations
        )
    return rows


def labelled(rows: Sequence[Row], labels: Sequence[str], part: str) -> list[Row]:
    """Return rows whose reference is spelled as its label; as they are where there are no labels.

    Raises: InvalidInput with one violation for each row whose reference is no label.
    """
    if not labels:
        return list(rows)
    result, violations = [], []
    for number, row in enumerate(rows, 1):
        label = label_for(row.reference, labels)
        if label is None:
            text = f"The answer {row.reference[:80]!r} of {part} row {number} is no label of the suite; add it, or mend the row."
            violations.append(Violation(f"{part} row {number}", "REFERENCE_NOT_A_LABEL", text))
        else:
            result.append(Row(row.question, label))
    if violations:
        raise InvalidInput(
            f"{len(violations)} of {len(rows)} {part} rows have an answer that is none of the labels {', '.join(labels)}.",
            reason="REFERENCE_NOT_A_LABEL",
            violations=violations,
        )
    return result


def draw_examples(train: Sequence[Row], labels: Sequence[str], shots: int, seed: int) -> list[Row]:
    """Draw examples from training rows, equally many per label, in an order that depends on the seed alone.

    Raises: InvalidInput (too few rows; shots that do not divide among the labels).
    """
    if shots == 0:
        return []
    order = sorted(range(len(train)), key=lambda index: _rank(seed, index))
    if not labels:
        chosen = order[:shots]
        if len(chosen) < shots:
            text = f"{shots} examples were asked for and there are {len(train)} training rows."
            raise InvalidInput(text, reason="TOO_FEW_ROWS")
        return [train[index] for index in chosen]
    each, rest = divmod(shots, len(labels))
    if rest:
        raise InvalidInput(f"{shots} examples do not divide among {len(labels)} labels.", reason="SHOTS_UNEQUAL")
    of: dict[str, list[int]] = {label: [] for label in labels}
    for index in order:
        label = label_for(train[index].reference, labels)
        if label is not None and len(of[label]) < each:
            of[label].append(index)
    if short := [label for label in labels if len(of[label]) < each]:
        text = f"{each} examples per label were asked for; the training rows hold fewer of {', '.join(short)}."
        raise InvalidInput(text, reason="TOO_FEW_ROWS")
    chosen = sorted((index for indices in of.values() for index in indices), key=lambda index: _rank(seed, index))
    return [train[index] for index in chosen]


def messages_of(row: Row, examples: Sequence[Row], prompt: Prompt, labels: Sequence[str] = ()) -> list[Message]:
    """Return the chat to send: the system message, the examples as turns of the same chat, then the question.

    System message and question are the row's own, or the prompt's instruction and template with the row's words put in.
    Raises: InvalidInput (a template over a row that does not end with a user's text).
    """
    lead = [message for message in row.question if message["role"] == "system"]
    if prompt.instruction:
        lead = [{"role": "system", "content": fill(prompt.instruction, _values(row, labels))}]
    shown: list[Message] = []
    for example in examples:
        shown += _turns(example, prompt, labels)
        shown.append({"role": "assistant", "content": example.reference})
    return lead + shown + _turns(row, prompt, labels)


def _turns(row: Row, prompt: Prompt, labels: Sequence[str]) -> list[Message]:
    turns = [message for message in row.question if message["role"] != "system"]
    if not prompt.template:
        return turns
    if not turns or turns[-1]["role"] != "user":
        text = f"The prompt {prompt.id} has a template, and there is a row whose question is not a user's; ask it without one."
        raise InvalidInput(text, reason="QUESTION_WITHOUT_USER", metadata={"prompt": prompt.id})
    return [*turns[:-1], {"role": "user", "content": fill(prompt.template, _values(row, labels))}]


def _values(row: Row, labels: Sequence[str]) -> dict[str, str]:
    """Return what variables stand for; see VARIABLES."""
    said = {role: [_text(m) or "" for m in row.question if m["role"] == role] for role in ("system", "user")}
    return {"question": (said["user"] or [""])[-1], "system": "\n".join(said["system"]), "labels": ", ".join(labels)}


def _rank(seed: int, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{index}".encode()).digest()


def _text(message: Message) -> str | None:
    """Return a message's text, also from parts; None where it has none."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if part.get("type") == "text")
    return content if isinstance(content, str) and content.strip() else None
