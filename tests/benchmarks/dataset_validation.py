"""How fast an upload becomes a Dataset, in how much memory, and how many near rows the division misses.

`python tests/benchmarks/dataset_validation.py [--megabytes 100]`. The floor is json.loads of the same lines: what it costs
in Python to look at them at all. CPU-seconds are the process's own, so that other work on the machine counts little.
"""

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proto" / "gen")]

WORDS = [f"word{i}" for i in range(20_000)]
SHAPES = {
    "short": "chat JSONL, labels, about 220 bytes a row",
    "long": "chat JSONL, free text, about 4 KB a row",
    "pairs": "question/answer JSONL, about 200 bytes a row",
    "array": "the short rows as one indented JSON array",
    "gzip": "the short rows, packed",
    "template": "short rows that differ in a few words of fifty",
}


def rows(shape: str, rng: random.Random) -> Iterator[Any]:
    """Rows of one kind, without end."""
    template = rng.choices(WORDS, k=50)
    while True:
        if shape == "pairs":
            yield {"question": " ".join(rng.choices(WORDS, k=10)), "answer": " ".join(rng.choices(WORDS, k=8))}
            continue
        words = list(template) if shape == "template" else rng.choices(WORDS, k=200 if shape == "long" else 15)
        for _ in range(6):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        answer = " ".join(rng.choices(WORDS, k=250)) if shape == "long" else rng.choice(["good", "bad"])
        asked = "Classify this review in one word: " + " ".join(words)
        yield {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def write(path: Path, shape: str, size_bytes: int) -> int:
    """Write a file of one kind and return its rows."""
    count = 0
    with gzip.open(path, "wb", 1) if shape == "gzip" else path.open("wb") as stream:
        written = stream.write(b"[\n" if shape == "array" else b"")
        for row in rows(shape, random.Random(1)):
            between = b",\n" if shape == "array" and count else b""
            indent = 2 if shape == "array" else None
            end = b"" if shape == "array" else b"\n"
            written += stream.write(between + json.dumps(row, indent=indent).encode() + end)
            count += 1
            if written >= size_bytes:
                break
        stream.write(b"]" if shape == "array" else b"")
    return count


def measure(path: Path, how: str) -> dict[str, float]:
    """Do it in this process, which does nothing else."""
    from services.common.backends.object_store.local import LocalObjectStore
    from services.dataset.dataset import Dataset, Split
    from services.dataset.version import make_version

    with tempfile.TemporaryDirectory() as folder:
        store = LocalObjectStore(Path(folder))
        with path.open("rb") as stream:
            upload = store.put("files", stream) if how == "afina" else None
        before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        begin_s = time.process_time()
        if upload:
            made = make_version(store, upload, Split())
            assert isinstance(made, Dataset), made
        else:
            with path.open("rb") as stream:
                for line in stream:
                    json.loads(line)
        spent_s = time.process_time() - begin_s
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu_s": spent_s, "peak_mb": peak_bytes / 1e6, "added_mb": (peak_bytes - before_bytes) / 1e6}


def missed(pair_count: int, *, is_template: bool) -> tuple[int, int]:
    """Plant pairs that overlap by 0.80 to 0.85 among other rows; return how many were not found, of how many."""
    import numpy as np

    from services.dataset.near_rows import Words, grams, groups, jaccard
    from services.dataset.spool import Spool

    rng = random.Random(2)
    template = rng.choices(WORDS, k=60)
    lines: list[list[str]] = []
    while len(lines) < 2 * pair_count:
        one = list(template) if is_template else rng.choices(WORDS, k=rng.randrange(30, 100))
        for _ in range(12 if is_template else 0):
            one[rng.randrange(len(one))] = rng.choice(WORDS)
        other = list(one)
        for _ in range(rng.randrange(1, 4)):
            at = rng.choice([0, len(other) - 1, rng.randrange(len(other))])
            other[at : at + 1] = rng.choice([[], [rng.choice(WORDS)]])
        sets = [grams([word.encode() for word in words]) for words in (one, other)]
        if 0.8 <= jaccard(*sets) < 0.85:
            lines += [one, other]
    with Spool() as spool:
        words = Words(spool)
        for line in lines:
            words.add(" ".join(line).encode())
        found = groups(words, np.arange(len(lines), dtype=np.uint64))
    return int((found[::2] != found[1::2]).sum()), pair_count


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        print(json.dumps(measure(Path(told.child[0]), told.child[1])))
        return
    print(f"{'file':52} {'rows':>9} {'MB/CPU-s':>9} {'floor':>7} {'peak MB':>8} {'bytes/row':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for shape in told.shapes.split(","):
            path = Path(folder) / shape
            count = write(path, shape, told.megabytes * 1_000_000)
            size_mb = told.megabytes if shape == "gzip" else path.stat().st_size / 1e6
            results = {}
            for how in ["afina", "floor"] if shape not in ("array", "gzip") else ["afina"]:
                command = [sys.executable, __file__, "--child", str(path), how]
                results[how] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            ours, floor = results["afina"], results.get("floor")
            speed = f"{size_mb / floor['cpu_s']:.1f}" if floor else "–"
            row_bytes = ours["added_mb"] * 1e6 / count
            print(
                f"{SHAPES[shape]:52} {count:9,} {size_mb / ours['cpu_s']:9.1f} {speed:>7} {ours['peak_mb']:8.0f} {row_bytes:9.0f}"
            )
            path.unlink()
    for is_template, name in ((False, "rows of their own"), (True, "rows of one template")):
        lost, count = missed(10_000, is_template=is_template)
        print(f"pairs that overlap by 0.80–0.85, {name}: {lost} of {count:,} not found")


if __name__ == "__main__":
    main()
