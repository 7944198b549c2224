"""`afina up`, `afina down`, `afina status`: the five programs on this machine.

One supervisor runs for each AFINA_HOME; a lock on a file in it says so, and `up.json` tells everybody else what runs
where. `--detach` starts the supervisor in the background and relays what it has to say until it is ready.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from services.cli import preflight, readiness, workloads
from services.cli.call import Call, verb
from services.cli.environment import ACCELERATORS, programs, resolve
from services.cli.failure import from_document
from services.cli.home import PROGRAMS, Home, find, with_free_probes
from services.cli.output import details, print_json, size, table
from services.cli.processes import descendants, memory_bytes
from services.cli.supervisor import Program, Supervisor
from services.common.backends.launcher.shim import is_alive, read_json, start_time, write_json
from services.common.errors import AfinaError, Unavailable, WrongState

READY_TIMEOUT_S = 180.0
DOWN_TIMEOUT_S = 120.0
LOOK_S = 0.2

_commands = click.Group("up")


@verb(_commands, "up", in_project=False)
@click.option("--detach", is_flag=True, help="Run in the background; return when everything is ready.")
@click.option("--accelerator", type=click.Choice(ACCELERATORS), default="auto", help="What models run on.", show_default=True)
async def up(call: Call, detach: bool, accelerator: str) -> None:
    """Start the five programs and keep them running until Ctrl-C or `afina down`."""
    if detach:
        await ensure_up(call, accelerator)
        return
    home = with_free_probes(find(call.environ, fresh=True), call.environ)
    home.make()
    with _sole_supervisor(home):
        await _supervise(call, home, resolve(accelerator))


@verb(_commands, "down", in_project=False)
async def down(call: Call) -> None:
    """End the programs and every workload: workers and model servers. Data stay."""
    stopped = await bring_down(call.home)
    if call.as_json:
        print_json(call.out, {"stopped": stopped})
    elif stopped:
        call.out.print(f"Stopped: {', '.join(stopped)}.", markup=False)
    else:
        call.out.print("Nothing was running.")


@verb(_commands, "status", in_project=False)
async def status(call: Call) -> int:
    """Say which programs answer, where, what they wait for, and what runs; exit code 4 if one is away or waits."""
    home = call.home
    record = home.running() or {}
    processes = record.get("programs", {})
    found = await asyncio.gather(*(_program_status(home, name, processes.get(name, {})) for name in PROGRAMS))
    running = [
        {"key": w.key, "kind": w.kind, "pid": w.pid, "memory_bytes": memory_bytes(descendants([w.pid]))}
        for w in workloads.running(home)
    ]
    summary = {"home": str(home.path), "gateway_url": home.gateway_url, "api_key_file": str(home.api_key)}
    if call.as_json:
        print_json(call.out, {**summary, "accelerator": record.get("accelerator"), "programs": found, "workloads": running})
    else:
        call.out.print(_programs_table(found))
        for program in found:
            for what, why in program["waits_for"].items():
                call.out.print(f"{program['name']} waits for the {what}: {why}", markup=False, style="yellow", soft_wrap=True)
        if running:
            call.out.print()
            call.out.print(_workloads_table(running))
        call.out.print()
        call.out.print(details({"home": summary["home"], "API": f"{home.gateway_url}/v1", "key": summary["api_key_file"]}))
    return 0 if all(program["state"] == "SERVING" for program in found) else 4


async def ensure_up(call: Call, asked: str, out: Console | None = None) -> Home:
    """Have the programs run in the background, and return where; nothing to do where they run already.

    Raises: WrongState (they run on another accelerator), Unavailable (they do not come up), or what the preflight found.
    """
    home = find(call.environ, fresh=True)
    home.make()
    record = home.running()
    if record is None:
        await _wait_for_ready(home, _start_supervisor(call, home, asked))
    elif asked not in ("auto", record["accelerator"]):
        what = f"The programs run with --accelerator {record['accelerator']}; `afina down` first."
        raise WrongState(what, reason="UP_OTHERWISE")
    elif not record["is_ready"]:
        await _wait_for_ready(home, None)
    home = find(call.environ)
    if out is None:
        _say_ready(call, home)
    else:
        out.print(f"  {home.gateway_url}/v1 · home {home.path}", markup=False, soft_wrap=True)
    return home


async def bring_down(home: Home) -> list[str]:
    """End supervisor, programs and workloads, in that order, and return what was ended. Idempotent."""
    record = read_json(home.record) or {}
    stopped: list[str] = []
    processes = {"supervisor": record, **record.get("programs", {})}
    for name, process in processes.items():  # the supervisor ends its programs itself; those of a killed one remain
        if process and is_alive(process["pid"], process["start_time"]):
            os.kill(process["pid"], signal.SIGTERM)
            await _wait_for_end(name, process)
            stopped += record.get("programs", {}) if name == "supervisor" else [name]
    stopped += await workloads.stop_all(home)
    if not home.running():
        home.record.unlink(missing_ok=True)
    return stopped


async def _supervise(call: Call, home: Home, accelerator: str) -> None:
    """Run the programs until a signal, then end them and their workloads."""
    preflight.check(home, accelerator)
    if warning := preflight.memory_warning():
        call.err.print(f"afina: {warning}", markup=False)
    state: dict[str, Any] = {
        "pid": os.getpid(),
        "start_time": start_time(os.getpid()),
        "is_ready": False,
        "begin_time_s": time.time(),
        "accelerator": accelerator,
        "addresses": dict(home.addresses),
        "gateway_url": home.gateway_url,
        "object_store": home.object_store,
        "programs": {},
    }
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def changed() -> None:
        state["programs"] = supervisor.processes()
        write_json(home.record, state)

    supervisor = Supervisor(programs(home, call.environ, accelerator), home.logs, is_serving, changed=changed, cwd=home.path)
    changed()
    try:
        supervisor.start()
        await _until(stop, _become_ready(call, supervisor, home))
        if not stop.is_set():
            state["is_ready"] = True
            changed()
            _say_ready(call, home)
            await stop.wait()
    finally:
        await supervisor.stop()
        await workloads.stop_all(home)
        home.record.unlink(missing_ok=True)


async def is_serving(program: Program) -> bool:
    """Whether a program says SERVING to a gRPC health check."""
    async with grpc.aio.insecure_channel(program.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _become_ready(call: Call, supervisor: Supervisor, home: Home) -> None:
    """Return when all programs serve, the gateway's HTTP too; say what they wait for. Raises: Unavailable."""
    await supervisor.wait_until_ready(READY_TIMEOUT_S)
    host, _, port = home.addresses["http"].rpartition(":")
    deadline = time.monotonic() + READY_TIMEOUT_S
    told: dict[str, str] = {}
    while not (home.api_key.exists() and await _connects(host, int(port))):
        waits_for = await readiness.missing(home, "dataset")  # what one program waits for the others do, too
        if waits_for.keys() - told.keys():
            call.err.print(f"afina: waiting for {_sentences(waits_for)}", markup=False, soft_wrap=True)
        told = waits_for
        if time.monotonic() > deadline:
            why = f" It waits for {_sentences(told)}" if told else ""
            raise Unavailable(f"The gateway is not ready; read {home.logs / 'gateway.log'}.{why}", reason="PROGRAM_FAILED")
        await asyncio.sleep(LOOK_S)


