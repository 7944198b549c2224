"""Inference: servers, placements and routes, on two replicas, for more bases than there are places.

What has to hold, besides what `workloads.py` and `world.py` hold:

- who stands in a route for an adapter is an engine that was asked all golden chats of it since it was launched, and answered
  as the adapter; a deleted model, or one that is quarantined, has no route with anybody in it;
- an adapter is quarantined only if some engine has answered wrongly for it;
- of one server never two generations run beside one another, and never more servers than MAX_SERVERS and one;
- at the end every model that is neither quarantined nor deleted can be had, and nothing runs that no record speaks of.
"""

import asyncio
import functools
import io
import json
import sys
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.common import errors
from services.common.ports.launcher import Workload
from services.common.ports.manifest import Manifest, ManifestFile
from services.inference import model, use_cases
from services.inference.fleet import reconcile_placement, reconcile_server
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.routes import RouteTable, build
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Server
from services.inference.serving import ensure_served
from tests.simulation.chaos import Odds, Program
from tests.simulation.engines import BASE, OWN, TEMPLATE, Engines
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.workloads import SimulatedLauncher
from tests.simulation.world import Step, World

CACHE = Path(tempfile.gettempdir()) / "afina-simulation-cache"
BASES, ADAPTERS, MAX_SERVERS, GOLDEN = 3, 2, 2, 8
ASK_S = 60.0
LOOK_EVERY_S = 3
PARENT = "projects/default"


