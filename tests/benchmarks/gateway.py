"""What the gateway adds to a model server's answers, beside the LiteLLM proxy, on the same deterministic upstream in one run.

    python tests/benchmarks/gateway.py [--seconds 8] [--rounds 5] [--without-peer] [--json] [--plot FILE]

Afina is the program itself with everything on: key lookup, routes over gRPC, the model's name rewritten and checked, digest
header, usage, metrics. LiteLLM gets one master key, no database and no Prometheus, which is less work. It is installed into an
environment of its own under the cache folder. CPU-seconds are the proxy's process and its children, so that whatever else
runs counts little; latency is taken in turns with the bare upstream, so that what else runs counts for both. On a machine with
neighbours, `chrt -r 1 python …` keeps their time slices out of the 99th percentile.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proto" / "gen")]

from tests.benchmarks.load.chat import DIGEST, Client, Refused, Target  # noqa: E402
from tests.builders import eventually, free_port  # noqa: E402

PEER = "litellm[proxy]==1.106.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "afina" / "benchmarks"
MODEL = "bench"
CLIENTS = 64
REQUESTS_A_ROUND = 200


async def latencies(targets: list[Target], rounds: int) -> dict[str, list[float]]:
    """Ask with one client, in turns, and return the milliseconds of each answer."""
    clients = {target.name: Client(target) for target in targets}
    taken: dict[str, list[float]] = {target.name: [] for target in targets}
    for round_number in range(rounds + 1):
        for name, client in clients.items():
            seconds = [await client.ask() for _ in range(REQUESTS_A_ROUND)]
            if round_number:  # the first warms up
                taken[name] += [1000 * each for each in seconds]
    for client in clients.values():
        client.close()
    return taken


async def rate(target: Target, seconds: float, *, is_streamed: bool, pace: str = "") -> float:
    """Return answers, or events, per CPU-second with 64 clients that ask without a pause."""
    clients = [Client(target, is_streamed=is_streamed, pace=pace) for _ in range(CLIENTS)]
    end, answered = 0.0, 0

    async def ask_on(client: Client) -> None:
        nonlocal answered
        while time.monotonic() < end:
            await client.ask()
            answered += 1

    for is_measured in (False, True):  # the first warms up
        end = time.monotonic() + (seconds if is_measured else 1.0)
        answered, before_s = 0, target.cpu_s()
        for client in clients:
            client.events = 0
        await asyncio.gather(*map(ask_on, clients))
    used_s = target.cpu_s() - before_s
    for client in clients:
        client.close()
    return (sum(client.events for client in clients) if is_streamed else answered) / used_s


async def measure(told: argparse.Namespace) -> dict[str, Any]:
    """Start upstream and proxies, and return every figure."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="afina-bench-")))
        upstream = Target("upstream", free_port(), DIGEST, "upstream-key")
        command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "load" / "chat.py"), str(upstream.port)]
        await stack.enter_async_context(_program(upstream, command, {}, folder))
        proxies = [await stack.enter_async_context(_afina(folder, upstream))]
        if not told.without_peer:
            proxies.append(await stack.enter_async_context(_litellm(folder, upstream)))
        taken = await latencies([upstream, *proxies], told.rounds)
        bare = _percentiles(taken["upstream"])
        results: dict[str, Any] = {"upstream": {"p50_ms": bare[0], "p99_ms": bare[1]}}
        for proxy in proxies:
            p50_ms, p99_ms = _percentiles(taken[proxy.name])
            results[proxy.name] = {
                "added_p50_ms": p50_ms - bare[0],
                "added_p99_ms": p99_ms - bare[1],
                "requests_per_cpu_s": await rate(proxy, told.seconds, is_streamed=False),
                "events_per_cpu_s": await rate(proxy, told.seconds, is_streamed=True),
                "steady_events_per_cpu_s": await rate(proxy, told.seconds, is_streamed=True, pace="steady"),
            }
        results["load"] = os.getloadavg()[0]
        return results


