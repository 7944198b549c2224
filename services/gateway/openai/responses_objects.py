"""Answers of a chat as /v1/responses writes them: whole, and event by event."""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from services.gateway.openai.responses_parameters import AskedResponse

# Why a chat ended, where it was not by itself.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_of(asked: AskedResponse, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat's whole answer as a response."""
    choice = answer["choices"][0]
    message, logprobs = choice["message"], (choice.get("logprobs") or {}).get("content")
    status = _status(choice.get("finish_reason"))
    calls = [_call(_id("fc"), call, status) for call in message.get("tool_calls") or ()]
    output = [_message(_id("msg"), [_text(message.get("content") or "", logprobs)], status)] if _says(message, calls) else []
    return _ended(begun(asked, answer["model"]), [*output, *calls], choice.get("finish_reason"), answer.get("usage"))


def begun(asked: AskedResponse, model: str) -> dict[str, Any]:
    """Return a response that nothing has come of yet."""
    return {
        "id": _id("resp"), "object": "response", "created_at": int(time.time()), "status": "in_progress", "model": model,
        "output": [], "error": None, "incomplete_details": None, "usage": None, **asked.echoed,
    }  # fmt: skip


class Events:
    """Turns the chunks of a chat into the events of a response; `open` is the item that grows."""

    def __init__(self, asked: AskedResponse) -> None:
        self._asked, self._number = asked, -1
        self._response: dict[str, Any] = {}
        self._open: dict[str, Any] | None = None
        self._call_index: int | None = None
        self._finish_reason: str | None = None
        self._usage: Any = None
        self._has_failed = False

    def of_chunk(self, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of one chunk."""
        yield from self._begin(chunk["model"])
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            is_in_text = self._open is not None and self._open["type"] == "message"
            if delta.get("content") or (logprobs and is_in_text):  # half of a character has tokens, and no text yet
                yield from self._text_delta(delta.get("content") or "", logprobs)
            for call in delta.get("tool_calls") or ():
                yield from self._call_delta(call)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def of_end(self) -> Iterator[dict[str, Any]]:
        """Yield the events of a chat's end."""
        if self._has_failed:
            return
        status = _status(self._finish_reason)
        if not self._response.get("output") and self._open is None:
            yield from self._text_delta("", [])  # a model may say nothing, and that is an answer
        yield from self._close(status)
        ended = _ended(self._response, self._response["output"], self._finish_reason, self._usage)
        yield self._event(f"response.{status}", response=ended)

    def of_failure(self, error: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of a chat that broke; they are the last."""
        self._has_failed = True
        yield from self._begin(str(self._asked.chat.get("model")))
        yield from self._close("incomplete")
        code = "rate_limit_exceeded" if error.get("code") == "rate_limit_exceeded" else "server_error"
        told = {"code": code, "message": error.get("message") or "The model server failed."}
        yield self._event("response.failed", response={**self._response, "status": "failed", "error": told})

    def _begin(self, model: str) -> Iterator[dict[str, Any]]:
        if self._response:
            return
        self._response = begun(self._asked, model)
        yield self._event("response.created", response={**self._response, "output": []})
        yield self._event("response.in_progress", response={**self._response, "output": []})

    def _text_delta(self, text: str, logprobs: list[Any]) -> Iterator[dict[str, Any]]:
        if self._open is None or self._open["type"] != "message":
            yield from self._close("completed")
            yield self._added(_message(_id("msg"), [], "in_progress"))
            self._item["content"].append(_text("", [] if "logprobs" in self._asked.chat else None))
            yield self._event("response.content_part.added", **self._part, part={**self._item["content"][0]})
        part = self._item["content"][0]
        part["text"] += text
        part["logprobs"] += (found := _logprobs(logprobs))
        if text:
            yield self._event("response.output_text.delta", **self._part, delta=text, logprobs=found)

    def _call_delta(self, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open is None or self._open["type"] != "function_call" or self._call_index != call.get("index"):
            yield from self._close("completed")
            self._call_index = call.get("index")
            named = {**call, "function": {**call["function"], "arguments": ""}}
            yield self._added(_call(_id("fc"), named, "in_progress"))
        if arguments := call["function"].get("arguments"):
            self._item["arguments"] += arguments
            yield self._event("response.function_call_arguments.delta", **self._place, delta=arguments)

    def _added(self, item: dict[str, Any]) -> dict[str, Any]:
        self._open = item
        self._response["output"].append(item)
        return self._event("response.output_item.added", output_index=len(self._response["output"]) - 1, item={**item})

    def _close(self, status: str) -> Iterator[dict[str, Any]]:
        """Yield the events that end the item that grows."""
        if self._open is None:
            return
        self._item["status"] = status
        if self._item["type"] == "message":
            part = self._item["content"][0]
            yield self._event("response.output_text.done", **self._part, text=part["text"], logprobs=part["logprobs"])
            yield self._event("response.content_part.done", **self._part, part=part)
        else:
            name, arguments = self._item["name"], self._item["arguments"]
            yield self._event("response.function_call_arguments.done", **self._place, name=name, arguments=arguments)
        yield self._event("response.output_item.done", output_index=self._place["output_index"], item=self._item)
        self._open = None

    @property
    def _item(self) -> dict[str, Any]:
        assert self._open is not None
        return self._open

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": len(self._response["output"]) - 1}

    @property
    def _part(self) -> dict[str, Any]:
        return {**self._place, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def _ended(response: Mapping[str, Any], output: list[Any], finish_reason: str | None, usage: Any) -> dict[str, Any]:
    reason = _INCOMPLETE.get(finish_reason or "")
    return {
        **response,
        "status": _status(finish_reason),
        "completed_at": None if reason else int(time.time()),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "usage": _usage(usage) if usage else None,
    }


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["total_tokens"],
    }


def _says(message: Mapping[str, Any], calls: list[Any]) -> bool:
    return bool(message.get("content")) or not calls


def _status(finish_reason: str | None) -> str:
    return "incomplete" if finish_reason in _INCOMPLETE else "completed"


def _message(item_id: str, content: list[Any], status: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _text(text: str, logprobs: list[Any] | None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(logprobs or [])}


def _call(item_id: str, call: Mapping[str, Any], status: str) -> dict[str, Any]:
    function = call["function"]
    return {
        "id": item_id, "type": "function_call", "call_id": call.get("id") or _id("call"), "name": function["name"],
        "arguments": function.get("arguments") or "", "status": status,
    }  # fmt: skip


def _logprobs(tokens: list[Any]) -> list[dict[str, Any]]:
    return [{**_token(told), "top_logprobs": [_token(other) for other in told.get("top_logprobs") or ()]} for told in tokens]


def _token(told: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": told["token"], "logprob": told["logprob"], "bytes": told.get("bytes") or []}


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