class Serving(World[Inference]):
    """Inference programs, who asks for models, and the engines."""

    ports = ("store", "launcher", "database")

    def __init__(self, seed: int, loop: VirtualLoop, odds: Odds) -> None:
        super().__init__(seed, loop, odds)
        self.engines = Engines(self.chaos)
        self.launcher = SimulatedLauncher(self.chaos, {"server": self.engines.serve}, numbers_may_be_left_out=True)
        self.asked: list[str] = []
        self.deleted: set[str] = set()

    async def prepare(self) -> None:
        for b in range(BASES):
            base = self._placed("base", f"base {b}", {"config.json": b"{}"})
            name = model.base_name(base.digest)
            await self._put(Model(name, "BASE", base.digest, f"base-{b}", _key(base), 2, max_length=1024, has_chat_template=True))
            self.asked.append(name)
            for a in range(ADAPTERS):
                adapter = self._placed("adapter", f"adapter {b}.{a}", {"golden.json": _golden(base.digest)})
                own = model.own_name("default", adapter.digest)
                told = Model(
                    own, "ADAPTER", adapter.digest, f"ft:{b}:{a}", _key(adapter), 2, base=name, base_digest=base.digest, rank=8
                )
                await self._put(told)
                self.asked.append(own)

    def _placed(self, kind: str, what: str, files: Mapping[str, bytes]) -> Manifest:
        placed = {**files, "weights": what.encode()}
        manifest = Manifest(kind, tuple(ManifestFile(n, self.store.put("x", io.BytesIO(c))) for n, c in placed.items()), {})
        self.store.commit(_key(manifest), manifest.to_json())
        return manifest

    async def _put(self, known: Model) -> None:
        await self.database.create(model.KIND, known.name, known.to_document())

    def service(self, program: Program) -> Inference:
        database = self.seen_by(program, self._twin(), "database")
        return Inference(
            database=database,
            store=self.seen_by(program, self.store, "store"),
            launcher=self.seen_by(program, self.launcher, "launcher"),
            evaluations=self.seen_by(program, None, "evaluator"),
            cache=CACHE,
            workload=_workload,
            connect=lambda url, api_key: self.seen_by(program, self.engines.connect(url, api_key), "engine"),
            routes=RouteTable(database),
            max_servers=MAX_SERVERS,
            clock=self.loop.clock,
        )

    def steps(self, service: Inference) -> Mapping[str, Step]:
        return {
            SERVER_KIND: functools.partial(reconcile_server, service),
            PLACEMENT_KIND: functools.partial(reconcile_placement, service),
        }

    def users(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self._user() for _ in range(self.chaos.dice.randint(1, 3))]

    def others(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self.unreliable_node(self.launcher)]

    async def _user(self) -> None:
        """Ask for one model after another; delete one now and then."""
        dice = self.chaos.dice
        for _ in range(dice.randint(1, 4)):
            await asyncio.sleep(dice.uniform(0, 40))
            name = dice.choice(self.asked)
            try:
                if name not in self.deleted and name.startswith(PARENT) and dice.random() < 0.1:
                    self.chaos.note(f"a user deletes {name[-8:]}")
                    self.deleted.add(name)
                    await self.insist(lambda service, n=name: use_cases.delete_model(service, n))  # type: ignore[misc]
                else:
                    await self.heard(lambda service, n=name: ensure_served(service, n, ASK_S))  # type: ignore[misc]
            except (errors.NotFound, errors.WrongState, errors.Unavailable, errors.Conflict) as error:
                self.chaos.note(f"but: {error.message[:90]}")

    async def look(self) -> None:
        if int(self.loop.time()) % LOOK_EVERY_S:
            return
        running = [run.key for run in self.launcher.running()]
        if len(running) > MAX_SERVERS + 1:
            self.chaos.object(f"{running} run at once")
        models = await self._models()
        for route in await build(self.database):
            for replica in route.replicas:
                engine, told = self.engines.at(replica.url, replica.api_key), models[route.model]
                if engine is None or told.state != "ACTIVE":
                    self.chaos.object(f"{route.public_id} is {told.state} and routed to {replica.url}")
                elif told.kind == "BASE" and engine.digest != told.digest:
                    self.chaos.object(f"{route.public_id} is routed to an engine of {engine.digest[:8]}")
                elif told.kind == "ADAPTER" and not engine.may_answer_for(told.digest, GOLDEN):
                    self.chaos.object(f"{route.public_id} is routed to {engine.run.key}, where it is not proven")

    async def is_at_rest(self) -> bool:
        """Whether everything that may be had was had once more."""
        for name, known in sorted((await self._models()).items()):
            if known.state != "ACTIVE" or name in self.deleted:
                continue
            for _ in range(45):  # an engine that hangs while it starts is given half an hour
                try:
                    await self.heard(lambda service, n=name: ensure_served(service, n, ASK_S))  # type: ignore[misc]
                    break
                except errors.WrongState:
                    break
                except errors.Unavailable as error:
                    told = error.message
                    await asyncio.sleep(5)
            else:
                self.chaos.object(f"{name} can't be had: {told}")
        return True

    async def states(self) -> Mapping[str, str]:
        self.counts["servers launched"] = len(self.engines.all)
        return {name: known.state for name, known in (await self._models()).items()}

    async def wrong(self) -> list[str]:
        models = await self._models()
        wrong = [
            f"{name} is quarantined, and no engine was wrong about it: {known.quarantine_reason}"
            for name, known in models.items()
            if known.state == "QUARANTINED" and known.digest not in self.engines.ever_wrong and name not in self.deleted
        ]
        wrong += [f"{name} was deleted and is there" for name in self.deleted & models.keys()]
        records = [Server.from_document(r.document) for r in await self.database.list(SERVER_KIND, "", limit=1000)]
        keys = {server.key for server in records if server.takes_memory}
        return wrong + [f"{run.key} runs, and no record speaks of it" for run in self.launcher.running() if run.key not in keys]

    async def _models(self) -> dict[str, Model]:
        records = await self.database.list(model.KIND, "", limit=1000)
        return {record.name: Model.from_document(record.document) for record in records}


def _key(manifest: Manifest) -> str:
    return f"manifests/{manifest.digest}.json"


def _golden(base_digest: str) -> bytes:
    chats = [
        {
            "messages": [{"role": "user", "content": str(n)}],
            "prompt_token_ids": list(TEMPLATE),
            "probes": [{"prefix_token_ids": [n], "token_ids": [7], "adapter_logprobs": [OWN], "base_logprobs": [BASE]}],
        }
        for n in range(GOLDEN)
    ]
    return json.dumps({"base_digest": base_digest, "chats": chats}).encode()


def _workload(server: Server, folder: Path) -> Workload:
    environment = {"URL": server.url, "API_KEY": server.api_key, "DIGEST": server.digest}
    return Workload(server.key, "server", (sys.executable, "-m", "server"), environment)
