"""Who acts: the principal of the call that is being answered, for what is allowed and for what is remembered.

The transport sets it; whoever must write down who did something reads it. Outside a call – in a reconcile loop, in a test –
it is the program itself.
"""

from contextvars import ContextVar
from dataclasses import dataclass

EVERY_PROJECT = ""


@dataclass(frozen=True)
class Principal:
    """Somebody who may act: `name` is a resource or a program, `project` the only one it may touch, or all of them."""

    name: str
    project: str = EVERY_PROJECT
    scopes: frozenset[str] = frozenset()


PROGRAM = Principal("afina")
_acting: ContextVar[Principal] = ContextVar("acting", default=PROGRAM)


def acting() -> Principal:
    """Return who acts."""
    return _acting.get()


def act_as(principal: Principal) -> None:
    """Have the rest of this task act as somebody."""
    _acting.set(principal)
