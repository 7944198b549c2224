"""Who wins a sweep, and which recipes it takes."""

import pytest

from services.common.errors import WrongState
from services.trainer.job import Job
from services.trainer.sweep import MAX_RECIPES, MOVES, Sweep, check

SWEEP = Sweep("projects/p/sweeps/sweep-1", "tiny", "projects/p/datasets/d", [{"rank": rank} for rank in (4, 8, 16, 32)])


def ended(*losses: float | None) -> Sweep:
    sweep = SWEEP
    for at, loss in enumerate(losses):
        state = "FAILED" if loss is None else "SUCCEEDED"
        sweep = sweep.end_member(Job(sweep.job_name(at), "tiny", state=state, validation_loss=loss, model=f"m{at}"))
    return sweep


def test_the_lowest_validation_loss_wins_and_of_equals_the_earlier() -> None:
    assert ended(0.5, 0.3, 0.3, 0.4).ranking == [1, 2, 3, 0]
    assert ended(0.5, None, 0.3, None).ranking == [2, 0]
    assert ended(None, None).best is None


def test_a_loss_of_a_model_that_failed_does_not_count() -> None:
    failed = SWEEP.end_member(Job("j", "tiny", state="FAILED", validation_loss=0.1, model="m"))
    assert failed.ranking == []
    assert failed.ended[0]["model"] == ""


def test_who_could_not_be_proven_gives_way_to_the_next() -> None:
    sweep = ended(0.5, 0.3, 0.4)
    assert sweep.best == 1
    assert Sweep.from_document({**sweep.to_document(), "refused": [1, 2]}).best == 0


def test_the_names_of_jobs_are_known_before_they_are_made() -> None:
    assert [SWEEP.job_name(at) for at in (0, 63)] == [
        "projects/p/fineTuningJobs/ftjob-1-1",
        "projects/p/fineTuningJobs/ftjob-1-64",
    ]


@pytest.mark.parametrize("state", [state for state, moves in MOVES.items() if not moves])
def test_what_has_ended_does_not_move(state: str) -> None:
    sweep = Sweep.from_document({**SWEEP.to_document(), "state": state})
    assert sweep.has_ended
    with pytest.raises(WrongState):
        sweep.move("RUNNING")


def test_every_mistake_of_every_recipe_is_told_with_its_place() -> None:
    violations = check([{"rank": 0, "epochs": 99}, {"rank": 8}, {"rank": 8}])
    assert [(v.field, v.reason) for v in violations] == [
        ("sweep.recipes[0].epochs", "OUT_OF_BOUNDS"),
        ("sweep.recipes[0].rank", "OUT_OF_BOUNDS"),
        ("sweep.recipes[2]", "RECIPE_REPEATED"),
    ]
    assert "same as recipe 2" in violations[2].description


@pytest.mark.parametrize(("count", "is_allowed"), [(0, False), (1, True), (MAX_RECIPES, True), (MAX_RECIPES + 1, False)])
def test_a_sweep_has_one_to_sixty_four_recipes(count: int, is_allowed: bool) -> None:
    assert (check([{"seed": seed} for seed in range(count)]) == []) is is_allowed
