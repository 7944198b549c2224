"""Kills a training attempt before each thing that it asks of its store, and sees that the next one ends the same.

    python -m tests.learning.kill_points            one point of each kind (a minute)
    python -m tests.learning.kill_points --all      every point of a job of twenty steps, each step, and pairs of kills
    python -m tests.learning.kill_points --all --s3 the same before every request to a real S3 server

How: Python tells an audit hook of every file that is opened, linked, replaced or removed, and of every HTTP request that
is sent, before it happens. An undisturbed attempt counts them; then, for each, an attempt is ended by SIGKILL right there
and another one runs. "Before the next" is "after the last", so the gap between any two writes is tried. Nothing is
replaced in the code under test. Each attempt is a child forked from one parent that has loaded torch, whose threads are
one, since OpenMP's do not survive a fork; the parent never computes a gradient, since autograd's do not either.

What has to be the same: the adapter and what is published beside it by digest, every metric but the times, the best step,
and the newest checkpoint with the optimiser, both random states and the progress. At most one step is computed again.
"""

import argparse
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from services.common.backends import choose
from services.common.ports.manifest import Manifest
from services.trainer.worker import attempt
from services.trainer.worker.loop import Stopped
from services.trainer.worker.spec import Spec
from tests.learning.builders import Desk, desk, recipe, uneven_chats
from tests.servers import S3Server
from tests.tiny_model import build_tiny_base

WATCHED = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.chmod", "http.client.send"}
TIMES = ("tokens_per_s",)
TOLD = recipe(
    epochs=5,
    dropout=0.1,
    learning_rate=2e-2,
    published_checkpoint_count=2,
    early_stopping_patience=3,
    validation_interval_steps=2,
)
EARLY = dataclasses.replace(TOLD, learning_rate=0.3, early_stopping_patience=2)  # it has lost its patience before the end
STOPPED = 75
WORKERS = 2


@dataclasses.dataclass(frozen=True)
class Life:
    """One attempt: the signal that it gets before its n-th point or after a step, or none."""

    number: signal.Signals | None = None
    point: int | None = None
    step: int | None = None

    def __str__(self) -> str:
        where = f"point {self.point}" if self.point is not None else f"step {self.step}"
        return f"{self.number.name} at {where}" if self.number else "to its end"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Lives that follow one another, the last of them undisturbed."""

    name: str
    lives: tuple[Life, ...]


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all scenarios of one recipe share: the job as it begins, a warm cache, and how it ends when nobody disturbs it."""

    folder: Path
    url: str  # of the store; a scenario on S3 has a prefix of its own below it
    recipe_name: str
    ended: dict[str, Any]
    points: tuple[str, ...]


class Points:
    """Counts what this process asks of its store; sends it a signal before the n-th."""

    def __init__(self, folder: Path, life: Life) -> None:
        self.seen: list[str] = []
        self._folder, self._life = str(folder), life
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WATCHED:
            return
        path = str(arguments[0]) if event != "http.client.send" else _request(arguments[1])
        if not path or (event != "http.client.send" and not path.startswith(self._folder)):
            return
        if self._life.number and len(self.seen) == self._life.point:
            os.kill(os.getpid(), self._life.number)
        self.seen.append(f"{event} {_kind(path.removeprefix(self._folder))}")


def _request(data: Any) -> str:
    """Return the first line of a request; nothing for a body that follows it."""
    head = bytes(data[:200]) if isinstance(data, bytes | bytearray) else b""
    return head.split(b"\r\n")[0].decode(errors="replace") if b" HTTP/" in head else ""


def _kind(path: str) -> str:
    """Return a path without what differs between two of its kind."""
    path = re.sub(r"[0-9a-f]{64}", "DIGEST", path)
    path = re.sub(r"\d{8}-\d{4}", "STEP", path)
    return re.sub(r"/\.staging/\w+", "/.staging/FILE", path)


# --- one life --------------------------------------------------------------------------------------------------------


