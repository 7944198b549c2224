"""Everything that Afina is made of, each of which can be killed: programs, workers, vLLM, PostgreSQL, an S3 server.

A victim is known by its name and ended by the process id of what was started here. Programs are started again by their
supervisor, as `afina up` does; the two servers by this world, as a system's own supervisor would. Nobody starts a worker or
a model server but the service that launched it.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afina.v1 import api_key_pb2, api_key_pb2_grpc, model_pb2, model_pb2_grpc
from openai import OpenAI

from services.cli import catalogue, environment, workloads
from services.cli.call import Call
from services.cli.home import ADDRESS_VARIABLES, PROGRAMS, Home, find
from services.cli.processes import descendants
from services.cli.supervisor import Supervisor
from services.cli.up import is_serving
from services.common.backends.launcher.shim import is_alive, read_json
from services.common.backends.object_store.s3 import S3ObjectStore
from services.common.errors import Unavailable
from tests.builders import eventually, free_port
from tests.servers import PostgresServer, S3Server
from tests.tiny_model import build_tiny_base

ROOT = Path(__file__).parents[2]
BASE = "tiny"
CHECKPOINT_INTERVAL_S = 0.3
START_LIMIT_S = 180.0
DATABASE, STORE, SERVER = "PostgreSQL", "SeaweedFS", "vLLM server"
WORKER, EVALUATION_WORKER = "training worker", "evaluation worker"
VICTIMS = (*PROGRAMS, WORKER, EVALUATION_WORKER, SERVER, DATABASE, STORE)
LAUNCHED = {WORKER: "trainer", EVALUATION_WORKER: "evaluator", SERVER: "inference"}


@dataclass
class World:
    """What runs, and where it keeps things."""

    folder: Path
    environ: dict[str, str]
    home: Home
    s3: S3Server
    postgres: PostgresServer
    supervisor: Supervisor
    calls: dict[str, Call] = field(default_factory=dict)

    @property
    def store(self) -> S3ObjectStore:
        """The object store, as programs see it."""
        return S3ObjectStore(self.home.object_store, self.environ)

    def call(self, project: str) -> Call:
        """The one place that gives gRPC clients, those of the command line."""
        if project not in self.calls:
            self.calls[project] = Call(self.environ, self.home, project)
        return self.calls[project]

    async def close(self) -> None:
        """Close the clients."""
        for call in self.calls.values():
            await call.close()

    async def openai(self, project: str) -> OpenAI:
        """The unmodified SDK with a key of a project. It repeats nothing by itself, so that a test sees every answer."""
        keys = self.call(project).client(api_key_pb2_grpc.ApiKeyServiceStub, "gateway")
        request = api_key_pb2.CreateApiKeyRequest(parent=f"projects/{project}", display_name="client")
        secret = (await keys.CreateApiKey(request)).secret
        return OpenAI(base_url=f"{self.home.gateway_url}/v1", api_key=secret, max_retries=0, timeout=150)

    async def warm(self) -> None:
        """Have the base served, which takes vLLM half a minute."""
        models = self.call("default").client(model_pb2_grpc.ModelServiceStub, "inference")
        base = await models.GetModel(model_pb2.GetModelRequest(name=BASE))

        async def is_served() -> bool:
            with contextlib.suppress(Unavailable):
                return bool((await models.EnsureServed(model_pb2.EnsureServedRequest(name=base.name), timeout_s=30)).replicas)
            return False

        await eventually(is_served, timeout_s=START_LIMIT_S)

    def workload(self, program: str, key: str = "") -> int | None:
        """The process of the newest workload that a program has launched, or of those whose key begins so; None: it has ended."""
        for path in sorted(self.home.processes(program).glob(f"{key}*/process.json"), key=os.path.getmtime, reverse=True):
            process = read_json(path)
            if process and is_alive(process["pid"], process["start_time"]):
                return int(process["pid"])
        return None

    async def pids(self, victim: str, job: str = "") -> list[int]:
        """The processes of a victim, waiting until there are some: it may be about to be started again. Workers are a job's."""
        if victim in LAUNCHED:
            key = "" if victim == SERVER else job
            return [await eventually(lambda: self.workload(LAUNCHED[victim], key), timeout_s=START_LIMIT_S)]
        found = await eventually(lambda: self.supervisor.processes().get(victim), timeout_s=START_LIMIT_S)
        return [int(found["pid"])]

    async def kill(self, victim: str, job: str = "") -> None:
        """SIGKILL. A server of ours is started again at once; everything else is its keeper's business."""
        if victim in (DATABASE, STORE):
            server = self.postgres if victim == DATABASE else self.s3
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            await asyncio.to_thread(server.start)
            return
        for pid in await self.pids(victim, job):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def all_serve(self) -> None:
        """Wait until every program serves and is ready, whatever happened to it."""

        async def look() -> bool:
            return all([await is_serving(program) for program in planned(self.home, self.environ)])

        await eventually(look, timeout_s=START_LIMIT_S)

    def workers(self) -> list[str]:
        """Keys of the workers that run."""
        return [found.key for found in workloads.running(self.home) if found.kind != "inference.server"]

    def errors(self, since: Mapping[str, int]) -> list[str]:
        """What the programs have logged as errors after so many lines of each; a line that is not JSON is a traceback."""
        told = []
        for program, lines in self.log_lines().items():
            for line in lines[since.get(program, 0) :]:
                if not line.startswith("{") or json.loads(line).get("level") == "ERROR":
                    told.append(f"{program}: {line[:2000]}")
        return told

    def log_lines(self) -> dict[str, list[str]]:
        """What each program has logged."""
        return {program: (self.home.logs / f"{program}.log").read_text().splitlines() for program in PROGRAMS}

    def log_counts(self) -> dict[str, int]:
        """How many lines each program has logged."""
        return {program: len(lines) for program, lines in self.log_lines().items()}


