"""A few hundred schedules of everything that can go wrong. All of them: `python -m tests.simulation`."""

import pytest

from tests.simulation.chaos import CALM, Odds
from tests.simulation.jobs import Outcome, Schedule
from tests.simulation.virtual_time import play


def outcome_of(seed: int, odds: Odds | None = None) -> Outcome:
    return play(lambda loop: Schedule(seed, loop, odds or Odds()).play())


def test_when_nothing_goes_wrong_every_job_that_nobody_cancels_succeeds() -> None:
    for seed in range(5):
        outcome = outcome_of(seed, CALM)
        assert not outcome.violations
        assert set(outcome.states.values()) <= {"SUCCEEDED", "CANCELLED"}


def test_a_schedule_is_the_same_whenever_it_is_played() -> None:
    def shape(outcome: Outcome) -> list[str]:
        return [line.split()[0] for line in outcome.history]

    assert shape(outcome_of(11)) == shape(outcome_of(11))


@pytest.mark.parametrize("seeds", [range(first, first + 20) for first in range(0, 200, 20)], ids=str)
def test_no_job_is_lost_stuck_or_ends_with_another_model(seeds: range) -> None:
    for seed in seeds:
        outcome = outcome_of(seed)
        assert not outcome.violations, "\n".join([f"python -m tests.simulation --seed {seed}", *outcome.violations])
