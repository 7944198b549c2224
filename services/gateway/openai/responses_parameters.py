"""What a request to /v1/responses may say, and the chat that it asks for.

Everything is answered by /v1/chat/completions, so this is a translation. What has no counterpart there – stored
responses, tools that the provider runs, work in the background – is refused by its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.openai.errors import invalid, unknown_parameter
from services.gateway.openai.responses_input import messages_of

LOGPROBS = "message.output_text.logprobs"
MAX_TOP_LOGPROBS = 20  # Source: OpenAI's API reference, `top_logprobs`
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512  # Source: OpenAI's API reference, `metadata`

# By their own name, or by another one, to chat/completions, which judges their values.
_PASSED_ON = {
    "model": "model", "temperature": "temperature", "top_p": "top_p", "stream": "stream", "user": "user",
    "parallel_tool_calls": "parallel_tool_calls", "max_output_tokens": "max_completion_tokens",
}  # fmt: skip
_TRANSLATED = frozenset((
    "input", "instructions", "tools", "tool_choice", "text", "include", "top_logprobs", "reasoning", "metadata", "stream_options",
))  # fmt: skip
# Notes for the provider's own accounting: they change no answer.
_NOTES = frozenset(("safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"))
# Values that ask for what happens anyway.
_EMPTY: Mapping[str, Callable[[Any], bool]] = {
    "store": lambda value: value is False,
    "background": lambda value: value is False,
    "service_tier": lambda value: value in ("auto", "default"),
    "truncation": lambda value: value == "disabled",
}
_HINTS = {
    "store": "Responses are not stored; send store=false and what came before as 'input'.",
    "previous_response_id": "Responses are not stored; send what came before as 'input'.",
    "conversation": "Conversations are not stored; send what came before as 'input'.",
    "background": "Answers are given while you wait; leave it out, or send stream=true.",
    "background_options": "Answers are given while you wait.",
    "service_tier": "There is one tier.",
    "truncation": "A conversation that is too long is refused; shorten it.",
    "context_management": "A conversation that is too long is refused; shorten it.",
    "prompt": "There are no stored prompts; send 'instructions' and 'input'.",
    "max_tool_calls": "There are no built-in tools to count; functions are called by you.",
    "moderation": "There is no moderation here.",
    "image": "Models here read text.",
    "access_programs": "There are none.",
}
# What /v1/chat/completions calls a parameter, and what it is called here.
PARAMS = {"max_completion_tokens": "max_output_tokens", "messages": "input", "response_format": "text.format"}
_TOOL_FIELDS = ("name", "description", "parameters", "strict")
_FORMAT_FIELDS = ("name", "description", "schema", "strict")


@dataclass(frozen=True)
class AskedResponse:
    """The chat that a request asks for, and what the answer repeats of the request."""

    chat: dict[str, Any]
    echoed: dict[str, Any]

    @property
    def is_streamed(self) -> bool:
        """Whether the answer comes as events."""
        return self.chat.get("stream") is True


def asked_response(body: Mapping[str, Any]) -> AskedResponse:
    """Read a request. Raises: InvalidInput, naming the parameter."""
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in body.items():
        if name in _PASSED_ON or name in _TRANSLATED or name in _NOTES:
            continue
        if name not in _HINTS or (name in given and not (name in _EMPTY and _EMPTY[name](value))):
            raise unknown_parameter(name, _HINTS.get(name, ""))
    chat = {name: given[ours] for ours, name in _PASSED_ON.items() if ours in given}
    chat["messages"] = messages_of(given.get("input"), given.get("instructions"))
    chat |= _tools(given) | _format(given) | _logprobs(given) | _reasoning(given)
    if chat.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    _check_stream_options(given)
    _check_metadata(given)
    return AskedResponse(chat, _echoed(given))


def _echoed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer repeats, with what is meant where nothing was said."""
    text = given.get("text", {})
    return {
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "metadata": given.get("metadata", {}),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "reasoning": given.get("reasoning"),
        "safety_identifier": given.get("safety_identifier"),
        "temperature": given.get("temperature"),
        "text": {"format": text.get("format") or {"type": "text"}},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": [{"parameters": None, "strict": None, **tool} for tool in given.get("tools", ())],
        "top_logprobs": given.get("top_logprobs", 0),
        "top_p": given.get("top_p"),
        "user": given.get("user"),
        "background": False,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "truncation": "disabled",
    }


