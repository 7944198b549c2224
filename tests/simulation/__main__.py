"""`python -m tests.simulation`: play many schedules, or show what happened in one (`--seed N`)."""

import argparse
import collections
import multiprocessing
import sys
import time
import traceback

from rich.console import Console
from rich.progress import track

from tests.simulation.schedules import outcome_of, world_of
from tests.simulation.world import Outcome

TOLD_FAILURES = 20


def played(seed: int) -> Outcome:
    """Play the schedule of a seed; one that can't be played to its end is wrong, and says where it broke."""
    try:
        return outcome_of(seed)
    except Exception:
        return Outcome(seed, [traceback.format_exc().strip()], [], {}, {})


def main() -> int:
    """Return 0 where every schedule ended as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seed", type=int, help="play one and tell what happened")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    asked = parser.parse_args()
    if asked.seed is not None:
        outcome = played(asked.seed)
        states = [f"{name}: {state}" for name, state in outcome.states.items()]
        print("\n".join([*outcome.history, "", *states, *outcome.violations]))
        return bool(outcome.violations)
    return _play(range(asked.first, asked.first + asked.schedules), asked.processes)


def _play(seeds: range, processes: int) -> int:
    begin_s, out = time.monotonic(), Console()
    failed: list[Outcome] = []
    states: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    schedules: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    with multiprocessing.Pool(processes) as pool:
        for outcome in track(pool.imap_unordered(played, seeds, chunksize=10), "schedules", total=len(seeds), console=out):
            world = world_of(outcome.seed).__name__
            schedules[world] += 1
            states[world].update(outcome.states.values())
            counts.update(outcome.counts)
            if outcome.violations:
                failed.append(outcome)
                if len(failed) <= TOLD_FAILURES:
                    out.print(f"seed {outcome.seed}: {'; '.join(outcome.violations[:3])}", markup=False, highlight=False)
    print(f"{len(seeds)} schedules in {time.monotonic() - begin_s:.0f} s on {processes} processes.")
    for world, count in schedules.items():
        told = ", ".join(f"{number} {state}" for state, number in states[world].most_common())
        print(f"  {world}: {count} schedules, {states[world].total()} resources ended: {told}.")
    print(f"  On the way: {', '.join(f'{number} {what}' for what, number in counts.items())}.")
    if failed:
        print(f"{len(failed)} went wrong; play one again: python -m tests.simulation --seed {failed[0].seed}")
    else:
        print("All ended as they should.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
