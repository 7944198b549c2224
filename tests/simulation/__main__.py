"""`python -m tests.simulation`: play many schedules, or show what happened in one (`--seed N`)."""

import argparse
import collections
import logging
import multiprocessing
import sys

from rich.console import Console
from rich.progress import track

from tests.simulation.chaos import Odds
from tests.simulation.jobs import Outcome, Schedule
from tests.simulation.virtual_time import play


def outcome_of(seed: int) -> Outcome:
    """Play the schedule of a seed."""
    logging.disable(logging.CRITICAL)
    return play(lambda loop: Schedule(seed, loop, Odds()).play())


def main() -> int:
    """Return 0 where every schedule ended as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seed", type=int, help="play one and tell what happened")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    asked = parser.parse_args()
    if asked.seed is not None:
        outcome = outcome_of(asked.seed)
        print("\n".join([*outcome.history, "", *map(str, outcome.states.items()), *outcome.violations]))
        return bool(outcome.violations)
    seeds = range(asked.first, asked.first + asked.schedules)
    failed: list[Outcome] = []
    states: collections.Counter[str] = collections.Counter()
    deaths = launches = 0
    out = Console()
    with multiprocessing.Pool(asked.processes) as pool:
        played = pool.imap_unordered(outcome_of, seeds, chunksize=10)
        for outcome in track(played, "schedules", total=len(seeds), console=out):
            states.update(outcome.states.values())
            deaths += outcome.death_count
            launches += outcome.launch_count
            if outcome.violations:
                failed.append(outcome)
                out.print(f"seed {outcome.seed}: {'; '.join(outcome.violations)}")
    print(f"{len(seeds)} schedules, {sum(states.values())} jobs {dict(states)}, {launches} launches, {deaths} programs killed.")
    print(f"{len(failed)} went wrong." if failed else "All ended as they should.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
