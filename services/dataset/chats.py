"""A chat as OpenAI's fine-tuning files have it, read from a JSON object into one normal form.

Normal means: keys in one order, text parts joined, nulls and weight 1 (the default) left out, so that the same chat has
the same bytes. What a chat says is never changed. Every flaw of a chat is found, not only the first.

Source: the chat format of OpenAI's fine-tuning guide (messages, tools, assistant weight 0 or 1).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

ROLES = ("system", "developer", "user", "assistant", "tool")
INSTRUCTION_ROLES = ("system", "developer")
_PLAIN_ROLES = ("user", "assistant", "system", "developer")
_OTHER_ROLES = {
    "human": "user",
    "customer": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
_OTHER_SHAPES = (
    ("prompt", "completion"),
    ("instruction", "output"),
    ("question", "answer"),
    ("input", "output"),
    ("conversations",),
)
_MESSAGE_KEYS = {"role", "content", "name", "weight", "tool_calls", "tool_call_id"}


@dataclass(frozen=True)
class Flaw:
    """One mistake in a chat: where in the object, which rule, how to mend it."""

    path: str
    reason: str
    description: str


class Chat(NamedTuple):
    """A chat in normal form. `ignored` names the fields beside messages and tools, which nothing reads."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The last assistant message's text; empty where it only calls tools."""
        text: str = self.messages[-1].get("content", "")
        return text

    def to_json(self) -> bytes:
        """Return the chat as one line of JSONL."""
        value: dict[str, Any] = {"messages": self.messages}
        if self.tools:
            value["tools"] = self.tools
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


class _Flaws(list[Flaw]):
    """The flaws of one chat, as they are found."""

    def add(self, path: str, reason: str, description: str) -> None:
        self.append(Flaw(path, reason, description))


def read_chat(value: dict[str, Any]) -> Chat | list[Flaw]:
    """Return the chat that an object holds, or everything that is wrong with it."""
    if "messages" not in value:
        return [_messages_missing(value)]
    raw = value["messages"]
    if not isinstance(raw, list) or not raw:
        found = "an empty list" if raw == [] else _kind(raw)
        return [Flaw("messages", "MESSAGES_INVALID", f"It is {found}; write a list of messages with role and content.")]
    if "tools" not in value and "functions" not in value and (plain := _plain_messages(raw)):
        return Chat(plain, (), () if len(value) == 1 else tuple(sorted(value.keys() - {"messages"})))
    flaws = _Flaws()
    messages = [_message(message, f"messages[{i}]", flaws) for i, message in enumerate(raw)]
    tools = _tools(value.get("tools"), flaws)
    if "functions" in value:
        flaws.add("functions", "FUNCTIONS_UNSUPPORTED", "Functions are the old form; write them as tools.")
    flaws.extend(_order(messages))
    if flaws:
        return flaws
    ignored = tuple(sorted(value.keys() - {"messages", "tools"}))
    return Chat(tuple(messages), tuple(tools), ignored)


def _plain_messages(raw: list[Any]) -> tuple[dict[str, Any], ...]:
    """Return messages of role and text alone, where nothing is wrong with them; else none. Most are, and this is quick."""
    messages = []
    role: Any = ""
    for message in raw:
        if type(message) is not dict or len(message) != 2:
            return ()
        role, content = message.get("role"), message.get("content")
        if type(content) is not str or role not in _PLAIN_ROLES or (role == "assistant" and not content.strip()):
            return ()
        messages.append({"role": role, "content": content})
    return tuple(messages) if role == "assistant" else ()


def _messages_missing(value: dict[str, Any]) -> Flaw:
    shape = next((keys for keys in _OTHER_SHAPES if all(key in value for key in keys)), ())
    found = f"The object has {' and '.join(shape)} in place of messages" if shape else "The object has no messages"
    form = '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}'
    return Flaw("", "MESSAGES_MISSING", f"{found}; write {form}.")


