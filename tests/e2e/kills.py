"""`python -m tests.e2e.kills --pairs N --seed S`: the main job again and again, two kills in each, drawn by seed.

Each line says who was killed at which point of the job, after how long, what clients saw of it, and how it ended. Pair K of a
seed is always the same two kills: `--first K --pairs 1` plays it again.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.e2e.main_job import MOMENTS, Kill, MainJob
from tests.e2e.outcome import check
from tests.e2e.world import EVALUATION_WORKER, VICTIMS, WORKER, World, opened

ONLY_AT = {WORKER: ("training",), EVALUATION_WORKER: ("evaluation",)}


def draw(seed: int, number: int) -> list[Kill]:
    """Return the two kills of a pair, in the order in which the job comes to them; the same victim twice is a pair too.

    Of two at one moment a worker dies first: it would not wait for the other.
    """
    drawn = random.Random(f"{seed}/{number}")
    victims = [drawn.choice(VICTIMS), drawn.choice(VICTIMS)]
    kills = [Kill(victim, drawn.choice(ONLY_AT.get(victim, MOMENTS))) for victim in victims]
    return sorted(kills, key=lambda kill: (MOMENTS.index(kill.moment), kill.victim not in ONLY_AT))


async def play(world: World, project: str, kills: list[Kill], adapter_sha256: str) -> str:
    """Play one main job, print how it went, and return the digest of its adapter. Raises: AssertionError, and what it met."""
    before, begin_s = world.log_counts(), time.monotonic()
    plan = " + ".join(f"{kill.victim} at {kill.moment}" for kill in kills) or "nobody"
    try:
        story = await MainJob(world, project, kills).run()
        digest = await check(world, story, adapter_sha256)
        assert not world.errors(before), world.errors(before)
    except BaseException:
        print(f"{project}: {plan}: FAILED after {time.monotonic() - begin_s:.0f} s", flush=True)
        raise
    attempts = sum(event.message.endswith("runs.") for event in story.events)
    resumed = [f"after step {event.data['step']:.0f}" for event in story.events if event.type == "RESUMED"]
    print(f"{project}: {plan}: right after {story.duration_s:.0f} s; {attempts} attempts {', '.join(resumed)}", flush=True)
    for told in [*story.done, *(f"a client saw: {error[:160]}" for error in story.errors)]:
        print(f"    {told}", flush=True)
    return digest


async def main(pairs: int, seed: int, first: int) -> int:
    """Play an undisturbed job, then the pairs. Returns: how many failed."""
    failed: list[int] = []
    playing = asyncio.current_task()
    assert playing is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)  # workloads would outlive this otherwise
    with tempfile.TemporaryDirectory(prefix="afina-kills-") as folder:
        async with opened(Path(folder)) as world:
            digest = await play(world, "undisturbed", [], "")
            for number in range(first, first + pairs):
                try:
                    await play(world, f"pair-{number}", draw(seed, number), digest)
                except Exception:  # the next pairs are played whatever became of this one
                    traceback.print_exc(file=sys.stdout)
                    failed.append(number)
    print(f"{pairs - len(failed)} of {pairs} pairs ended right (seed {seed}).")
    for number in failed:
        print(f"Again: python -m tests.e2e.kills --seed {seed} --first {number} --pairs 1")
    return len(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kills two parts of Afina in the middle of the main job, again and again.")
    parser.add_argument("--pairs", type=int, default=15, help="how many main jobs")
    parser.add_argument("--seed", type=int, default=0, help="which kills are drawn")
    parser.add_argument("--first", type=int, default=0, help="the number of the first pair")
    told = parser.parse_args()
    sys.exit(min(1, asyncio.run(main(told.pairs, told.seed, told.first))))
