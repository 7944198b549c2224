"""A gateway over real HTTP that answers as told, and the tokenizer of a base that knows some fifty words."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_TEXT = """
<|im_start|> <|im_end|> <unk> system user assistant classify this review one word positive neutral negative very good bad fine
awful lovely broken okay great poor usual a b c d e f g h ? . item 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19
"""
WORDS = _TEXT.split()
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def save_tokenizer(folder: Path, chat_template: str | None = TEMPLATE) -> Path:
    """Write the tokenizer of a tiny base, as a base's folder holds it; None leaves it without a template."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", unk_token="<unk>")
    whole.chat_template = chat_template
    whole.save_pretrained(folder)
    return folder


def words_of(ids: list[int]) -> str:
    """Return what token ids of the tiny base spell."""
    return " ".join(WORDS[number] for number in ids)


Say = Callable[[str, list[dict[str, Any]]], str]  # model, messages -> answer
Weigh = Callable[[str, list[int], int], float]  # model, prompt ids, candidate -> log-probability


@dataclass
class ScriptedGateway:
    """Answers chats with `say` and label scoring with `weigh`, in the name of `digests`; `failures` come first."""

    say: Say = lambda model, messages: "positive"
    weigh: Weigh = lambda model, prompt, token: -float(token)
    digests: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)  # candidates for which no log-probability is told
    away: set[str] = field(default_factory=set)  # models that nobody serves
    finish_reason: str = "stop"
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # requests wait here when it is cleared
    in_flight: int = 0
    most_in_flight: int = 0
    url: str = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["ScriptedGateway"]:
        """Serve on a free loopback port."""
        self.gate.set()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.Response:
        body, failure = await self._take(request)
        if failure:
            return failure
        message = {"role": "assistant", "content": self.say(body["model"], body["messages"])}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return self._answer(body, {"object": "chat.completion", "choices": [choice]})

    async def _complete(self, request: web.Request) -> web.Response:
        body, failure = await self._take(request)
        if failure:
            return failure
        asked = body.get("logprob_token_ids", [])
        top = {
            f"token_id:{token}": self.weigh(body["model"], body["prompt"], token) for token in asked if token not in self.left_out
        }
        logprobs = {"tokens": ["x"], "token_logprobs": [-1.0], "text_offset": [0], "top_logprobs": [top]}
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": logprobs}
        return self._answer(body, {"object": "text_completion", "choices": [choice]})

    async def _take(self, request: web.Request) -> tuple[dict[str, Any], web.Response | None]:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            body = json.loads(await request.read())
            await self.gate.wait()
        finally:
            self.in_flight -= 1
        self.requests.append((request.path, body, request.headers.get("authorization", "")))
        if body["model"] in self.away:
            status, headers = 503, {"retry-after": "1"}
        elif self.failures:
            status, headers = self.failures.pop(0)
        else:
            return body, None
        if status == 0:
            assert request.transport is not None
            request.transport.close()
        error = {"error": {"message": f"scripted {status}", "type": "x", "code": "x", "param": None}}
        return body, web.json_response(error, status=status or 500, headers=headers)

    def _answer(self, body: dict[str, Any], document: dict[str, Any]) -> web.Response:
        whole = {"id": "x", "created": 0, "model": body["model"], **document}
        return web.json_response(whole, headers={"afina-model-digest": self.digests.get(body["model"], "")})
