"""What goes wrong, drawn from a seed: calls that are late, never arrive, or whose answer is lost, and programs that die.

Every call of a program to a port goes through `Chaotic`. A program that has died makes no call any more, whatever its
tasks still try: a SIGKILL leaves no time for a last word. One that is frozen (SIGSTOP) goes on where it was, later, as if
nothing had happened: before a call, or between a write and its answer. A port can be away for a while, up to an hour.
"""

import asyncio
import inspect
import random
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import Any, TypeVar, cast

from services.common.errors import Unavailable

LEASE_S = 20.0
IDLE_VERBS = ("claim", "next_due")  # an idle loop asks again and again, and things should go wrong at work
RARE_VERBS = ("launch", "create", "commit", "register", "create_key", "load")  # where something begins to be
SAFE_VERBS = ("plan", "environment", "woken", "close")
OUTAGES_S = (5.0, 20.0, 20.0, 60.0, 60.0, 120.0, 120.0, 240.0, 240.0, 3600.0)
T = TypeVar("T")


@dataclass(frozen=True)
class Odds:
    """How often each thing happens: at a call, but the last two, which are of a schedule."""

    late: float = 0.05
    frozen: float = 0.012  # by more than a lease
    lost_call: float = 0.03
    lost_answer: float = 0.03
    death: float = 0.02
    outage: float = 0.5
    stopped: float = 0.5  # that a program is frozen as a whole, once or twice

    def over(self, divisor: float) -> "Odds":
        """Return odds that many times as small."""
        return Odds(*(odds / divisor for odds in astuple(self)))


CALM = Odds(0, 0, 0, 0, 0, 0, 0)


@dataclass
class Chaos:
    """The dice of one schedule, and what they have shown."""

    dice: random.Random
    odds: Odds = field(default_factory=Odds)
    history: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    away_until_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._idle_odds, self._rare_odds = self.odds.over(10), self.odds.over(1 / 3)

    def calm(self) -> None:
        """From now on nothing goes wrong."""
        self.odds = self._idle_odds = self._rare_odds = CALM
        self.note("from here on nothing goes wrong")

    def of(self, verb: str) -> Odds:
        """Return the odds at a verb."""
        if verb in IDLE_VERBS:
            return self._idle_odds
        return self._rare_odds if verb in RARE_VERBS else self.odds

    def happens(self, odds: float) -> bool:
        """Throw the dice."""
        return odds > 0 and self.dice.random() < odds

    def note(self, text: str) -> None:
        """Remember what happened, for whoever reads a schedule that failed."""
        self.history.append(f"{asyncio.get_running_loop().time():8.2f} {text}")

    def object(self, text: str) -> None:
        """Say that something happened that never may."""
        self.note(f"WRONG: {text}")
        self.violations.append(text)

    async def begin_outages(self, ports: tuple[str, ...], within_s: float) -> None:
        """Have a port be away for a while, perhaps."""
        while self.happens(self.odds.outage):
            await asyncio.sleep(self.dice.uniform(0, within_s))
            port, last_s = self.dice.choice(ports), self.dice.choice(OUTAGES_S)
            self.note(f"{port} is away for {last_s:g} s")
            self.away_until_s[port] = asyncio.get_running_loop().time() + last_s
            await asyncio.sleep(last_s)

    def require_there(self, port: str) -> None:
        """Raises: Unavailable (it is away)."""
        if self.away_until_s and asyncio.get_running_loop().time() < self.away_until_s.get(port, 0.0):
            raise Unavailable(f"{port} is away.", reason="UNREACHABLE")


class Program:
    """A program that can die. Its work is one task; `kill` ends it between two instructions."""

    def __init__(self, name: str, chaos: Chaos) -> None:
        self.name, self.chaos = name, chaos
        self.is_dead = False
        self.frozen_until_s = 0.0
        self.task: asyncio.Future[Any] | None = None

    def kill(self) -> None:
        """End it without a word."""
        self.chaos.note(f"{self.name} is killed")
        self.is_dead = True
        if self.task is not None:
            self.task.cancel()

    def freeze(self, last_s: float) -> None:
        """Stop it where it is; it goes on later."""
        self.chaos.note(f"{self.name} is frozen for {last_s:.0f} s")
        self.frozen_until_s = asyncio.get_running_loop().time() + last_s

    async def awake(self) -> None:
        """Return when it may go on."""
        while self.frozen_until_s and (left_s := self.frozen_until_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left_s)

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
        if callable(call) and verb not in SAFE_VERBS:
            call = self._late(verb, call) if inspect.iscoroutinefunction(call) else self._prompt(verb, call)
        setattr(self, verb, call)  # asked once for each verb
        return call

    def _late(self, verb: str, call: Callable[..., Any]) -> Any:
        prompt_s = 0.0 if verb in IDLE_VERBS else 0.001

        async def called(*args: Any, **kwargs: Any) -> Any:
            chaos, odds = self._program.chaos, self._program.chaos.of(verb)
            await asyncio.sleep(chaos.dice.uniform(0, 3) if chaos.happens(odds.late) else prompt_s)
            if odds.frozen or self._program.frozen_until_s:
                await self._freeze(verb, odds)
            self._before(verb)
            result = await call(*args, **kwargs)
            if odds.frozen or self._program.frozen_until_s:
                await self._freeze(verb, odds)
            self._after(verb)
            return result

        return called

    def _prompt(self, verb: str, call: Callable[..., Any]) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            self._before(verb)
            result = call(*args, **kwargs)
            self._after(verb)
            return result

        return called

    async def _freeze(self, verb: str, odds: Odds) -> None:
        """Perhaps freeze this one call, as a thread does that a machine has no time for; and heed that all is frozen."""
        if self._program.chaos.happens(odds.frozen / 2):
            self._note(verb, "freezes at")
            await asyncio.sleep(self._program.chaos.dice.uniform(LEASE_S, 3 * LEASE_S))
        await self._program.awake()

    def _before(self, verb: str) -> None:
        self._program.require_life()
        chaos, odds = self._program.chaos, self._program.chaos.of(verb)
        if chaos.happens(odds.death):
            self._note(verb, "dies before")
            self._program.kill()
            raise asyncio.CancelledError
        chaos.require_there(self._label)
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