def _message(raw: Any, path: str, flaws: _Flaws) -> dict[str, Any]:
    """Return a message in normal form; what is wrong with it goes into `flaws`, and the rest is read all the same."""
    if not isinstance(raw, dict):
        flaws.add(path, "MESSAGE_INVALID", f"It is {_kind(raw)}; write an object with role and content.")
        return {}
    message: dict[str, Any] = {}
    role = raw.get("role")
    if isinstance(role, str) and role in ROLES:
        message["role"] = role
    else:
        flaws.append(_role_flaw(role, f"{path}.role"))
    calls = _tool_calls(raw.get("tool_calls"), role, f"{path}.tool_calls", flaws)
    content = _content(raw.get("content"), f"{path}.content", flaws)
    if content is not None:
        message["content"] = content
    elif raw.get("content") is None and not calls:
        flaws.add(f"{path}.content", "CONTENT_MISSING", "The message has no content; write its text.")
    if role == "assistant" and not calls and isinstance(content, str) and not content.strip():
        flaws.append(
            Flaw(f"{path}.content", "ASSISTANT_EMPTY", "The assistant says nothing; write the answer or remove the chat.")
        )
    if raw.get("name") is not None:
        if not isinstance(raw["name"], str) or not raw["name"]:
            flaws.append(
                Flaw(f"{path}.name", "NAME_INVALID", "It must be text that is not empty; write the name or leave it out.")
            )
        message["name"] = raw["name"]
    if raw.get("weight") is not None and _weight(raw["weight"], role, f"{path}.weight", flaws) == 0:
        message["weight"] = 0
    if calls:
        message["tool_calls"] = calls
    _tool_call_id(raw.get("tool_call_id"), role, path, message, flaws)
    if "function_call" in raw:
        flaws.add(f"{path}.function_call", "FUNCTIONS_UNSUPPORTED", "This is the old form; write it as tool_calls.")
    unknown = (key for key in raw if key not in _MESSAGE_KEYS and key != "function_call" and raw[key] is not None)
    for key in unknown:
        flaws.append(
            Flaw(
                f"{path}.{_cut(key)}", "FIELD_UNKNOWN", "A message has no such field and nothing would learn from it; remove it."
            )
        )
    return message


def _role_flaw(role: Any, path: str) -> Flaw:
    if role is None:
        return Flaw(path, "ROLE_MISSING", f"The message has no role; write one of {', '.join(ROLES)}.")
    text = role.strip().lower() if isinstance(role, str) else ""
    meant = _OTHER_ROLES.get(text, text if text in ROLES else "")
    advice = f"write {meant}" if meant else f"use one of {', '.join(ROLES)}"
    return Flaw(path, "ROLE_UNKNOWN", f"{_shown(role)} is no role; {advice}.")


def _content(raw: Any, path: str, flaws: _Flaws) -> str | None:
    """Return the text of a message. Parts become lines, as model servers join them for templates that want one string."""
    if raw is None or isinstance(raw, str):
        return raw
    if not isinstance(raw, list) or not raw:
        found = "an empty list" if raw == [] else _kind(raw)
        flaws.append(
            Flaw(path, "CONTENT_INVALID", f'It is {found}; write text or a list of {{"type": "text", "text": …}} parts.')
        )
        return None
    texts = []
    for i, part in enumerate(raw):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "text" or not isinstance(kind, str):
            flaws.add(f"{path}[{i}]", "CONTENT_INVALID", 'The part is malformed; write {"type": "text", "text": …}.')
        else:
            flaws.append(
                Flaw(f"{path}[{i}]", "PART_UNSUPPORTED", f"Parts of type {_shown(kind)} can't be learned from; only text can.")
            )
    return "\n".join(texts) if len(texts) == len(raw) else None


def _weight(raw: Any, role: Any, path: str, flaws: _Flaws) -> int:
    if role != "assistant":
        flaws.append(
            Flaw(path, "WEIGHT_MISPLACED", "Only assistant messages have a weight, for only they are learned; remove it.")
        )
    if isinstance(raw, bool) or raw not in (0, 1):
        flaws.append(Flaw(path, "WEIGHT_INVALID", f"{_shown(raw)} is no weight; write 1 to learn the message or 0 not to."))
        return 1
    return int(raw)


