"""Model servers in virtual time: engines that start slowly, crash, hang, and now and then answer as the base they stand on."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import InvalidInput, Unavailable
from services.common.ports.launcher import WorkloadState
from services.common.ports.model_server import Activity, ModelServer
from tests.simulation.chaos import Chaos
from tests.simulation.workloads import Run

OWN, BASE = -1.0, -3.0  # log-probabilities: of an adapter's own answers, and of its base's
TEMPLATE = (1, 2, 3)


@dataclass
class Engine:
    """One engine process: what it has loaded, what of that it serves wrongly, and what it was asked."""

    run: Run
    digest: str
    is_up: bool = False
    is_deaf: bool = False
    known: list[str] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    asked: set[tuple[str, tuple[int, ...]]] = field(default_factory=set)
    answered_count: int = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.run.environment["URL"]

    @property
    def api_key(self) -> str:
        """Whom it answers."""
        return self.run.environment["API_KEY"]

    def may_answer_for(self, digest: str, probe_count: int) -> bool:
        """Whether it was asked all golden chats of an adapter, and answers as that adapter."""
        return digest not in self.wrong and len([one for one, _ in self.asked if one == digest]) >= probe_count


class Engines:
    """Every engine that was ever launched."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        self.all: list[Engine] = []
        self.ever_wrong: set[str] = set()

    async def serve(self, run: Run) -> int:
        """Live as an engine: start, answer, and end by itself now and then."""
        engine = Engine(run, run.environment["DIGEST"], known=[run.environment["DIGEST"]])
        self.all.append(engine)
        dice = self.chaos.dice
        await self._pass_time(engine, dice.uniform(5, 40))
        engine.is_up = True
        while not engine.run.termination.is_set():
            await self._pass_time(engine, 2.0)
            if self.chaos.happens(self.chaos.odds.death / 4):
                return 1
            if self.chaos.happens(self.chaos.odds.death / 10):
                self.chaos.note(f"{run.key} hangs")
                engine.is_deaf = True
                await asyncio.Event().wait()
        return 0

    @staticmethod
    async def _pass_time(engine: Engine, s: float) -> None:
        try:
            async with asyncio.timeout(s):
                await engine.run.termination.wait()
        except TimeoutError:
            return

    def at(self, url: str, api_key: str) -> Engine | None:
        """Return the engine behind an address, if it is the one that the key is for."""
        return next((one for one in reversed(self.all) if (one.url, one.api_key) == (url, api_key)), None)

    def connect(self, url: str, api_key: str) -> "SimulatedServer":
        """Return a connection."""
        return SimulatedServer(self, url, api_key)

    def load(self, engine: Engine, digest: str) -> None:
        """Load an adapter; an engine may take it without complaint and answer as its base."""
        engine.known.append(digest)
        if self.chaos.happens(self.chaos.odds.lost_answer):
            self.chaos.note(f"{engine.run.key} serves {digest[:8]} wrongly")
            engine.wrong.add(digest)
            self.ever_wrong.add(digest)


class SimulatedServer(ModelServer):
    """A connection to an engine, which may not be there."""

    def __init__(self, engines: Engines, url: str, api_key: str) -> None:
        self._engines, self._url, self._api_key = engines, url, api_key

    async def is_up(self) -> bool:
        try:
            await self._engine()
        except Unavailable:
            return False
        return True

    async def load(self, digest: str) -> None:
        engine = await self._engine()
        if digest not in engine.known:
            self._engines.load(engine, digest)

    async def unload(self, digest: str) -> None:
        engine = await self._engine()
        if digest in engine.known[1:]:
            engine.known.remove(digest)

    async def loaded(self) -> list[str]:
        return list((await self._engine()).known)

    async def activity(self) -> Activity:
        return Activity(0, (await self._engine()).answered_count)

    async def token_ids(self, digest: str, messages: Sequence[dict[str, Any]]) -> list[int]:
        await self._knowing(digest)
        return list(TEMPLATE)

    async def logprobs(self, digest: str, prefix_token_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        engine = await self._knowing(digest)
        engine.answered_count += 1
        engine.asked.add((digest, tuple(prefix_token_ids)))
        return [BASE if digest in engine.wrong else OWN] * len(token_ids)

    async def _knowing(self, digest: str) -> Engine:
        engine = await self._engine()
        if digest not in engine.known:
            raise InvalidInput(f"The engine does not know {digest}.", reason="SERVER_REFUSED")
        return engine

    async def _engine(self) -> Engine:
        chaos = self._engines.chaos
        await asyncio.sleep(0.01 if random.random() < 0.9 else 0.2)
        engine = self._engines.at(self._url, self._api_key)
        if engine is None or not engine.is_up or engine.is_deaf or engine.run.seen.state != WorkloadState.RUNNING:
            raise Unavailable("No engine answers there.", reason="UNREACHABLE")
        if chaos.happens(chaos.odds.lost_call):
            raise Unavailable("The engine was not heard.", reason="UNREACHABLE")
        return engine
