"""Flips bits in everything that training leaves in a store, and counts how many flips are found by who reads it.

    python -m tests.learning.flips              500 flips in each file
    python -m tests.learning.flips --count 20   what `make test` does

A damaged file has one flipped bit, or is cut short, or empty, or gone, or has taken the place of another. Found means: a
checkpoint is passed over, named, for the one before it; a result, a base, a dataset or a spec is refused; a file in a
node's cache is fetched again.
"""

import argparse
import dataclasses
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from services.common.errors import ArtifactNotFound, InvalidInput
from services.common.ports.manifest import Manifest, fetch_folder
from services.trainer.worker import attempt, checkpoint
from services.trainer.worker.spec import Spec
from tests.learning.builders import Desk, Events, desk, recipe, uneven_chats
from tests.tiny_model import build_tiny_base

CHECKPOINTS = "jobs/1/checkpoints"


@dataclasses.dataclass
class Tally:
    """How many times something was damaged, and what was not noticed."""

    made: int = 0
    missed: list[str] = dataclasses.field(default_factory=list)

    def add(self, what: str, is_found: bool) -> None:
        """Count one."""
        self.made += 1
        if not is_found:
            self.missed.append(what)


def trained_job(folder: Path, base: Path) -> Desk:
    """Return a job with a result and two checkpoints, the best weights and those of an epoch among their files."""
    told = recipe(epochs=2, dropout=0.1, published_checkpoint_count=1)
    job = desk(folder, base, uneven_chats(12), uneven_chats(3), told)
    job.run(Events())
    return job


def damages(path: Path, others: list[Path], chance: random.Random, count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield ways to damage a file. `others` are files that could take its place."""
    data = path.read_bytes()

    def flip(bit: int) -> None:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)

    for bit in sorted(chance.randrange(len(data) * 8) for _ in range(count)):
        yield f"bit {bit}", lambda bit=bit: flip(bit)  # type: ignore[misc]
    for size in {0, 1, len(data) // 2, len(data) - 1}:
        yield f"cut to {size} bytes", lambda size=size: path.write_bytes(data[:size])  # type: ignore[misc]
    yield "a byte more", lambda: path.write_bytes(data + b"\0")
    yield "gone", path.unlink
    for other in others:
        if other.read_bytes() != data:
            yield f"{other.name[:8]} in its place", lambda other=other: path.write_bytes(other.read_bytes())  # type: ignore[misc]


def tally(job: Desk, count: int, seed: int = 0) -> dict[str, Tally]:
    """Damage everything, one at a time, and put it back. Returns: by what was damaged, what came of it."""
    chance = random.Random(seed)
    root = Path(job.store.url.removeprefix("file://"))
    return {
        "checkpoint": _checkpoints(job, root, chance, count),
        "result": _folder(job, root, job.spec.manifest_key, chance, count),
        "base in the store": _folder(job, root, job.spec.base["manifest_key"], chance, count),
        "base in the cache": _cache(job, chance, count),
        "dataset": _dataset(job, root, chance, count),
        "spec": _spec(job, root, chance, count),
    }


def _checkpoints(job: Desk, root: Path, chance: random.Random, count: int) -> Tally:
    """Each file of the newest checkpoint and its manifest; a file of the one before may take its place."""
    found, kept = Tally(), root / CHECKPOINTS
    newest, before = sorted((path for path in kept.glob("*.json")), reverse=True)
    files = [newest, *sorted(newest.with_suffix("").iterdir())]
    others = [before, *sorted(before.with_suffix("").iterdir())]
    spare = kept.with_name("spare")
    shutil.copytree(kept, spare)
    right = checkpoint.newest(job.store, CHECKPOINTS)[0]
    assert right is not None
    for path in files:
        for name, damage in damages(path, [*others, *(other for other in files if other != path)], chance, count):
            damage()
            is_there = newest.exists()
            used, rejected = checkpoint.newest(job.store, CHECKPOINTS)
            is_named = [newest.name in text for text in rejected] == [True] * is_there  # a manifest that is gone can't be named
            is_before = used is not None and used.progress.step == right.progress.step - 1
            found.add(f"{path.name[:8]} {name}", is_named and is_before and not newest.exists())
            shutil.rmtree(kept)
            shutil.copytree(spare, kept)
    return found


def _each(paths: list[Path], chance: random.Random, count: int, is_found: Callable[[], bool]) -> Tally:
    found = Tally()
    for path in paths:
        data = path.read_bytes()
        for name, damage in damages(path, [other for other in paths if other != path], chance, count):
            damage()
            found.add(f"{path.name[:8]} {name}", is_found())
            path.write_bytes(data)
    return found


def _refused(verb: Callable[[], object]) -> bool:
    try:
        verb()
    except (InvalidInput, ArtifactNotFound):
        return True
    return False


def _folder(job: Desk, root: Path, key: str, chance: random.Random, count: int) -> Tally:
    """A manifest and the files that it names, as who fetches them reads them."""
    names = {file.artifact.key for file in Manifest.from_json(job.store.read(key)).files}

    def fetch() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            fetch_folder(job.store, Manifest.from_json(job.store.read(key)), Path(scratch))

    return _each([root / key, *(root / name for name in sorted(names))], chance, count, lambda: _refused(fetch))


def _cache(job: Desk, chance: random.Random, count: int) -> Tally:
    manifest = Manifest.from_json(job.store.read(job.spec.base["manifest_key"]))
    folder = fetch_folder(job.store, manifest, job.cache)
    right = {path: path.read_bytes() for path in sorted(folder.iterdir())}

    def is_mended() -> bool:
        fetch_folder(job.store, manifest, job.cache)
        return all(path.read_bytes() == data for path, data in right.items())

    return _each(list(right), chance, count, is_mended)


def _dataset(job: Desk, root: Path, chance: random.Random, count: int) -> Tally:
    parts = {part: job.spec.part(part) for part in ("train", "validation")}
    paths = [root / artifact.key for artifact in parts.values() if artifact]
    return _each(paths, chance, count, lambda: _refused(lambda: [attempt.read_chats(job.store, job.spec, p) for p in parts]))


def _spec(job: Desk, root: Path, chance: random.Random, count: int) -> Tally:
    key = "jobs/1/spec-1.json"
    right = Spec.from_json(job.store.read(key))

    def is_found_or_the_same() -> bool:
        try:
            return Spec.from_json(job.store.read(key)) == right  # in the name of the seal itself a flip changes nothing
        except (InvalidInput, ArtifactNotFound):
            return True

    return _each([root / key], chance, count, is_found_or_the_same)


def main() -> int:
    """Damage, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="flips in each file")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # each mended file of a cache is told
    disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="afina-flips-") as scratch:
        job = trained_job(Path(scratch, "job"), build_tiny_base(Path(scratch, "base")))
        tallies = tally(job, asked.count)
    for what, counted in tallies.items():
        print(f"{what}: {counted.made} damaged, {counted.made - len(counted.missed)} found", *counted.missed[:20])
    return 1 if any(counted.missed for counted in tallies.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