def live(job: Desk, life: Life, number: int, notes: Path, watched: Path) -> tuple[int, list[str]]:
    """Run an attempt in a forked child. Returns: its exit code, negative for a signal, and the points that it passed."""
    points_path = notes / f"points-{number}.json"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # makes the pool anew that did not survive the fork, before two threads do it at once
            code = _attempt(job, life, number, notes, watched, points_path)
        except BaseException:
            (notes / f"error-{number}.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    points = json.loads(points_path.read_text()) if points_path.exists() else []
    return os.waitstatus_to_exitcode(status), points


def _attempt(job: Desk, life: Life, number: int, notes: Path, watched: Path, points_path: Path) -> int:
    is_told = False

    def note_stop(*_: object) -> None:
        nonlocal is_told
        is_told = True

    signal.signal(signal.SIGTERM, note_stop)
    spec = dataclasses.replace(job.spec, attempt=number)
    store = choose.object_store(job.store.url)
    with (notes / "events.jsonl").open("a", buffering=1) as events:

        def report(type: str, message: str, data: Any = None, level: str = "INFO") -> None:
            events.write(json.dumps([number, type, dict(data or {}).get("step")]) + "\n")
            if type == "STEP" and data["step"] == life.step and life.number:
                os.kill(os.getpid(), life.number)

        points = Points(watched, life)
        try:
            attempt.run(spec, store, job.cache, report, lambda: is_told, 0.0)
        except Stopped:
            return STOPPED
        finally:
            points_path.write_text(json.dumps(points.seen))
    return 0


# --- what has to be the same -----------------------------------------------------------------------------------------


def outcome(job: Desk) -> dict[str, Any]:
    """Return all that has to be the same, whatever happened on the way."""
    store = job.store
    manifest = Manifest.from_json(store.read(job.spec.manifest_key))
    published = [Manifest.from_json(store.read(p["manifest_key"])).digest for p in manifest.data["published_checkpoints"]]
    saved = sorted(key for key in store.list(f"{job.spec.checkpoint_prefix}/") if key.endswith(".json"))
    newest = Manifest.from_json(store.read(saved[-1]))
    state = json.loads(store.read_artifact(newest.file("state.json")))
    progress = {k: v for k, v in state["progress"].items() if k not in ("train_s", "validate_s")}
    progress["metrics"] = [_without_times(metric) for metric in progress["metrics"]]
    named = {f.artifact.key for key in saved for f in Manifest.from_json(store.read(key)).files}
    left = {key for key in store.list(f"{job.spec.checkpoint_prefix}/") if not key.endswith(".json")}
    return {
        "adapter": manifest.digest,
        "published": published,
        "metrics": [_without_times(metric) for metric in manifest.data["metrics"]],
        **{name: manifest.data[name] for name in ("validation", "best_step", "steps", "trained_tokens")},
        "checkpoint": {f.path: f.artifact.sha256 for f in newest.files if f.path != "state.json"},
        "progress": progress,
        "python_random": state["python_random"],
        "checkpoints": len(saved),
        "orphans": sorted(left - named),
    }


def _without_times(metric: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metric.items() if name not in TIMES}


def differences(job: Desk, bench: Bench, notes: Path) -> list[str]:
    """Return what is not as it would have been."""
    now = json.loads(json.dumps(outcome(job)))
    found = [f"{name} differs: {now[name]!r:.200} {bench.ended[name]!r:.200}" for name in now if now[name] != bench.ended[name]]
    told = [json.loads(line) for line in (notes / "events.jsonl").read_text().splitlines()]
    done: dict[int, int] = {}
    for number, type, step in told:
        if type == "STEP":
            done[number] = step
        if type == "RESUMED" and (lost := max((done[n] for n in done if n < number), default=0) - step) > 1:
            found.append(f"attempt {number} computes {lost} steps again")
    return found


# --- scenarios -------------------------------------------------------------------------------------------------------


def run_scenario(bench: Bench, scenario: Scenario) -> tuple[str, list[str], float]:
    """Live all lives of a scenario on a copy of the job. Returns: its name, what went wrong, and the seconds."""
    begin_s = time.monotonic()
    notes = Path(tempfile.mkdtemp(prefix="kill-", dir=bench.folder.parent))
    found: list[str] = []
    try:
        job, watched = copy_of(bench, notes)
        for number, life in enumerate(scenario.lives, start=1):
            code, _ = live(job, life, number, notes, watched)
            right = {signal.SIGKILL: (-9, 0), signal.SIGTERM: (STOPPED, 0), None: (0,)}[life.number]
            if code not in right:
                errors = " ".join(path.read_text()[-600:] for path in notes.glob("error-*.txt"))
                found.append(f"attempt {number}, {life}, ended with {code} {errors}")
        found += differences(job, bench, notes)
    except Exception as error:
        found.append(repr(error))
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    return scenario.name, found, time.monotonic() - begin_s


def copy_of(bench: Bench, notes: Path) -> tuple[Desk, Path]:
    """Return a job of its own that has not begun, and the folder whose changes are points."""
    told = {"told": TOLD, "early": EARLY}[bench.recipe_name]
    if bench.url.startswith("s3://"):
        store = choose.object_store(f"{bench.url}/{notes.name}")
        job = desk(notes, bench.folder / "base", uneven_chats(16), uneven_chats(4), told, store)
        return dataclasses.replace(job, cache=bench.folder / "cache"), notes / "none"
    shutil.copytree(bench.folder / "store", notes / "store", copy_function=os.link)
    store = choose.object_store(f"file://{notes}/store")
    spec = dataclasses.replace(desk_of(bench.folder).spec, recipe=told)
    return Desk(store, bench.folder / "cache", spec), notes / "store"


def desk_of(folder: Path) -> Desk:
    """Return the job that `open_bench` put into a folder."""
    store = choose.object_store(f"file://{folder}/store")
    return Desk(store, folder / "cache", Spec.from_json(store.read("jobs/1/spec-1.json")))


@contextmanager
def open_bench(recipe_name: str, s3: str = "") -> Iterator[Bench]:
    """Make the job, warm the parent without a gradient, and count the points of an attempt that nobody disturbs."""
    with tempfile.TemporaryDirectory(prefix="afina-kills-") as scratch:
        folder = Path(scratch, "bench")
        folder.mkdir()
        base = build_tiny_base(folder / "base")
        job = desk(folder, base, uneven_chats(16), uneven_chats(4), {"told": TOLD, "early": EARLY}[recipe_name])
        attempt.load(job.spec, job.store, job.cache, lambda *_, **__: None)
        bench = Bench(folder, s3, recipe_name, {}, ())
        notes = Path(scratch, "straight")
        notes.mkdir()
        straight, watched = copy_of(bench, notes)
        code, points = live(straight, Life(), 1, notes, watched)
        assert code == 0, [path.read_text() for path in notes.glob("error-*.txt")]
        yield dataclasses.replace(bench, ended=json.loads(json.dumps(outcome(straight))), points=tuple(points))


KILL, TERM = signal.SIGKILL, signal.SIGTERM


def one_of_each(points: Sequence[str]) -> list[Scenario]:
    """A kill before one point of each kind: the last of its kind, when there are older checkpoints to forget."""
    last = {kind: at for at, kind in enumerate(points)}
    kills = [Scenario(f"{kind} ({at})", (Life(KILL, at), Life())) for kind, at in sorted(last.items(), key=lambda i: i[1])]
    middle = len(points) // 2
    twice = Scenario("twice, the second time while it reads the checkpoint", (Life(KILL, middle), Life(KILL, 4), Life()))
    stops = [Scenario(f"SIGTERM at {at}", (Life(TERM, at), Life())) for at in (0, middle, len(points) - 2)]
    return [*kills, twice, *stops]


def all_of(bench: Bench) -> list[Scenario]:
    """Every point, every step, SIGTERM at every fifth point, and seeded pairs."""
    chance, count = random.Random(0), len(bench.points)
    steps = range(1, len(bench.ended["metrics"]) + 1)
    pairs = [(chance.randrange(count), chance.randrange(count)) for _ in range(60)]
    return [
        *(Scenario(f"SIGKILL after step {step}", (Life(KILL, step=step), Life())) for step in steps),
        *(Scenario(f"SIGTERM after step {step}", (Life(TERM, step=step), Life())) for step in steps),
        *(Scenario(f"SIGKILL before {at}: {kind}", (Life(KILL, at), Life())) for at, kind in enumerate(bench.points)),
        *(Scenario(f"SIGTERM before {at}", (Life(TERM, at), Life())) for at in range(0, count, 5)),
        *(Scenario(f"while it restores, at {at}", (Life(KILL, count // 2), Life(KILL, at), Life())) for at in range(12)),
        *(Scenario(f"SIGKILL before {a}, then {b}", (Life(KILL, a), Life(KILL, b), Life())) for a, b in pairs),
    ]


def run_all(bench: Bench, scenarios: Sequence[Scenario], tell: Callable[[str], None]) -> int:
    """Run scenarios a few at a time. Returns: how many did not end the same."""
    failed, begin_s = 0, time.monotonic()
    with ProcessPoolExecutor(WORKERS, get_context("fork")) as pool:
        for done, future in enumerate(as_completed([pool.submit(run_scenario, bench, s) for s in scenarios]), start=1):
            name, found, _ = future.result()
            failed += bool(found)
            for text in found:
                tell(f"FAILED {name}: {text}")
            if done % 25 == 0 or done == len(scenarios):
                tell(f"{done} of {len(scenarios)} scenarios, {failed} failed, {time.monotonic() - begin_s:.0f} s")
    return failed


def main() -> int:
    """Run what is asked for and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every point, not one of each kind")
    parser.add_argument("--s3", action="store_true", help="on a real S3 server instead of a folder")
    parser.add_argument("--recipe", choices=("told", "early"), default="told", help="early: the job stops early")
    parser.add_argument("--slice", default="0/1", help="I/N: only each N-th scenario from the I-th on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    server = S3Server() if asked.s3 else None
    try:
        if server:
            server.start()
        with open_bench(asked.recipe, _s3_url(server) if server else "") as bench:
            chosen = all_of(bench) if asked.all else one_of_each(bench.points)
            index, parts = map(int, asked.slice.split("/"))
            chosen = chosen[index::parts]
            steps = len(bench.ended["metrics"])
            print(f"{len(bench.points)} points in {steps} steps; {len(chosen)} scenarios.", flush=True)
            failed = run_all(bench, chosen, lambda text: print(text, flush=True))
    finally:
        if server:
            server.stop()
    print(f"{len(chosen) - failed} of {len(chosen)} ended the same, bit for bit.")
    return 1 if failed else 0


def _s3_url(server: S3Server) -> str:
    """Return the server's URL, with what opens it in the environment of all children."""
    store = server.store("kills")
    os.environ.update(server.environ)
    return store.url


if __name__ == "__main__":
    sys.exit(main())