def _tools(given: Mapping[str, Any]) -> dict[str, Any]:
    tools, choice = given.get("tools", []), given.get("tool_choice", "auto")
    if not isinstance(tools, list):
        raise invalid("tools", f"Invalid type for 'tools': expected a list, but got {tools!r:.50}.", "INVALID_TYPE")
    functions = [_function(f"tools[{number}]", tool) for number, tool in enumerate(tools)]
    if isinstance(choice, dict):
        if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
            told = "Functions are the only tools here: name one, or send only those that may be called."
            raise invalid(
                "tool_choice", f"Unsupported 'tool_choice': {choice.get('type')!r:.40}. {told}", "UNSUPPORTED_PARAMETER"
            )
        choice = {"type": "function", "function": {"name": choice["name"]}}
    elif choice not in ("auto", "none", "required"):
        raise invalid("tool_choice", f"Invalid 'tool_choice': {choice!r:.50}; send auto, none, required, or a function.")
    if functions:
        return {"tools": functions, "tool_choice": choice}
    if choice not in ("auto", "none"):
        raise invalid("tool_choice", "'tool_choice' asks for a tool, but 'tools' has none.")
    return {}


def _function(path: str, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise invalid(path, f"Invalid type for '{path}': expected an object, but got {tool!r:.50}.", "INVALID_TYPE")
    if tool.get("type") != "function":
        told = "Nothing is run for you here: send functions, and call them yourself."
        raise invalid(f"{path}.type", f"Unsupported tool: {tool.get('type')!r:.40}. {told}", "UNSUPPORTED_PARAMETER")
    for name, value in tool.items():
        if name not in ("type", *_TOOL_FIELDS) and value not in (None, False):
            raise unknown_parameter(f"{path}.{name}", "A function has a name, a description, parameters and strict.")
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise invalid(f"{path}.name", f"Missing required parameter: '{path}.name'.", "MISSING_PARAMETER")
    return {"type": "function", "function": {name: tool[name] for name in _TOOL_FIELDS if tool.get(name) is not None}}


def _format(given: Mapping[str, Any]) -> dict[str, Any]:
    text = _object("text", given.get("text", {}), ("format", "verbosity"))
    if text.get("verbosity", "medium") != "medium":
        raise unknown_parameter("text.verbosity", "Say in the prompt how long the answer shall be.")
    if "format" not in text:
        return {}
    wanted = _object("text.format", text["format"], ("type", *_FORMAT_FIELDS))
    kind = wanted.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind != "json_schema":
        raise invalid("text.format.type", f"Invalid 'text.format.type': {kind!r:.40}; send text, json_object or json_schema.")
    if not isinstance(wanted.get("name"), str) or not isinstance(wanted.get("schema"), dict):
        raise invalid("text.format", "A json_schema format needs 'name', a text, and 'schema', an object.", "MISSING_PARAMETER")
    return {"response_format": {"type": kind, kind: {name: wanted[name] for name in _FORMAT_FIELDS if name in wanted}}}


def _logprobs(given: Mapping[str, Any]) -> dict[str, Any]:
    include, top = given.get("include", []), given.get("top_logprobs", 0)
    if not isinstance(include, list):
        raise invalid("include", f"Invalid type for 'include': expected a list, but got {include!r:.50}.", "INVALID_TYPE")
    for value in include:
        if value != LOGPROBS:
            told = (
                f"Unsupported 'include': {value!r:.60}. Answers here hold text and function calls; send {LOGPROBS!r} or nothing."
            )
            raise invalid("include", told, "UNSUPPORTED_PARAMETER")
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= MAX_TOP_LOGPROBS:
        raise invalid("top_logprobs", f"Invalid 'top_logprobs': {top!r:.50}; send a whole number from 0 to {MAX_TOP_LOGPROBS}.")
    return {"logprobs": True, "top_logprobs": top} if include or top else {}


def _reasoning(given: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = _object("reasoning", given.get("reasoning", {}), ("effort",))
    return {"reasoning_effort": reasoning["effort"]} if "effort" in reasoning else {}


def _check_stream_options(given: Mapping[str, Any]) -> None:
    options = _object("stream_options", given.get("stream_options", {}), ("include_obfuscation",))
    if options.get("include_obfuscation", False) is not False:
        raise unknown_parameter("stream_options.include_obfuscation", "Events are not padded; send false, or leave it out.")


def _check_metadata(given: Mapping[str, Any]) -> None:
    metadata = given.get("metadata", {})
    if (
        not isinstance(metadata, dict)
        or len(metadata) > MAX_PAIRS
        or not all(len(k) <= MAX_KEY and isinstance(v, str) and len(v) <= MAX_VALUE for k, v in metadata.items())
    ):
        told = f"send an object of at most {MAX_PAIRS} texts of {MAX_VALUE} characters, under keys of {MAX_KEY}."
        raise invalid("metadata", f"Invalid 'metadata': {told}", "INVALID_TYPE")


def _object(path: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Return an object's fields that are not null. Raises: InvalidInput."""
    if not isinstance(value, dict):
        raise invalid(path, f"Invalid type for '{path}': expected an object, but got {value!r:.50}.", "INVALID_TYPE")
    fields = {name: field for name, field in value.items() if field is not None}
    for name in fields:
        if name not in known:
            raise unknown_parameter(f"{path}.{name}")
    return fields