def _percentiles(milliseconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(milliseconds, n=100)
    return cuts[49], cuts[98]


@contextlib.asynccontextmanager
async def _program(target: Target, command: list[str], environment: dict[str, str], folder: Path) -> AsyncIterator[Target]:
    """Run a program until the block ends, from when it answers a chat."""
    log = folder / f"{target.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output, cwd=folder)
    try:
        target.process = psutil.Process(process.pid)

        async def answers() -> bool:
            if process.poll() is not None:
                raise SystemExit(f"{target.name} did not start:\n{log.read_text(errors='replace')[-4000:]}")
            with contextlib.suppress(OSError, Refused):  # not there, or not ready
                await Client(target).ask()
                return True
            return False

        await eventually(answers, timeout_s=180)
        yield target
    finally:
        process.terminate()
        process.wait(30)


@contextlib.asynccontextmanager
async def _afina(folder: Path, upstream: Target) -> AsyncIterator[Target]:
    from tests.fakes_upstream import ScriptedInference

    async with ScriptedInference().running() as inference:
        inference.put(MODEL, "models/bench", DIGEST, _replica(upstream), kind="base")
        target, key_file = Target("afina", free_port(), MODEL, ""), folder / "key"
        environment = {
            "DATABASE": f"sqlite:///{folder}/gateway.db",
            "API_KEY_FILE": str(key_file),
            "GATEWAY_HTTP_ADDRESS": f"127.0.0.1:{target.port}",
            "GATEWAY_ADDRESS": f"127.0.0.1:{free_port()}",
            "GATEWAY_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
            "INFERENCE_ADDRESS": inference.address,
            "AFINA_SERVICE_TOKEN": os.environ["AFINA_SERVICE_TOKEN"],
            "PYTHONPATH": os.pathsep.join(sys.path[:2]),
        }
        key = asyncio.create_task(_read_when_there(key_file, lambda text: setattr(target, "key", text)))
        async with _program(target, [sys.executable, "-m", "services.gateway"], environment, folder):
            await key
            yield target


async def _read_when_there(file: Path, take: Callable[[str], Any]) -> None:
    take((await eventually(lambda: file.exists() and file.read_text(), timeout_s=60)).strip())


def _replica(upstream: Target) -> Any:
    from afina.v1 import model_pb2

    return model_pb2.Replica(url=f"http://127.0.0.1:{upstream.port}", served_name=upstream.model, api_key=upstream.key)


@contextlib.asynccontextmanager
async def _litellm(folder: Path, upstream: Target) -> AsyncIterator[Target]:
    target = Target("litellm", free_port(), MODEL, "sk-bench")
    asked = {"model": f"openai/{upstream.model}", "api_base": f"http://127.0.0.1:{upstream.port}/v1", "api_key": upstream.key}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": asked}],
        "general_settings": {"master_key": target.key},
        "litellm_settings": {"telemetry": False},
    }
    (folder / "litellm.json").write_text(json.dumps(config))  # JSON is YAML
    program = _installed() / "bin" / "litellm"
    command = [str(program), "--config", "litellm.json", "--host", "127.0.0.1", "--port", str(target.port), "--num_workers", "1"]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "PYTHONPATH": ""}
    async with _program(target, command, environment, folder):
        yield target


def _installed() -> Path:
    """Return an environment with the peer in it, made now if it is not there."""
    folder = CACHE / PEER.replace("[proxy]==", "-")
    if not (folder / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", PEER], check=True)
    return folder


def _told(results: dict[str, Any]) -> str:
    lines = [f"{'':24}" + "".join(f"{name:>12}" for name in results if name in ("afina", "litellm")) + f"{'ratio':>9}"]
    for figure, label in FIGURES.items():
        values = [results[name][figure] for name in ("afina", "litellm") if name in results]
        ratio = (values[1] / values[0] if figure.endswith("_ms") else values[0] / values[1]) if len(values) == 2 else None
        digits = 3 if figure.endswith("_ms") else 0
        told = "".join(f"{value:12.{digits}f}" for value in values)
        lines.append(f"{label:24}{told}" + (f"{ratio:8.1f}x" if ratio else ""))
    bare = results["upstream"]
    lines.append(f"bare upstream: p50 {bare['p50_ms']:.3f} ms, p99 {bare['p99_ms']:.3f} ms; load {results['load']:.1f}")
    return "\n".join(lines)


FIGURES = {
    "added_p50_ms": "added p50, ms",
    "added_p99_ms": "added p99, ms",
    "requests_per_cpu_s": "requests per CPU-second",
    "events_per_cpu_s": "events per CPU-second",
    "steady_events_per_cpu_s": "same, at a steady pace",
}


def _plot(results: dict[str, Any], file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in ("afina", "litellm") if name in results]
    _, axes = pyplot.subplots(1, len(FIGURES), figsize=(12, 3), layout="constrained")
    for axis, (figure, label) in zip(axes, FIGURES.items(), strict=True):
        axis.bar_label(axis.bar(names, [results[name][figure] for name in names]), fmt="%.3g")
        axis.set_title(label)
        axis.set_yscale("log")
    pyplot.savefig(file)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")
    parser.add_argument("--rounds", type=int, default=5, help=f"of {REQUESTS_A_ROUND} requests for the latencies")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", metavar="FILE", help="an image, by its ending")
    told = parser.parse_args()
    results = uvloop.run(measure(told))
    print(json.dumps(results) if told.json else _told(results))
    if told.plot:
        _plot(results, told.plot)


if __name__ == "__main__":
    main()
