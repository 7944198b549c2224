"""A few hundred schedules of everything that can go wrong. All of them: `python -m tests.simulation`."""

import re

import pytest

from tests.simulation.chaos import CALM
from tests.simulation.schedules import WORLDS, outcome_of
from tests.simulation.world import Outcome

SCHEDULES = 240


def test_when_nothing_goes_wrong_everything_that_nobody_cancels_or_pauses_succeeds() -> None:
    for seed in range(2 * len(WORLDS)):
        outcome = outcome_of(seed, CALM)
        assert not outcome.violations
        assert set(outcome.states.values()) <= {"SUCCEEDED", "CANCELLED", "PAUSED", "FAILED", "ACTIVE"}  # models are ACTIVE


@pytest.mark.parametrize("seed", range(20, 20 + len(WORLDS)))
def test_a_schedule_is_the_same_whenever_it_is_played(seed: int) -> None:
    def shape(outcome: Outcome) -> list[str]:
        return [re.sub(r"[0-9a-f]{24}(-[0-9a-f]{6})?", "ID", line) for line in outcome.history]  # names and births are random

    assert shape(outcome_of(seed)) == shape(outcome_of(seed))


@pytest.mark.parametrize("seeds", [range(first, first + 20) for first in range(0, SCHEDULES, 20)], ids=str)
def test_nothing_is_lost_stuck_run_twice_or_ends_as_something_else(seeds: range) -> None:
    for seed in seeds:
        outcome = outcome_of(seed)
        assert not outcome.violations, "\n".join([f"python -m tests.simulation --seed {seed}", *outcome.violations])