def _tool_calls(raw: Any, role: Any, path: str, flaws: _Flaws) -> list[dict[str, Any]]:
    if raw is None:
        return []
    if role != "assistant":
        flaws.add(path, "TOOL_CALLS_MISPLACED", "Only assistant messages call tools; remove it or mend the role.")
    if not isinstance(raw, list) or not raw:
        flaws.append(
            Flaw(path, "TOOL_CALLS_INVALID", "It must be a list of calls, not an empty one; write them or leave it out.")
        )
        return []
    return [call for i, item in enumerate(raw) if (call := _tool_call(item, f"{path}[{i}]", flaws))]


def _tool_call(raw: Any, path: str, flaws: _Flaws) -> dict[str, Any]:
    function = raw.get("function") if isinstance(raw, dict) else None
    if not (
        isinstance(raw, dict)
        and isinstance(function, dict)
        and _is_text(raw.get("id"))
        and raw.get("type", "function") == "function"
        and _is_text(function.get("name"))
        and isinstance(function.get("arguments"), str)
    ):
        form = '{"id": …, "type": "function", "function": {"name": …, "arguments": "{…}"}}'
        flaws.add(path, "TOOL_CALLS_INVALID", f"The call is malformed; write {form}.")
        return {}
    if not _is_json_object(function["arguments"]):
        flaws.add(f"{path}.function.arguments", "TOOL_ARGUMENTS_INVALID", "The text must hold a JSON object; mend it.")
    named = {"name": function["name"], "arguments": function["arguments"]}
    return {"id": raw["id"], "type": "function", "function": named}


def _tool_call_id(raw: Any, role: Any, path: str, message: dict[str, Any], flaws: _Flaws) -> None:
    path = f"{path}.tool_call_id"
    if role == "tool" and not _is_text(raw):
        flaws.add(path, "TOOL_CALL_ID_MISSING", "A tool message answers a call; write the call's id.")
    elif role != "tool" and raw is not None:
        flaws.add(path, "TOOL_CALL_ID_MISPLACED", "Only tool messages answer a call; remove it or mend the role.")
    elif raw is not None:
        message["tool_call_id"] = raw


def _tools(raw: Any, flaws: _Flaws) -> list[dict[str, Any]]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        flaws.add("tools", "TOOLS_INVALID", f"It is {_kind(raw)}; write a list of tools.")
        return []
    for i, tool in enumerate(raw):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not _is_text(function.get("name")):
            form = '{"type": "function", "function": {"name": …, "parameters": {…}}}'
            flaws.add(f"tools[{i}]", "TOOLS_INVALID", f"The tool is malformed; write {form}.")
    return raw


def _order(messages: list[dict[str, Any]]) -> Iterator[Flaw]:
    """Find what no message shows by itself: what the chat ends with, what is learned, which calls are answered."""
    asked: set[str] = set()
    for i, message in enumerate(messages):
        asked.update(call["id"] for call in message.get("tool_calls", ()))
        answered = message.get("tool_call_id")
        if answered is not None and answered not in asked:
            advice = "write the id of a call that an assistant message before it makes"
            yield Flaw(f"messages[{i}].tool_call_id", "TOOL_CALL_UNKNOWN", f"Nobody called {_shown(answered)}; {advice}.")
    last = messages[-1].get("role")
    if last is not None and last != "assistant":
        advice = "end the chat with the answer that is to be learned"
        yield Flaw(f"messages[{len(messages) - 1}].role", "LAST_NOT_ASSISTANT", f"The last message is from {last}; {advice}.")
    answers = [message for message in messages if message.get("role") == "assistant"]
    if answers and all(message.get("weight") == 0 for message in answers):
        yield Flaw("messages", "NOTHING_TO_LEARN", "All assistant messages have weight 0; give one of them weight 1.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _shown(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False)) if isinstance(value, str | int | float) else _kind(value)


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