def planned(home: Home, environ: Mapping[str, str], jobs: int = 2) -> list[Any]:
    """Return the five programs as `afina up` starts them, with so many workers at a time."""
    programs = environment.programs(home, environ, "cpu")
    places = {name: f"process://{home.processes(name)}?jobs={jobs}" for name in PROGRAMS}
    return [replace(p, environment={**p.environment, "LAUNCHER": places[p.name]}) for p in programs]


@contextlib.asynccontextmanager
async def opened(folder: Path, environ: Mapping[str, str] | None = None, *, is_warm: bool = True) -> AsyncIterator[World]:
    """Start everything, with the tiny base in the catalogue; end everything by its process id."""
    async with contextlib.AsyncExitStack() as stack:
        s3 = stack.enter_context(S3Server())
        postgres = stack.enter_context(PostgresServer())
        given = {**os.environ, **{variable: f"127.0.0.1:{free_port()}" for variable in ADDRESS_VARIABLES.values()}}
        given |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto' / 'gen'}", "AFINA_HOME": str(folder / "home"), **s3.environ}
        given |= {"OBJECT_STORE": f"{s3.url}/world", "AFINA_DATABASE": postgres.url(), "LEASE_S": "5"}
        given |= {"CHECKPOINT_INTERVAL_S": str(CHECKPOINT_INTERVAL_S), "PARALLEL_QUESTIONS": "2", **(environ or {})}
        home = find(given)
        home.make()
        supervisor = Supervisor(planned(home, given), home.logs, is_serving, cwd=ROOT, max_pause_s=1)
        world = World(folder, given, home, s3, postgres, supervisor)
        stack.push_async_callback(_end_workloads, home)
        supervisor.start()
        stack.push_async_callback(supervisor.stop)
        stack.push_async_callback(world.close)
        base = await asyncio.to_thread(build_tiny_base, folder / BASE)
        await supervisor.wait_until_ready(START_LIMIT_S)
        await catalogue.import_base(world.call("default"), base, BASE, ())
        if is_warm:
            await world.warm()
        yield world


async def _end_workloads(home: Home) -> None:
    """SIGKILL what the launchers of this home have started: nothing of it is needed any more."""
    for found in workloads.running(home):
        for pid in descendants([found.pid]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