def _sentences(waits_for: Mapping[str, str]) -> str:
    return " And ".join(f"the {what}: {why}" for what, why in waits_for.items())


async def _connects(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host if host not in ("", "0.0.0.0", "[::]") else "127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _until(stop: asyncio.Event, work: Any) -> None:
    """Run work, or leave it when somebody asks to stop."""
    task, waiter = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _say_ready(call: Call, home: Home) -> None:
    metrics = {name: f"{home.probes_url(name)}/metrics" for name in PROGRAMS}
    if call.as_json:
        where = {"gateway_url": home.gateway_url, "api_key_file": str(home.api_key), "home": str(home.path)}
        print_json(call.out, {**where, "metrics_urls": metrics})
    else:
        what = f"Afina is up: {home.gateway_url}/v1 · key in {home.api_key} · `afina down` ends it"
        call.out.print(what, markup=False, soft_wrap=True)
        call.out.print(f"Metrics: {' '.join(metrics.values())}", markup=False, soft_wrap=True)


def _start_supervisor(call: Call, home: Home, asked: str) -> subprocess.Popen[bytes]:
    with _supervisor_log(home).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", "--accelerator", asked, "--json"],
            env=dict(call.environ),
            cwd=home.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _wait_for_ready(home: Home, process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S + 30
    while True:
        record = home.running()
        if record and record["is_ready"]:
            return
        if process is not None and process.poll() is not None:
            _fail_as_it_did(home)
        if process is None and record is None:
            raise Unavailable(f"The supervisor ended; read {_supervisor_log(home)}.", reason="SUPERVISOR_ENDED")
        if time.monotonic() > deadline:
            raise Unavailable(f"The programs did not come up; read {home.logs}.", reason="UP_LATE")
        await asyncio.sleep(LOOK_S)


def _fail_as_it_did(home: Home) -> NoReturn:
    """Raise what the background supervisor said before it ended."""
    for line in reversed(_supervisor_log(home).read_text(errors="replace").splitlines()):
        error = from_document(line)
        if error is not None:
            raise error
    raise AfinaError(f"The supervisor ended without a word; read {_supervisor_log(home)}.", reason="SUPERVISOR_ENDED")


async def _wait_for_end(name: str, process: dict[str, Any]) -> None:
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while is_alive(process["pid"], process["start_time"]):
        if time.monotonic() > deadline:
            raise Unavailable(f"The {name} (pid {process['pid']}) does not end; kill -9 it.", reason="DOWN_LATE")
        await asyncio.sleep(LOOK_S)


async def _program_status(home: Home, name: str, process: dict[str, Any]) -> dict[str, Any]:
    program = Program(name, (), {}, home.addresses[name])
    pid = process.get("pid") if process and is_alive(process["pid"], process["start_time"]) else None
    serves = await is_serving(program)
    waits_for = await readiness.missing(home, name) if serves else {}
    return {
        "name": name,
        "state": "AWAY" if not serves else "WAITING" if waits_for else "SERVING",
        "waits_for": waits_for,
        "probes_url": home.probes_url(name),
        "address": program.address,
        "pid": pid,
        "restarts": process.get("restarts", 0),
        "memory_bytes": memory_bytes([pid]) if pid else 0,
    }


def _programs_table(found: Sequence[dict[str, Any]]) -> Any:
    columns: Any = {
        "program": lambda p: p["name"],
        "state": lambda p: p["state"],
        "address": lambda p: p["address"],
        "metrics": lambda p: f"{p['probes_url']}/metrics",
        "pid": lambda p: str(p["pid"] or ""),
        "restarts": lambda p: p["restarts"],
        "memory": lambda p: size(p["memory_bytes"]) if p["memory_bytes"] else "",
    }
    return table(columns, found)


def _workloads_table(running: list[dict[str, Any]]) -> Any:
    columns: Any = {
        "workload": lambda w: w["key"],
        "what": lambda w: w["kind"],
        "memory": lambda w: size(w["memory_bytes"]),
    }
    return table(columns, running)


def _supervisor_log(home: Home) -> Path:
    return home.logs / "up.log"


@contextlib.contextmanager
def _sole_supervisor(home: Home) -> Iterator[None]:
    """Hold the installation's lock. Raises: WrongState (another supervisor has it)."""
    with (home.path / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            what = f"Afina runs already on {home.path}: `afina status` shows it, `afina down` ends it."
            raise WrongState(what, reason="UP_ALREADY") from error
        yield
