"""The `input` of /v1/responses – a text, or items – as the messages of a chat.

A model's turn is one message in a chat, but several items here: what it said, and each function that it called. So a
call joins the assistant's message before it. `developer` is what newer models call `system`; templates know the latter.
"""

from collections.abc import Mapping
from typing import Any

from services.gateway.openai.errors import invalid, unknown_parameter

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_FIELDS = {
    "message": {"type", "role", "content", "id", "status"},
    "function_call": {"type", "call_id", "name", "arguments", "id", "status"},
    "function_call_output": {"type", "call_id", "output", "id", "status"},
}
_HINTS = {
    "item_reference": "Responses are not stored; send the item itself.",
    "reasoning": "Models here are not asked to reason apart; leave these items out.",
}


def messages_of(given: Any, instructions: Any) -> list[dict[str, Any]]:
    """Return the messages of an input. Raises: InvalidInput, naming the item."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        if not isinstance(instructions, str):
            told = f"Invalid type for 'instructions': expected text, but got {instructions!r:.50}."
            raise invalid("instructions", told, "INVALID_TYPE")
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise invalid("input", "Missing required parameter: 'input', a text or a list of at least one item.", "MISSING_PARAMETER")
    for number, item in enumerate(given):
        _add(messages, f"input[{number}]", item)
    return messages


def _add(messages: list[dict[str, Any]], path: str, item: Any) -> None:
    if not isinstance(item, dict):
        raise invalid(path, f"Invalid type for '{path}': expected an object, but got {item!r:.50}.", "INVALID_TYPE")
    kind = item.get("type") or ("message" if "role" in item else None)
    if not isinstance(kind, str) or kind not in _FIELDS:
        hint = _HINTS.get(kind, "") if isinstance(kind, str) else ""
        told = hint or "Send items of type message, function_call or function_call_output."
        raise invalid(f"{path}.type", f"Unsupported '{path}.type': {kind!r:.40}. {told}", "UNSUPPORTED_PARAMETER")
    for name, value in item.items():
        if name not in _FIELDS[kind] and value is not None:
            raise unknown_parameter(f"{path}.{name}")
    if kind == "message":
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise invalid(f"{path}.role", f"Invalid '{path}.role': {role!r:.40}; send user, assistant, system or developer.")
        messages.append({"role": _ROLES[role], "content": _content(f"{path}.content", item.get("content"))})
    elif kind == "function_call":
        _add_call(messages, path, item)
    else:
        content = _content(f"{path}.output", item.get("output"))
        messages.append({"role": "tool", "tool_call_id": _text(path, item, "call_id"), "content": content})


def _add_call(messages: list[dict[str, Any]], path: str, item: Mapping[str, Any]) -> None:
    function = {"name": _text(path, item, "name"), "arguments": _text(path, item, "arguments")}
    call = {"id": _text(path, item, "call_id"), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _content(path: str, content: Any) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise invalid(path, f"Missing required parameter: '{path}', a text or a list of parts.", "MISSING_PARAMETER")
    texts = [_part(f"{path}[{number}]", part) for number, part in enumerate(content)]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _part(path: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    field = {"input_text": "text", "output_text": "text", "refusal": "refusal"}.get(kind) if isinstance(kind, str) else None
    if field is None:
        told = "Models here read text: send parts of type 'input_text' or 'output_text'."
        raise invalid(f"{path}.type", f"Unsupported '{path}.type': {kind!r:.40}. {told}", "UNSUPPORTED_PARAMETER")
    return _text(path, part, field)


def _text(path: str, item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise invalid(f"{path}.{name}", f"Missing required parameter: '{path}.{name}', a text.", "MISSING_PARAMETER")
    return value
