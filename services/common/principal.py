"""Who acts: the principal of the call that is being answered, for what is allowed and for what is remembered.

The transport sets it; whoever must write down who did something reads it. Outside a call – in a reconcile loop, in a test –
it is the program itself.
"""

from collections.abc import Set
from contextvars import ContextVar
from dataclasses import dataclass

from services.common import scopes
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.names import project_of

EVERY_PROJECT = ""


@dataclass(frozen=True)
class Principal:
    """Somebody who may act: `name` is a resource or a program, `project` the only one it may touch, or all of them."""

    name: str
    project: str = EVERY_PROJECT
    scopes: Set[str] = frozenset()

    def require(self, scope: str) -> None:
        """Return where it may. Raises: PermissionDenied (it lacks the scope)."""
        if scope in self.scopes:
            return
        if scope == scopes.OPERATOR:
            told = (
                "Only whoever runs this installation may do that, with its service token; an API key can't (unset AFINA_API_KEY)."
            )
        else:
            told = f"This API key lacks the scope {scope}. Use one that has it: afina keys create NAME --scope {scope}."
        raise PermissionDenied(told, reason="INSUFFICIENT_PERMISSIONS", metadata={"scope": scope})

    def for_another(self, name: str) -> "Principal":
        """Return the key that this program acts for: its name is remembered, its project is the limit. Raises: InvalidInput."""
        return Principal(name, project_of(name), self.scopes)


OPERATOR = Principal("operator", EVERY_PROJECT, frozenset((*scopes.SCOPES, scopes.OPERATOR)))
PROGRAM = Principal("afina", EVERY_PROJECT, OPERATOR.scopes)
WORKER = Principal("worker")  # its attempt token is looked at by whoever launched it
_acting: ContextVar[Principal] = ContextVar("acting", default=PROGRAM)


def acting() -> Principal:
    """Return who acts."""
    return _acting.get()


def act_as(principal: Principal) -> None:
    """Have the rest of this task act as somebody."""
    _acting.set(principal)


def secret_of(authorization: str) -> str:
    """Return the secret in `Bearer afina-...`, as a header or metadata carries it; empty where there is none."""
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def unknown(secret: str) -> Unauthenticated:
    """Return the error of a secret that nobody has, or nobody has any more."""
    shown = f"{secret[:8]}***{secret[-4:]}" if len(secret) >= 24 else "***"
    told = f"Incorrect API key provided: {shown}. Ask whoever runs this gateway for one."
    return Unauthenticated(told, reason="INVALID_API_KEY")


def expired(key: str, expire_time: str) -> Unauthenticated:
    """Return the error of a key whose time is over."""
    return Unauthenticated(f"The API key {key} expired at {expire_time}; ask for a new one.", reason="API_KEY_EXPIRED")
