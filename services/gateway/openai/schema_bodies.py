"""JSON Schemas of what clients send."""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 255}
_FLAG: Schema = {"type": "boolean"}
_METADATA: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 512}, "maxProperties": 16}
_ANY_OBJECT: Schema = {"type": "object"}


def _object(required: dict[str, Schema], optional: dict[str, Schema]) -> Schema:
    properties = {**required, **{name: _nullable(schema) for name, schema in optional.items()}}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _number(least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


def _list(items: Schema, least: int = 1) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def _auto(schema: Schema) -> Schema:
    return {"anyOf": [{"const": "auto"}, schema]}


_SAMPLING: dict[str, Schema] = {
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "temperature": _number(0, 2),
    "top_p": _number(0.01, 1),
    "max_tokens": _whole(1, 1 << 20),
    "n": _whole(1, 128),
    "seed": _whole(0, 2**31 - 1),
    "stop": {"anyOf": [_TEXT, _list(_TEXT)]},
    "stream": _FLAG,
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}, "additionalProperties": False},
    "user": _TEXT,
    "response_format": _ANY_OBJECT,
}
_MESSAGE = _object(
    {"role": {"enum": ["system", "developer", "user", "assistant"]}, "content": {"anyOf": [_TEXT, _list(
        _object({"type": {"const": "text"}, "text": _TEXT}, {}))]}},
    {"name": _TEXT},
)  # fmt: skip
_HYPERPARAMETERS = _object(
    {},
    {
        "n_epochs": _auto(_whole(1, 50)),
        "batch_size": _auto(_whole(1, 256)),
        "learning_rate_multiplier": _auto(_number(1e-4, 100)),
    },
)
_SUPERVISED = _object({}, {"hyperparameters": _HYPERPARAMETERS})
_ITEM: Schema = {
    "anyOf": [
        _object(
            {"role": {"enum": ["user", "assistant", "system", "developer"]}, "content": _TEXT}, {"type": {"const": "message"}}
        ),
        _object({"type": {"const": "function_call"}, "call_id": _TEXT, "name": _TEXT, "arguments": _TEXT}, {"id": _TEXT}),
        _object({"type": {"const": "function_call_output"}, "call_id": _TEXT, "output": _TEXT}, {"id": _TEXT}),
    ]
}
_FUNCTION = _object(
    {"type": {"const": "function"}, "name": _NAME}, {"description": _TEXT, "parameters": _ANY_OBJECT, "strict": _FLAG}
)

JSON_BODIES: dict[str, Schema] = {
    "/v1/chat/completions": _object(
        {"model": _NAME, "messages": _list(_MESSAGE)},
        {
            **_SAMPLING,
            "logprobs": _FLAG,
            "top_logprobs": _whole(0, 20),
            "max_completion_tokens": _whole(1, 1 << 20),
            "tools": _list(_object({"type": {"const": "function"}, "function": _ANY_OBJECT}, {})),
            "tool_choice": {"anyOf": [{"enum": ["auto", "none", "required"]}, _ANY_OBJECT]},
            "parallel_tool_calls": _FLAG,
            "metadata": _METADATA,
            "store": {"const": False},
        },
    ),
    "/v1/completions": _object(
        {"model": _NAME, "prompt": {"anyOf": [_TEXT, _list(_TEXT), _list(_whole(0, 1 << 20))]}},
        {**_SAMPLING, "echo": _FLAG, "logprobs": _whole(0, 20)},
    ),
    "/v1/responses": _object(
        {"model": _NAME, "input": {"anyOf": [_TEXT, _list(_ITEM)]}},
        {
            "instructions": _TEXT,
            "max_output_tokens": _whole(1, 1 << 20),
            "temperature": _number(0, 2),
            "top_p": _number(0.01, 1),
            "top_logprobs": _whole(0, 20),
            "include": _list({"const": "message.output_text.logprobs"}, 0),
            "tools": _list(_FUNCTION, 0),
            "tool_choice": {"enum": ["auto", "none"]},
            "parallel_tool_calls": _FLAG,
            "text": _object({}, {"format": _object({"type": {"enum": ["text", "json_object"]}}, {})}),
            "reasoning": _object({}, {"effort": {"enum": ["low", "medium", "high"]}}),
            "metadata": _METADATA,
            "stream": _FLAG,
            "store": {"const": False},
            "background": {"const": False},
            "user": _TEXT,
        },
    ),
    "/v1/uploads": _object(
        {"bytes": _whole(1, 8 << 30), "filename": _NAME, "mime_type": _TEXT, "purpose": {"const": "fine-tune"}}, {}
    ),
    "/v1/uploads/{upload_id}/complete": _object(
        {"part_ids": _list(_TEXT)}, {"md5": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
    ),
    "/v1/fine_tuning/jobs": _object(
        {"model": _NAME, "training_file": _NAME},
        {
            "validation_file": _NAME,
            "hyperparameters": _HYPERPARAMETERS,
            "method": _object({"type": {"const": "supervised"}}, {"supervised": _SUPERVISED}),
            "suffix": {"type": "string", "pattern": "^[A-Za-z0-9-]{0,64}$"},
            "seed": _whole(0, 2**31 - 1),
            "metadata": _METADATA,
            "integrations": {"type": "array", "maxItems": 0},
            "evaluation": {"enum": ["auto", "none"]},
        },
    ),
}  # fmt: skip
_BINARY: Schema = {"type": "string", "format": "binary"}
FORMS: dict[str, Schema] = {
    "/v1/files": _object({"file": _BINARY, "purpose": {"const": "fine-tune"}}, {}),
    "/v1/uploads/{upload_id}/parts": _object({"data": _BINARY}, {}),
}
