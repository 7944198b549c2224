"""A model server that answers chats as vLLM 0.32 does beyond plain text: tool calls, log-probabilities, usage, length."""

import json
from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web

from tests.fakes_upstream import ScriptedUpstream

# vLLM's own words, where a server was started without a tool parser.
NO_TOOL_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
NO_PARSER_FOR = "tool_choice={} requires --tool-call-parser to be set"


class TalkingUpstream(ScriptedUpstream):
    """Echoes the last message word by word; `has_tool_parser` makes it call the tools that it is given instead, all of them.

    After a tool's result it answers in words. It counts a word as a token, and stops at `max_completion_tokens`.
    """

    def __init__(self, *served_names: str, has_tool_parser: bool = False) -> None:
        super().__init__(*served_names)
        self.has_tool_parser = has_tool_parser

    async def _whole(self, request: web.Request, body: dict[str, Any], words: list[str], scripted: Any) -> web.Response:
        if refused := self._refused(body):
            return refused
        if "messages" not in body:
            return await super()._whole(request, body, words, scripted)
        tokens, reason = _cut(words, body)
        calls = self._calls(body)
        message = {"role": "assistant", "content": None if calls else " ".join(tokens), "refusal": None, "reasoning": None}
        if calls:
            message["tool_calls"], reason = calls, "tool_calls"  # type: ignore[assignment]
        choice = {"index": 0, "message": message, "logprobs": _logprobs(tokens, body), "finish_reason": reason}
        answer = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
            "usage": _usage(len(tokens)), "system_fingerprint": None,
        }  # fmt: skip
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    async def _stream(self, request: web.Request, body: dict[str, Any], words: list[str], scripted: Any) -> web.StreamResponse:
        if refused := self._refused(body):
            return refused
        if scripted in ("cut", "fail") or "messages" not in body:
            return await super()._stream(request, body, words, scripted)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in self._chunks(body, words):
            await response.write(b"data: " + orjson.dumps({**_head(body), **chunk}) + b"\n\n")
            await self.gate.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    def _chunks(self, body: dict[str, Any], words: list[str]) -> Iterator[dict[str, Any]]:
        tokens, reason = _cut(words, body)
        calls = self._calls(body)
        yield _chunk({"role": "assistant", "content": ""})
        for number, token in enumerate([] if calls else tokens):
            said = token if number == len(tokens) - 1 else token + " "
            yield _chunk({"content": said}, logprobs=_logprobs([said], body))
        for call in calls:
            function, arguments = call["function"], call["function"]["arguments"]
            place = {"index": call["index"], "id": call["id"], "type": "function"}
            yield _chunk({"tool_calls": [{**place, "function": {"name": function["name"], "arguments": ""}}]})
            for piece in (arguments[:5], arguments[5:]):
                yield _chunk({"tool_calls": [{"index": call["index"], "function": {"arguments": piece}}]})
        yield _chunk({"content": ""}, finish_reason="tool_calls" if calls else reason)
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {"choices": [], "usage": _usage(len(tokens))}

    def _refused(self, body: dict[str, Any]) -> web.Response | None:
        choice = body.get("tool_choice", "auto")
        if not body.get("tools") or choice == "none" or self.has_tool_parser:
            return None
        named = f'function "{choice["function"]["name"]}"' if isinstance(choice, dict) else f'"{choice}"'
        told = NO_TOOL_PARSER if choice == "auto" else NO_PARSER_FOR.format(named)
        error = {"error": {"message": told, "type": "BadRequestError", "param": None, "code": 400}}
        return web.Response(status=400, body=orjson.dumps(error), content_type="application/json")

    def _calls(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        choice = body.get("tool_choice", "auto")
        if choice == "none" or body["messages"][-1]["role"] == "tool":
            return []
        names = (
            [choice["function"]["name"]] if isinstance(choice, dict) else [t["function"]["name"] for t in body.get("tools", ())]
        )
        arguments = json.dumps({"said": body["messages"][-1]["content"]})
        return [
            {
                "index": number,
                "id": f"chatcmpl-tool-{number}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for number, name in enumerate(names)
        ]


def _head(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}


def _chunk(delta: dict[str, Any], *, logprobs: Any = None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}]}


def _cut(words: list[str], body: dict[str, Any]) -> tuple[list[str], str]:
    limit = body.get("max_completion_tokens", len(words))
    return words[:limit], "length" if len(words) > limit else "stop"


def _usage(count: int) -> dict[str, Any]:
    return {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count, "prompt_tokens_details": None}


def _logprobs(tokens: list[str], body: dict[str, Any]) -> dict[str, Any] | None:
    if not body.get("logprobs"):
        return None
    top = [{"token": f"other-{n}", "logprob": -1.0 - n, "bytes": [111]} for n in range(body.get("top_logprobs") or 0)]
    return {"content": [{"token": t, "logprob": -0.25, "bytes": list(t.encode()), "top_logprobs": top} for t in tokens]}
