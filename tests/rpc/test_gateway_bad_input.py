"""What nobody should send, over real HTTP: each is refused by a sentence that names the fix, in OpenAI's shape."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from services.gateway.openai.errors import MAX_DEPTH
from services.gateway.use_cases import create_key
from tests.rpc.jobs_world import ROWS, World, jobs_world

JOBS, CHATS, RESPONSES, UPLOADS = "/v1/fine_tuning/jobs", "/v1/chat/completions", "/v1/responses", "/v1/uploads"
BODIES = (JOBS, CHATS, RESPONSES, UPLOADS, "/v1/uploads/upload-1/complete", "/v1/completions")
STRICT = (JOBS, RESPONSES, UPLOADS, "/v1/uploads/upload-1/complete")
FORMS = ("/v1/files", "/v1/uploads/upload-1/parts")
DEEP = b'{"model": "tiny", "tools": ' + b"[" * 300 + b"]" * 300 + b"}"

NO_OBJECTS = [
    (b"", "Send a JSON object"),
    (b"{", "Send a JSON object"),
    (b'{"model": NaN}', "Send a JSON object"),
    (b'{"model": Infinity}', "Send a JSON object"),
    ('{"model": "tiny"}'.encode("utf-16"), "not valid UTF-8"),
    (b'\xef\xbb\xbf{"model": "tiny"}', "byte order mark"),
    (b'{"model": "\\ud800"}', "Send a JSON object"),
    (b"[" * 5000, "Send a JSON object"),
    (DEEP, f"more than {MAX_DEPTH} levels"),
    (b"[]", "must be a JSON object"),
    (b'"text"', "must be a JSON object"),
    (b'{"a": ' + b"9" * 5000 + b"}", ""),
]
ODD_IDS = ("%2e%2e", "%2e%2e%2fx", "a%00b", "%0a", "x" * 200, "%E2%80%AE", "a%20b", "%5c", "%25", "%ff")
WRONG_SECRETS = ("", "afina-none", "afina-" + "x" * 43, "sk-" + "x" * 5000, "ümlaut")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with jobs_world(tmp_path) as running:
        await running.serve_base("tiny")
        yield running


async def _send(world: World, method: str, path: str, status: int, **fields: Any) -> Any:
    """Send a request that is to be refused, and return its error."""
    headers = {"Authorization": f"Bearer {world.gateway.secret}", **fields.pop("headers", {})}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, URL(world.gateway.url + path, encoded=True), **fields) as response,
    ):
        body = await response.json()
        assert response.status == status, body
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["type"] == "invalid_request_error"
        return body["error"]


async def test_a_body_that_is_no_json_object_is_refused_on_every_path(world: World) -> None:
    for body, words in NO_OBJECTS:
        for path in BODIES:
            assert words in (await _send(world, "POST", path, 400, data=body))["message"], (path, body[:40])


async def test_a_key_that_stands_twice_is_refused_where_it_would_decide_something(world: World) -> None:
    for path in STRICT:
        error = await _send(world, "POST", path, 400, data=b'{"model": "tiny", "metadata": {"k": "a", "k": "b"}}')
        assert error["param"] == "k"
        assert "stands twice" in error["message"]


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(world: World) -> None:
    large = b'{"input": "' + b"x" * (11 << 20) + b'"}'
    for path in BODIES:
        assert "send less" in (await _send(world, "POST", path, 413, data=large))["message"]
    for path, limit in ((FORMS[0], 3 << 20), (FORMS[1], 65 << 20)):
        form = aiohttp.FormData({"purpose": "fine-tune"})
        form.add_field("file", b"x" * limit, filename="x.jsonl")
        assert "bytes" in (await _send(world, "POST", path, 413, data=form))["message"]


async def test_a_form_that_is_none_is_refused(world: World) -> None:
    broken = [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--y\r\n\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b'--x\r\nContent-Disposition: form-data; name="file"\r\n'),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b""),
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"purpose=fine-tune&file=x"),
    ]
    for path in FORMS:
        for headers, body in broken:
            assert (await _send(world, "POST", path, 400, headers=headers, data=body))["message"]


async def test_a_form_says_which_field_is_wrong(world: World) -> None:
    def form(*fields: tuple[str, Any, str | None]) -> aiohttp.FormData:
        made = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
        for name, value, filename in fields:
            made.add_field(name, value, filename=filename) if filename else made.add_field(name, value)
        return made

    file, purpose = ("file", ROWS, "rows.jsonl"), ("purpose", "fine-tune", None)
    matrix = [
        (form(purpose), "file", "sent as a file"),
        (form(purpose, ("file", "text without a name", None)), "file", "sent as a file"),
        (form(file), "purpose", "send fine-tune"),
        (form(file, ("purpose", "assistants", None)), "purpose", "send 'fine-tune'"),
        (form(file, purpose, ("sharing", "x", None)), "sharing", "Unknown parameter"),
        (form(("file", b"", "rows.jsonl"), purpose), "file", "is empty"),
        (form(("file", ROWS, "..%2Frows"), purpose, ("x", "y", None)), "x", "Unknown parameter"),
        (form(("file", ROWS, "a\\b.jsonl"), purpose), "file", "path"),
        (form(("file", ROWS, "x" * 300), purpose), "file", "255"),
    ]
    for sent, param, words in matrix:
        error = await _send(world, "POST", FORMS[0], 400, data=sent)
        assert (error["param"], words in error["message"]) == (param, True), error
    two = form(file, file, purpose)
    assert "files" in (await _send(world, "POST", FORMS[0], 400, data=two))["message"].lower()


async def test_path_characters_in_ids_lead_nowhere(world: World) -> None:
    for odd in ODD_IDS:
        for method, path in (
            ("GET", f"/v1/files/{odd}"), ("GET", f"/v1/files/{odd}/content"), ("DELETE", f"/v1/files/{odd}"),
            ("GET", f"{JOBS}/{odd}"), ("POST", f"{JOBS}/{odd}/cancel"), ("GET", f"{JOBS}/{odd}/events"),
            ("GET", f"{JOBS}/{odd}/checkpoints"),
            ("POST", f"{UPLOADS}/{odd}/cancel"), ("GET", f"/v1/models/{odd}"), ("DELETE", f"/v1/models/{odd}"),
            ("GET", f"{RESPONSES}/{odd}"),
        ):  # fmt: skip
            await _send(world, method, path, 404)


async def test_a_wrong_key_is_refused_before_anything_is_read(world: World) -> None:
    for secret in WRONG_SECRETS:
        for method, path in (
            ("GET", "/v1/files"),
            ("POST", JOBS),
            ("POST", CHATS),
            ("POST", RESPONSES),
            ("POST", UPLOADS),
            ("GET", "/v1/no"),
        ):
            error = await _send(
                world, method, path, 401, headers={"Authorization": f"Bearer {secret}"}, data=b"{" if method == "POST" else None
            )
            assert error["code"] == "invalid_api_key"
            assert "key" in error["message"]


async def test_a_key_for_asking_only_may_ask_and_nothing_else(world: World) -> None:
    _, secret = await create_key(world.gateway.keys, "projects/default", "asks", None, ["inference"])
    headers = {"Authorization": f"Bearer {secret}"}
    for method, path in (("GET", "/v1/files"), ("POST", UPLOADS), ("POST", JOBS), ("DELETE", "/v1/models/tiny")):
        assert (await _send(world, method, path, 403, headers=headers))["code"] == "insufficient_permissions"
    answer = await world.gateway.client(secret).responses.create(model="tiny", input="hi")
    assert answer.output_text == "hi"


async def test_an_unknown_model_is_not_found_whatever_it_is_called(world: World) -> None:
    for model in ("none", "../tiny", "models/b", "x" * 5000, "\0", "ft:none"):
        for path, rest in ((CHATS, {"messages": [{"role": "user", "content": "x"}]}), (RESPONSES, {"input": "x"})):
            error = await _send(world, "POST", path, 404, data=json.dumps({"model": model, **rest}))
            assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("charset", ["undefined", "raw_unicode_escape", "utf-16"])
async def test_a_form_in_another_charset_is_refused(world: World, path: str, charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=B; charset={charset}"}
    error = await _send(world, "POST", path, 400, headers=headers, data=b"--B--\r\n")
    assert "charset" in error["message"]


async def test_half_a_character_in_a_forms_field_is_refused_in_words(world: World) -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="x\xed\xa0\x80"\r\n\r\n1\r\n--B--\r\n'
    await _send(world, "POST", "/v1/files", 400, headers={"Content-Type": "multipart/form-data; boundary=B"}, data=body)


async def test_one_request_asks_for_so_many_answers_at_most(world: World) -> None:
    for prompt, n in ((["a"] * 129, 1), (["a"] * 65, 2), ([[1, 2]] * 129, 1)):
        error = await _send(world, "POST", "/v1/completions", 400, json={"model": "tiny", "prompt": prompt, "n": n})
        assert "128 answers at most" in error["message"]
