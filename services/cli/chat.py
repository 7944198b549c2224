"""`afina chat`: ask a model through the gateway, with the unmodified `openai` SDK, as any client would."""

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from services.cli.completion import COLLECTIONS, ResourceName
from services.cli.failure import Failure
from services.cli.home import Home, find
from services.common.errors import AfinaError, InvalidInput, NotFound, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT_S = 300.0


@click.command("chat")
@click.argument("model", type=ResourceName(COLLECTIONS["model"]))
@click.argument("message", required=False)
@click.option("--system", default="", help="A system message before everything.")
@click.option("--max-tokens", type=int, default=512, show_default=True, help="Longest answer.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 answers the same every time.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole response, not streamed.")
@click.pass_context
def chat(
    context: click.Context, model: str, message: str | None, system: str, max_tokens: int, temperature: float, as_json: bool
) -> None:
    """Ask MODEL (a base, a fine-tuned model or an endpoint) MESSAGE, or talk with it where no message is given."""
    environ = context.obj if context.obj is not None else os.environ
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    asked = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    try:
        client = client_of(find(environ), environ)
        if message is not None:
            _ask(client, asked, [*messages, {"role": "user", "content": message}], as_json)
            return
        for line in _lines():
            messages.append({"role": "user", "content": line})
            messages.append({"role": "assistant", "content": _ask(client, asked, messages, as_json)})
    except AfinaError as error:
        raise Failure(error, as_json) from error


def client_of(home: Home, environ: Mapping[str, str]) -> "OpenAI":
    """Return an OpenAI client of this installation's gateway. Raises: Unauthenticated (no key)."""
    from openai import DefaultHttpxClient, OpenAI  # half a second, which other commands need not pay

    is_here = urlsplit(home.gateway_url).hostname in ("127.0.0.1", "localhost", "::1")
    http = DefaultHttpxClient(trust_env=not is_here)  # a proxy can't reach this machine's loopback
    return OpenAI(base_url=f"{home.gateway_url}/v1", api_key=api_key(home, environ), timeout=TIMEOUT_S, http_client=http)


def api_key(home: Home, environ: Mapping[str, str]) -> str:
    """Return AFINA_API_KEY, or the first key of this installation. Raises: Unauthenticated."""
    if environ.get("AFINA_API_KEY"):
        return environ["AFINA_API_KEY"]
    try:
        return home.api_key.read_text().strip()
    except OSError as error:
        what = f"There is no API key: set AFINA_API_KEY, or start the programs with `afina up`, which writes {home.api_key}."
        raise Unauthenticated(what, reason="API_KEY_MISSING") from error


def _ask(client: "OpenAI", asked: dict[str, Any], messages: list[dict[str, Any]], as_json: bool) -> str:
    """Print an answer as it comes, and return it. Raises: Afina's errors for OpenAI's."""
    import openai

    create: Any = client.chat.completions.create
    try:
        if as_json:
            response = create(messages=messages, **asked)
            print(json.dumps(response.to_dict(), indent=2, ensure_ascii=False))
            return str(response.choices[0].message.content or "")
        said = []
        for part in create(messages=messages, stream=True, **asked):
            text = part.choices[0].delta.content if part.choices else None
            if text:
                said.append(text)
                print(text, end="", flush=True)
        print()
        return "".join(said)
    except openai.NotFoundError as error:
        raise NotFound(f"{_told(error)} `afina models list` shows what can be asked.", reason="MODEL_NOT_FOUND") from error
    except openai.AuthenticationError as error:
        raise Unauthenticated(f"{_told(error)} Set AFINA_API_KEY to a key that works.") from error
    except openai.BadRequestError as error:
        raise InvalidInput(_told(error)) from error
    except openai.APIConnectionError as error:
        what = f"Nothing answers at {client.base_url} ({error}); start the programs with `afina up`."
        raise Unavailable(what, reason="GATEWAY_AWAY") from error
    except openai.APIStatusError as error:
        raise Unavailable(f"The gateway answered {error.status_code}: {_told(error)}", reason="GATEWAY_FAILED") from error


def _told(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error)


def _lines() -> Any:
    """Yield what a person types, until the end of input or an empty line."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line
