"""GenerationService's messages as the HTTP API writes them, and back: a translation, which decides nothing.

What a request may ask for is checked once, where the HTTP API checks it; here only what JSON can't say by itself (roles,
parts, schemas as text) is turned into it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from afina.v1 import generation_pb2 as pb
from google.protobuf import timestamp_pb2

from services.gateway.openai.errors import invalid
from services.gateway.openai.parameters import MAX_CHOICES

MAX_TOP_LOGPROBS = 20  # Source: OpenAI's API reference, `top_logprobs`

_ROLES = {number: name.removeprefix("ROLE_").lower() for name, number in pb.ChatMessage.Role.items() if number}
_MODES = {number: name.removeprefix("MODE_").lower() for name, number in pb.ToolChoice.Mode.items() if number}
_FINISH_REASONS = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
}


def body_of(request: pb.GenerateRequest, *, is_streamed: bool) -> dict[str, Any]:
    """Return the body of a chat request. Raises: InvalidInput, naming the field."""
    body: dict[str, Any] = {"model": request.model}
    body["messages"] = [_message(f"messages[{number}]", message) for number, message in enumerate(request.messages)]
    for field, value in request.sampling.ListFields():  # they are called as in the HTTP API
        body[field.name] = value if isinstance(value, int | float) else _plain(value)
    if not 0 <= request.choice_count <= MAX_CHOICES:
        raise invalid("choice_count", f"choice_count is {request.choice_count}; choose 1 to {MAX_CHOICES}.")
    if request.choice_count:
        body["n"] = request.choice_count
    if request.tools:
        body["tools"] = [_tool(f"tools[{number}]", tool) for number, tool in enumerate(request.tools)]
    if request.HasField("tool_choice"):
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.HasField("parallel_tool_calls"):
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if form := request.output_format.WhichOneof("format"):
        body["response_format"] = {"type": form} if form == "json_object" else _schema_format(request.output_format.json_schema)
    if request.HasField("top_logprobs"):
        if not 0 <= request.top_logprobs <= MAX_TOP_LOGPROBS:
            raise invalid("top_logprobs", f"top_logprobs is {request.top_logprobs}; choose 0 to {MAX_TOP_LOGPROBS}.")
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if is_streamed else body


def response(answer: Mapping[str, Any], digest: str) -> pb.GenerateResponse:
    """Return a whole answer."""
    return pb.GenerateResponse(
        **_head(answer, digest),
        choices=[
            pb.Choice(
                index=choice["index"],
                message=_answered(choice["message"]),
                finish_reason=_finish_reason(choice),
                logprobs=_logprobs(choice),
            )
            for choice in answer["choices"]
        ],
    )


def piece(chunk: Mapping[str, Any], digest: str) -> pb.StreamGenerateResponse:
    """Return the next piece of a streamed answer."""
    return pb.StreamGenerateResponse(**_head(chunk, digest), deltas=[_delta(choice) for choice in chunk["choices"]])


def _message(path: str, message: pb.ChatMessage) -> dict[str, Any]:
    if message.role not in _ROLES:
        raise invalid(f"{path}.role", f"{path} has no role that is known here; choose one of {', '.join(_ROLES.values())}.")
    parts = [_part(f"{path}.content[{number}]", part) for number, part in enumerate(message.content)]
    is_plain = len(parts) == 1 and parts[0]["type"] == "text"  # which every chat template can read
    told: dict[str, Any] = {"role": _ROLES[message.role], "content": parts[0]["text"] if is_plain else parts or ""}
    if message.tool_calls:
        told["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        told["content"] = told["content"] or None
    told |= {field: value for field in ("name", "tool_call_id") if (value := getattr(message, field))}
    return told


def _part(path: str, part: pb.ContentPart) -> dict[str, str]:
    kind = part.WhichOneof("part")
    if kind is None:
        raise invalid(path, f"{path} is empty; set its text.")
    return {"type": kind, kind: getattr(part, kind)}


def _tool_call(call: pb.ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool(path: str, tool: pb.Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.description:
        function["description"] = tool.function.description
    if tool.function.parameters:
        function["parameters"] = _schema(f"{path}.function.parameters", tool.function.parameters)
    if tool.function.HasField("strict"):
        function["strict"] = tool.function.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: pb.ToolChoice) -> Any:
    if choice.WhichOneof("choice") == "function":
        return {"type": "function", "function": {"name": choice.function}}
    if choice.mode not in _MODES:
        raise invalid("tool_choice", f"tool_choice says nothing; set a function, or a mode: {', '.join(_MODES.values())}.")
    return _MODES[choice.mode]


def _schema_format(form: pb.JsonSchema) -> dict[str, Any]:
    told: dict[str, Any] = {"name": form.name, "schema": _schema("output_format.json_schema.schema", form.schema)}
    if form.description:
        told["description"] = form.description
    if form.HasField("strict"):
        told["strict"] = form.strict
    return {"type": "json_schema", "json_schema": told}


def _schema(path: str, text: str) -> dict[str, Any]:
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(path, f"{path} is not JSON: {error}.", "JSON_INVALID") from error
    if not isinstance(schema, dict):
        raise invalid(path, f"{path} has to be a JSON object.", "JSON_INVALID")
    return schema


def _plain(value: Any) -> Any:
    """Return a repeated field as a list, a map as JSON knows it."""
    return {str(key): each for key, each in value.items()} if hasattr(value, "items") else list(value)


def _head(answer: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """Return what a whole answer and a piece have in common."""
    usage = answer.get("usage")
    return {
        "id": answer.get("id"),
        "model": answer["model"],
        "model_digest": digest,
        "create_time": timestamp_pb2.Timestamp(seconds=answer.get("created") or 0),
        "usage": _usage(usage) if usage else None,
    }


def _usage(usage: Mapping[str, Any]) -> pb.TokenUsage:
    return pb.TokenUsage(
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        cached_prompt_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
    )


def _answered(message: Mapping[str, Any]) -> pb.ChatMessage:
    parts = [pb.ContentPart(text=message["content"])] if message.get("content") is not None else []
    if message.get("refusal"):
        parts.append(pb.ContentPart(refusal=message["refusal"]))
    calls = [pb.ToolCall(id=call.get("id"), function=_called(call)) for call in message.get("tool_calls") or ()]
    return pb.ChatMessage(role=pb.ChatMessage.ROLE_ASSISTANT, content=parts, tool_calls=calls)


def _called(call: Mapping[str, Any]) -> pb.FunctionCall:
    return pb.FunctionCall(name=call["function"]["name"], arguments=call["function"]["arguments"])


def _delta(choice: Mapping[str, Any]) -> pb.ChoiceDelta:
    delta = choice["delta"]
    return pb.ChoiceDelta(
        index=choice["index"],
        text=delta.get("content"),
        refusal=delta.get("refusal"),
        tool_calls=[
            pb.ToolCallDelta(index=call["index"], id=call.get("id"), **(call.get("function") or {}))
            for call in delta.get("tool_calls") or ()
        ],
        finish_reason=_finish_reason(choice),
        logprobs=_logprobs(choice),
    )


def _finish_reason(choice: Mapping[str, Any]) -> pb.FinishReason:
    return _FINISH_REASONS.get(choice.get("finish_reason"), pb.FINISH_REASON_OTHER)


def _logprobs(choice: Mapping[str, Any]) -> Iterable[pb.TokenLogprob]:
    return [_logprob(token) for token in (choice.get("logprobs") or {}).get("content") or ()]


def _logprob(token: Mapping[str, Any]) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token=token["token"],
        token_bytes=bytes(token.get("bytes") or ()),
        logprob=token["logprob"],
        top=[_logprob(other) for other in token.get("top_logprobs") or ()],
    )
