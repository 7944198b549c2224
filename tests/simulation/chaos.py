"""What goes wrong, drawn from a seed: calls that are late, never arrive, or whose answer is lost, and programs that die.

Every call of a program to a port goes through `Chaotic`. A program that has died makes no call any more, whatever its
tasks still try: a SIGKILL leaves no time for a last word.
"""

import asyncio
import inspect
import random
from dataclasses import astuple, dataclass, field
from typing import Any, TypeVar, cast

from services.common.errors import Unavailable

LEASE_S = 20.0
T = TypeVar("T")


@dataclass(frozen=True)
class Odds:
    """How often each thing happens at a call."""

    late: float = 0.05
    frozen: float = 0.01  # late by more than a lease
    lost_call: float = 0.03
    lost_answer: float = 0.03
    death: float = 0.03

    def over(self, divisor: float) -> "Odds":
        """Return odds that many times as small."""
        return Odds(*(odds / divisor for odds in astuple(self)))


CALM = Odds(0, 0, 0, 0, 0)


@dataclass
class Chaos:
    """The dice of one schedule, and what they have shown."""

    dice: random.Random
    odds: Odds = field(default_factory=Odds)
    history: list[str] = field(default_factory=list)

    def of(self, verb: str) -> Odds:
        """Return the odds at a verb: an idle loop asks what is due again and again, and things should go wrong at work."""
        return self.odds.over(10) if verb in ("claim", "next_due") else self.odds

    def happens(self, odds: float) -> bool:
        """Throw the dice."""
        return self.dice.random() < odds

    def note(self, text: str) -> None:
        """Remember what happened, for whoever reads a schedule that failed."""
        self.history.append(f"{asyncio.get_running_loop().time():8.2f} {text}")


class Program:
    """A program that can die. Its work is one task; `kill` ends it between two instructions."""

    def __init__(self, name: str, chaos: Chaos) -> None:
        self.name, self.chaos = name, chaos
        self.is_dead = False
        self.task: asyncio.Future[Any] | None = None

    def kill(self) -> None:
        """End it without a word."""
        self.chaos.note(f"{self.name} is killed")
        self.is_dead = True
        if self.task is not None:
            self.task.cancel()

    def require_life(self) -> None:
        """Stop whatever a dead program still tries."""
        if self.is_dead:
            raise asyncio.CancelledError


class Chaotic:
    """A port as one program sees it."""

    def __init__(self, port: Any, program: Program, label: str) -> None:
        self._port, self._program, self._label = port, program, label

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._port, verb)
        if not callable(call) or verb in ("plan", "environment", "woken", "close"):
            return call
        return self._late(verb, call) if inspect.iscoroutinefunction(call) else self._prompt(verb, call)

    def _late(self, verb: str, call: Any) -> Any:
        async def called(*args: Any, **kwargs: Any) -> Any:
            chaos, odds = self._program.chaos, self._program.chaos.of(verb)
            await asyncio.sleep(0.001)
            if chaos.happens(odds.late):
                await asyncio.sleep(chaos.dice.uniform(0, 3))
            if chaos.happens(odds.frozen):
                self._note(verb, "freezes")
                await asyncio.sleep(chaos.dice.uniform(LEASE_S, 3 * LEASE_S))
            self._before(verb)
            result = await call(*args, **kwargs)
            self._after(verb)
            return result

        return called

    def _prompt(self, verb: str, call: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            self._before(verb)
            result = call(*args, **kwargs)
            self._after(verb)
            return result

        return called

    def _before(self, verb: str) -> None:
        self._program.require_life()
        chaos, odds = self._program.chaos, self._program.chaos.of(verb)
        if chaos.happens(odds.death):
            self._note(verb, "dies before")
            self._program.kill()
            raise asyncio.CancelledError
        if chaos.happens(odds.lost_call):
            self._note(verb, "is not heard at")
            raise Unavailable(f"{self._label}.{verb} was lost.", reason="UNREACHABLE")

    def _after(self, verb: str) -> None:
        self._program.require_life()
        chaos, odds = self._program.chaos, self._program.chaos.of(verb)
        if chaos.happens(odds.death):
            self._note(verb, "dies after")
            self._program.kill()
            raise asyncio.CancelledError
        if chaos.happens(odds.lost_answer):
            self._note(verb, "does not hear the answer of")
            raise Unavailable(f"The answer of {self._label}.{verb} was lost.", reason="UNREACHABLE")

    def _note(self, verb: str, what: str) -> None:
        self._program.chaos.note(f"{self._program.name} {what} {self._label}.{verb}")


def as_seen_by(program: Program, port: T, label: str) -> T:
    """Return a port as a program sees it, with everything that can go wrong between the two."""
    return cast(T, Chaotic(port, program, label))
