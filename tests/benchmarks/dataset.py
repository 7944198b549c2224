"""How fast an upload becomes a Dataset beside what people write, in how much memory, and how many near rows it misses.

    python tests/benchmarks/dataset.py [--megabytes 100] [--shapes short,long]

The peers read the same file: `json.loads` of every line (what it costs in Python to look at it at all), pydantic's own JSON
parser with a model of a chat, and Hugging Face `datasets` (load_dataset, a check of every row, a seeded division). None of
them finds near rows, tells all mistakes or keeps labels in proportion; all of them come with the `peers` extra. CPU-seconds
are those of the process and its children, so that other work on the machine counts little. `--megabytes 1000` takes minutes.
"""

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

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
    with tempfile.TemporaryDirectory() as folder:
        work = SIDES[how](path, Path(folder))
        before_bytes = _peak_bytes()
        begin_s = _cpu_s()
        work()
        spent_s = _cpu_s() - begin_s
    return {"cpu_s": spent_s, "peak_mb": _peak_bytes() / 1e6, "added_mb": (_peak_bytes() - before_bytes) / 1e6}


def _afina(path: Path, folder: Path) -> Callable[[], None]:
    from services.common.backends.object_store.local import LocalObjectStore
    from services.dataset.dataset import Dataset, Split
    from services.dataset.version import make_version

    store = LocalObjectStore(folder)
    with path.open("rb") as stream:
        upload = store.put("files", stream)

    def work() -> None:
        made = make_version(store, upload, Split())
        assert isinstance(made, Dataset), made

    return work


def _json(path: Path, folder: Path) -> Callable[[], None]:
    def work() -> None:
        with path.open("rb") as stream:
            for line in stream:
                json.loads(line)

    return work


def _pydantic(path: Path, folder: Path) -> Callable[[], None]:
    from pydantic import BaseModel, ConfigDict

    class Message(BaseModel):
        model_config = ConfigDict(extra="forbid")
        role: Literal["system", "user", "assistant", "tool"]
        content: str

    class Chat(BaseModel):
        messages: list[Message]

    def work() -> None:
        with path.open("rb") as stream:
            for line in stream:
                assert Chat.model_validate_json(line).messages[-1].role == "assistant"

    return work


def _datasets(path: Path, folder: Path) -> Callable[[], None]:
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()

    def is_good(row: dict[str, Any]) -> bool:
        messages = row["messages"]
        return messages[-1]["role"] == "assistant" and all(m["role"] in ROLES and m["content"].strip() for m in messages)

    def work() -> None:
        loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
        assert len(loaded.filter(is_good)) == len(loaded)
        loaded.train_test_split(test_size=0.2, seed=0)

    return work


ROLES = ("system", "user", "assistant", "tool")
SIDES = {"afina": _afina, "json.loads": _json, "pydantic": _pydantic, "datasets": _datasets}


def _cpu_s() -> float:
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
    print(f"load {os.getloadavg()[0]:.1f}")
    print(f"{'file':50}{'rows':>10}  {'side':12}{'MB/CPU-s':>9}{'peak MB':>9}{'bytes/row':>10}{'CPU of ours':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for shape in told.shapes.split(","):
            path = Path(folder) / f"{shape}.jsonl"
            count = write(path, shape, told.megabytes * 1_000_000)
            size_mb = told.megabytes if shape == "gzip" else path.stat().st_size / 1e6
            ours_s = 0.0
            for side in SIDES if shape in ("short", "long", "template") else ["afina"]:
                command = [sys.executable, __file__, "--child", str(path), side]
                done = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1])
                ours_s = ours_s or done["cpu_s"]
                ratio, row_bytes = done["cpu_s"] / ours_s, done["added_mb"] * 1e6 / count
                rates = f"{size_mb / done['cpu_s']:9.1f}{done['peak_mb']:9.0f}{row_bytes:10.0f}{ratio:11.2f}x"
                print(f"{SHAPES[shape]:50}{count:10,}  {side:12}{rates}", flush=True)
            path.unlink()
    for is_template, name in ((False, "rows of their own"), (True, "rows of one template")):
        lost, count = missed(10_000, is_template=is_template)
        print(f"pairs that overlap by 0.80–0.85, {name}: {lost} of {count:,} not found")


if __name__ == "__main__":
    main()
