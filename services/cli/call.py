"""One invocation of a command: what it may use, and the decorator that turns a coroutine into a click command.

A verb is `async def verb(call, …)`. The decorator gives it `--json` and `--project`, opens and closes its connections,
and turns Afina's errors into one line and an exit code. So a verb holds nothing but its own few calls.
"""

import asyncio
import functools
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console

from services.cli import output
from services.cli.completion import complete_names
from services.cli.failure import Failure
from services.cli.home import Home, find
from services.common import names
from services.common.errors import AfinaError
from services.common.transport.grpc_client import Client

PAGE_SIZE = 200


@dataclass
class Call:
    """What a verb works with."""

    environ: Mapping[str, str]
    home: Home
    project: str = "default"
    as_json: bool = False
    out: Console = field(default_factory=lambda: output.console(sys.stdout))
    err: Console = field(default_factory=lambda: output.console(sys.stderr))
    _clients: dict[tuple[Any, str], Client] = field(default_factory=dict)

    @property
    def parent(self) -> str:
        """The project as a resource name."""
        return f"projects/{self.project}"

    def client(self, stub: Any, program: str) -> Client:
        """Return a client of one service of a program; closed when the call ends."""
        key = (stub, program)
        if key not in self._clients:
            self._clients[key] = Client(stub, self.home.addresses[program], token=self.home.credential(self.environ))
        return self._clients[key]

    def name(self, collection: str, given: str) -> str:
        """Return the resource name of an id, or what is a name already."""
        return given if "/" in given else f"{self.parent}/{collection}/{given}"

    def show(self, message: Any, people: Mapping[str, object]) -> None:
        """Print one resource."""
        if self.as_json:
            output.print_json(self.out, output.document(message))
        else:
            self.out.print(output.details(people))

    def show_list(self, messages: Sequence[Any], columns: output.Columns, none: str) -> None:
        """Print many; `none` is the sentence for an empty list."""
        if self.as_json:
            output.print_json(self.out, [output.document(message) for message in messages])
        elif messages:
            self.out.print(output.table(columns, messages))
        else:
            self.out.print(none)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()


async def every(method: Callable[..., Awaitable[Any]], request: Any, collection: str) -> list[Any]:
    """Return all resources of a list request, page after page."""
    found: list[Any] = []
    request.page_size = PAGE_SIZE
    while True:
        response = await method(request)
        found += getattr(response, collection)
        if not response.next_page_token:
            return found
        request.page_token = response.next_page_token


def last(name: str) -> str:
    """Return the id in a resource name."""
    return names.last(name)


def verb(group: click.Group, name: str, *, in_project: bool = True) -> Callable[[Callable[..., Awaitable[Any]]], click.Command]:
    """Make a coroutine `f(call, …)` a command of a group; its docstring is the help. It may return an exit code."""

    def decorate(function: Callable[..., Awaitable[Any]]) -> click.Command:
        @functools.wraps(function)
        @click.pass_context
        def command(context: click.Context, /, as_json: bool, project: str = "default", **options: Any) -> None:
            environ = context.obj if context.obj is not None else os.environ
            try:
                call = Call(environ, find(environ), project, as_json)
                code = asyncio.run(_closing(call, function, options))
            except AfinaError as error:
                raise Failure(error, as_json) from error
            if code:
                context.exit(code)

        decorated = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)
        if in_project:
            project = click.option("--project", default="default", envvar="AFINA_PROJECT", show_default=True, help="The project.")
            decorated = project(decorated)
        made = group.command(name)(decorated)
        complete_names(made.params)
        return made

    return decorate


async def _closing(call: Call, function: Callable[..., Awaitable[Any]], options: dict[str, Any]) -> Any:
    try:
        return await function(call, **options)
    finally:
        await call.close()
