"""The shapes that a record may have, and how each becomes a chat. What a record says is never changed.

A file has one shape: the one that was named, or the one of its first record that has any. A record of another shape in
the same file is a mistake, because nobody means to mix them.

Source: the field names of OpenAI's legacy prompt/completion files, of Stanford Alpaca's instruction/input/output (input
after an empty line), and of TRL's language-modelling {"text": …}.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from services.dataset.chats import Chat, Flaw, read_chat
from services.dataset.faults import cut

OPENAI_CHAT, INSTRUCTION, PROMPT_COMPLETION = "openai_chat", "instruction", "prompt_completion"
QUESTION_ANSWER, INPUT_LABEL, TEXT = "question_answer", "input_label", "text"
# Lines of text, no JSON. Only named, or a file called *.txt: any CSV would pass for it.
PLAIN_TEXT = "plain_text"
LABEL_KEYS = ("label", "expected", "output")

_EXAMPLES = {
    OPENAI_CHAT: '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
    INSTRUCTION: '{"instruction": …, "input": …, "output": …}',
    PROMPT_COMPLETION: '{"prompt": …, "completion": …}',
    QUESTION_ANSWER: '{"question": …, "answer": …}',
    INPUT_LABEL: '{"input": …, "label": …}',
    TEXT: '{"text": …}',
}
FORMATS = (*_EXAMPLES, PLAIN_TEXT)


def detect(value: Mapping[str, Any]) -> str:
    """Return the shape that an object's keys show; empty where they show none."""
    if "messages" in value:
        return OPENAI_CHAT
    if "instruction" in value and "output" in value:
        return INSTRUCTION
    if "prompt" in value and "completion" in value:
        return PROMPT_COMPLETION
    if "question" in value and "answer" in value:
        return QUESTION_ANSWER
    if "input" in value and any(key in value for key in LABEL_KEYS):
        return INPUT_LABEL
    return TEXT if "text" in value and not any(key in value for key in LABEL_KEYS) else ""


def hinted_format(display_name: str) -> str:
    """Return the shape that a file's name tells; empty where only its content can."""
    name = display_name.lower().removesuffix(".gz")
    return PLAIN_TEXT if name.endswith(".txt") else ""


def read_shape(shape: str, value: dict[str, Any]) -> Chat | list[Flaw]:
    """Return the chat that an object of a shape holds, or everything that is wrong with it."""
    if not shape:
        if around := _list_of_records(value):
            told = f"Its field {cut(around)} holds the records; write them, one a line: jq -c '.{cut(around)}[]' FILE > NEW."
            return [Flaw(around, "FORMAT_UNKNOWN", told)]
        keys = ", ".join(cut(key) for key in list(value)[:8])
        told = f"Its fields ({keys}) are of no shape that is known" if keys else "The object is empty"
        return [Flaw("", "FORMAT_UNKNOWN", f"{told}; write one of {', '.join(_EXAMPLES.values())}.")]
    return _READERS[shape](value)


def _list_of_records(value: Mapping[str, Any]) -> str:
    """Return the field of an object that was put around all records, as {"data": [...]}; empty where there is none."""
    lists = (key for key, held in value.items() if isinstance(held, list) and held and isinstance(held[0], dict))
    return next((key for key in lists if detect(value[key][0])), "")


def example_of(shape: str) -> str:
    """Return how a record of a shape is written."""
    return _EXAMPLES[shape or OPENAI_CHAT]


def chat_of_text(text: str) -> Chat:
    """Return what a text becomes: all of it is learned. What asks for it is empty, for many templates want a user to begin."""
    return Chat(({"role": "user", "content": ""}, {"role": "assistant", "content": text}))


def _read_pair(shape: str, question: str, answer: str) -> Callable[[dict[str, Any]], Chat | list[Flaw]]:
    def read(value: dict[str, Any]) -> Chat | list[Flaw]:
        flaws: list[Flaw] = []
        asked = _text(value, question, shape, flaws)
        answered = _text(value, answer, shape, flaws)
        return flaws or _chat(asked, answered, value, {question, answer})

    return read


def _read_instruction(value: dict[str, Any]) -> Chat | list[Flaw]:
    flaws: list[Flaw] = []
    asked = _text(value, "instruction", INSTRUCTION, flaws)
    if value.get("input") is not None:
        if not isinstance(value["input"], str):
            flaws.append(_not_text("input", value["input"]))
        elif value["input"].strip():
            asked = f"{asked}\n\n{value['input']}"
    answered = _text(value, "output", INSTRUCTION, flaws)
    return flaws or _chat(asked, answered, value, {"instruction", "input", "output"})


def _read_label(value: dict[str, Any]) -> Chat | list[Flaw]:
    flaws: list[Flaw] = []
    asked = _text(value, "input", INPUT_LABEL, flaws)
    given = [key for key in LABEL_KEYS if value.get(key) is not None]
    if len(given) > 1:
        told = f"The record has {' and '.join(given)}; keep the one that is to be learned."
        return [*flaws, Flaw(given[1], "LABEL_AMBIGUOUS", told)]
    key = given[0] if given else next((key for key in LABEL_KEYS if key in value), "label")
    label = value.get(key)
    if isinstance(label, int):  # true and false, too
        label = orjson.dumps(label).decode()
    answered = _text({**value, key: label}, key, INPUT_LABEL, flaws)
    return flaws or _chat(asked, answered, value, {"input", *LABEL_KEYS})


def _read_text(value: dict[str, Any]) -> Chat | list[Flaw]:
    flaws: list[Flaw] = []
    text = _text(value, "text", TEXT, flaws)
    return flaws or Chat(chat_of_text(text).messages, ignored=_ignored(value, {"text"}))


def _text(value: dict[str, Any], key: str, shape: str, flaws: list[Flaw]) -> str:
    """Return a field's text; what is wrong with it goes into `flaws`."""
    found = value.get(key)
    if found is None:
        flaws.append(Flaw(key, "FIELD_MISSING", f"The record has no {key}; write {example_of(shape)}."))
    elif not isinstance(found, str):
        flaws.append(_not_text(key, found))
    elif not found.strip():
        flaws.append(Flaw(key, "FIELD_EMPTY", "It says nothing; write its text or remove the record."))
    else:
        return found
    return ""


def _not_text(key: str, found: Any) -> Flaw:
    kinds = {dict: "an object", list: "a list", bool: "true or false"}
    return Flaw(key, "FIELD_NOT_TEXT", f"It is {kinds.get(type(found), 'a number')}; write text.")


def _chat(asked: str, answered: str, value: dict[str, Any], used: set[str]) -> Chat:
    messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    return Chat(messages, ignored=_ignored(value, used))


def _ignored(value: dict[str, Any], used: set[str]) -> tuple[str, ...]:
    return tuple(sorted(value.keys() - used)) if value.keys() - used else ()


_READERS: dict[str, Callable[[dict[str, Any]], Chat | list[Flaw]]] = {
    OPENAI_CHAT: read_chat,
    INSTRUCTION: _read_instruction,
    PROMPT_COMPLETION: _read_pair(PROMPT_COMPLETION, "prompt", "completion"),
    QUESTION_ANSWER: _read_pair(QUESTION_ANSWER, "question", "answer"),
    INPUT_LABEL: _read_label,
    TEXT: _read_text,
}
