"""Which world a seed plays, so that a number is all it takes to play a schedule again."""

import logging
from typing import Any

from tests.simulation.chaos import Odds
from tests.simulation.evaluating import Evaluating
from tests.simulation.serving import Serving
from tests.simulation.training import Training
from tests.simulation.virtual_time import play
from tests.simulation.world import Outcome, World

WORLDS: tuple[type[World[Any]], ...] = (Training, Evaluating, Training, Serving, Training)


def world_of(seed: int) -> type[World[Any]]:
    """Return what a seed plays."""
    return WORLDS[seed % len(WORLDS)]


def outcome_of(seed: int, odds: Odds | None = None) -> Outcome:
    """Play the schedule of a seed."""
    logging.disable(logging.CRITICAL)  # tens of thousands of warnings about what the schedule does on purpose
    try:
        return play(lambda loop: world_of(seed)(seed, loop, odds or Odds()).play())
    finally:
        logging.disable(logging.NOTSET)
