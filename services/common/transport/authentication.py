"""Who calls over gRPC, what he may call, and that he names nothing of another project: asked before every handler.

Every call carries `authorization: Bearer SECRET`. One of four answers is possible:

- The **service token** (AFINA_SERVICE_TOKEN) is shared by the five programs and whoever runs them; `afina up` makes it. Who
  has it is the operator: every project, every scope. A program that acts for a key says so in `afina-acting-for`, and is held
  to that key's project then; nobody else is believed there.
- An **API key** belongs to a project and has scopes. The gateway owns keys; other programs ask it, by the secret's hash, and
  believe an answer for a second. Where the gateway is away nobody's key is known, so the call is UNAVAILABLE, not let in.
- A **worker** shows its attempt token to the methods that `scopes.ATTEMPT` lists, and those look at it themselves.
- Health and reflection are open: they tell that a program lives and what its API is, which is public anyway.

What a key's request names is looked at in one place for all methods: every string in it that is a resource name, or a
model's public id, has to be of the key's project. So a method that is added is covered before anybody thinks of it. The answer
does not depend on whether the thing exists. An empty `parent` is filled in. Questions to models are not looked at: they hold
what people write, and their model's name is looked up among the project's own.

gRPC here has no TLS: whoever can read the network between two programs reads the token. So the programs bind loopback unless
AFINA_TRUST_NETWORK=1 says that the network is private. When changing this, check: a secret never reaches a log or an error's
text; a comparison takes as long for a near miss as for a far one; what is unknown is refused.
"""

import hmac
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from services.common import scopes
from services.common.errors import InvalidInput, PermissionDenied, Unauthenticated
from services.common.principal import OPERATOR, WORKER, Principal, secret_of, unknown

SERVICE_TOKEN = "AFINA_SERVICE_TOKEN"
AUTHORIZATION, ACTING_FOR = "authorization", "afina-acting-for"
MIN_TOKEN_CHARACTERS = 32
SERVICE_TOKEN_SETTING = (
    SERVICE_TOKEN,
    "by which the five programs know one another: the same random secret for all of them, at least 32 characters",
)
API_KEY = re.compile(r"afina-[A-Za-z0-9_-]{43}")
Verify = Callable[[str], Awaitable[Principal]]

_MISSING = (
    "Nobody said who calls. Send metadata `authorization: Bearer ` with a project's API key (AFINA_API_KEY for the command "
    "line), or with the service token that `afina up` keeps in AFINA_HOME/service_token (AFINA_SERVICE_TOKEN)."
)
# What begins like a name is looked at as one, however it goes on: some readers look at the beginning alone.
_RESOURCE = re.compile(r"projects/([^/]*)")
_PUBLIC_ID = re.compile(r"ft:[^:]*:([^:]*)")


async def nobody(secret: str) -> Principal:
    """Know no key. Raises: Unauthenticated."""
    raise unknown(secret)


def service_token() -> str:
    """Return the token that this process was given, or nothing."""
    return os.environ.get(SERVICE_TOKEN, "")


class Authentication:
    """What a server asks of every call. `verify(secret)` says whose an API key is, or raises Unauthenticated or Unavailable."""

    def __init__(self, service_token: str, verify: Verify = nobody) -> None:
        if len(service_token) < MIN_TOKEN_CHARACTERS:
            told = f"{SERVICE_TOKEN} has {len(service_token)} characters; set a random one of at least {MIN_TOKEN_CHARACTERS}."
            raise InvalidInput(told, reason="SERVICE_TOKEN_SHORT")
        self._service_token, self._verify = service_token.encode(), verify

    async def principal(self, method: str, metadata: Mapping[str, Any]) -> Principal:
        """Return who calls. Raises: Unauthenticated, PermissionDenied (it lacks the scope), Unavailable."""
        scope = scopes.OF_METHOD.get(method, scopes.OPERATOR)
        if scope == scopes.ATTEMPT:
            return WORKER
        caller = await self._caller(secret_of(str(metadata.get(AUTHORIZATION, ""))), str(metadata.get(ACTING_FOR, "")))
        caller.require(scope)
        return caller

    async def _caller(self, secret: str, acting_for: str) -> Principal:
        if not secret:
            raise Unauthenticated(_MISSING, reason="API_KEY_MISSING")
        if hmac.compare_digest(secret.encode(), self._service_token):
            return OPERATOR.for_another(acting_for) if acting_for else OPERATOR
        if API_KEY.fullmatch(secret) is None:
            raise unknown(secret)
        return await self._verify(secret)


def within_project(principal: Principal, method: str, message: Any) -> Any:
    """Return a request that names nothing of other projects, its empty parent filled in. Raises: PermissionDenied."""
    if principal.project and scopes.OF_METHOD.get(method) != "inference":
        _look(principal.project, message)
    return message


async def all_within_project(principal: Principal, method: str, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the messages of a request that is streamed, each looked at."""
    async for message in messages:
        yield within_project(principal, method, message)


def _look(project: str, message: Any) -> None:
    parent = message.DESCRIPTOR.fields_by_name.get("parent")
    if parent is not None and not message.parent:
        message.parent = f"projects/{project}"
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        is_map = field.type == field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry
        values = [*value, *value.values()] if is_map else value if field.is_repeated else [value]
        for part in values:
            if isinstance(part, str):
                _look_at_name(project, part)
            elif hasattr(part, "DESCRIPTOR"):
                _look(project, part)


def _look_at_name(project: str, text: str) -> None:
    match = _RESOURCE.match(text) or _PUBLIC_ID.match(text)
    if match is not None and match[1] != project:
        told = f"{text[:200]} is not of {project}, the only project that this key may touch."
        raise PermissionDenied(told, reason="OTHER_PROJECT", metadata={"project": project})
