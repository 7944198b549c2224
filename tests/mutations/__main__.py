"""Breaks the code in one line at a time, and sees whether the tests notice.

    python -m tests.mutations                    all of them; prints which are caught and which are missed
    python -m tests.mutations --only gate        those whose name begins so
    python -m tests.mutations --slice 0/4        a quarter of them
    python -m tests.mutations --json             one JSON object a line

The tree is copied to a temporary folder, so nothing here is touched. First the named tests run unchanged: a test that fails
anyway catches nothing. Then each mutation runs its own tests, until the first that fails. The list is `mutations.py`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutations.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".afina", "__pycache__", ".*_cache", ".hypothesis")
TIMEOUT_S = 900
ALL_PASSED, SOME_FAILED = 0, 1  # Source: pytest, "Exit codes"


@dataclass(frozen=True)
class Outcome:
    """What came of one mutation: CAUGHT, MISSED, or BROKEN where the tests could not even be collected."""

    name: str
    result: str
    seconds: float
    why: str
    told: str  # the test that caught it, or pytest's last words


def main() -> int:
    """Run what is asked for. Returns: 1 where a mutation was missed or a list entry has rotted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--slice", default="0/1", help="I/N: each N-th mutation from the I-th on")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--no-baseline", action="store_true", help="believe that the tests pass unchanged")
    asked = parser.parse_args()
    index, parts = map(int, asked.slice.split("/"))
    chosen = [mutation for mutation in MUTATIONS if mutation.name.startswith(asked.only)][index::parts]
    with tempfile.TemporaryDirectory(prefix="afina-mutations-") as scratch:
        tree = Path(scratch, "tree")
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT, symlinks=True)
        if not asked.no_baseline:
            _require_passing(tree, chosen)
        outcomes = []
        for mutation in chosen:
            outcomes.append(outcome := _try(tree, mutation))
            line = f"{outcome.result:7} {outcome.name:40} {outcome.seconds:5.0f} s  {outcome.told}"
            print(json.dumps(asdict(outcome)) if asked.json else line, flush=True)
    missed = [outcome for outcome in outcomes if outcome.result != "CAUGHT"]
    if not asked.json:
        print(f"{len(outcomes) - len(missed)} of {len(outcomes)} caught.")
        for outcome in missed:
            print(f"{outcome.result}: {outcome.name}: {outcome.why}")
    return 1 if missed else 0


def _require_passing(tree: Path, chosen: Sequence[Mutation]) -> None:
    for tests in dict.fromkeys(mutation.tests for mutation in chosen):
        code, told = _run(tree, tests)
        if code != ALL_PASSED:
            raise SystemExit(f"{' '.join(tests)} fails without any mutation: {told}")


def _try(tree: Path, mutation: Mutation) -> Outcome:
    begin_s = time.monotonic()
    path = tree / mutation.file
    before = path.read_text()
    path.write_text(mutation.applied_to(before))
    try:
        code, told = _run(tree, mutation.tests)
    finally:
        path.write_text(before)
    result = {ALL_PASSED: "MISSED", SOME_FAILED: "CAUGHT"}.get(code, "BROKEN")
    return Outcome(mutation.name, result, time.monotonic() - begin_s, mutation.why, told)


def _run(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests in the copied tree. Returns: pytest's exit code, and the first failure or its last line."""
    # One thread: on shared cores several wait for one another, many times as long as these tiny models take.
    settings = {"PYTHONPATH": f"{tree}:{tree}/proto/gen", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **settings}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout", "240", *tests]
    try:
        ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return SOME_FAILED, f"hung for {TIMEOUT_S} s"
    lines = ended.stdout.strip().splitlines() or ended.stderr.strip().splitlines() or [""]
    failed = [line.removeprefix("FAILED ").partition(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return ended.returncode, failed[0] if failed else lines[-1]


if __name__ == "__main__":
    sys.exit(main())
