"""What follows a job's success: base and candidate compared, whatever goes away or ends meanwhile."""

import copy
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import model_pb2, sweep_pb2

from services.common import errors
from services.trainer.attempts import reconcile_job
from services.trainer.job import KIND, Job
from services.trainer.sweep import KIND as SWEEP_KIND
from tests.rpc.trainer_world import DATASET, HELD_OUT, SUITE, World, trainer_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trainer_world(tmp_path) as world:
        world.peers.test = HELD_OUT
        yield world


async def told(world: World, name: str) -> dict[str, str]:
    return {event.type: event.message for event in await world.events(name)}


async def until_told(world: World, name: str) -> pb.FineTuningJob:
    """Let the loop run until nothing more is to come."""
    for _ in range(10):
        job = await world.get(name)
        if not job.awaits_verdict:
            return job
        await world.step(name)
    raise AssertionError(f"{name} still awaits its verdict")


async def test_a_job_that_has_succeeded_is_compared_with_its_base_and_the_verdict_is_kept(world: World) -> None:
    job = await world.create()
    await world.train(job.name)
    succeeded = await world.get(job.name)
    assert (succeeded.fine_tuned_model, succeeded.awaits_verdict) == ("ft:tiny:default::m", True)
    await world.step(job.name)
    (asked,) = world.peers.evaluations.values()
    assert asked["suite"] == "projects/default/suites/default-ds-1"
    assert asked["subjects"] == {"models/b": [], "projects/default/models/m": []}
    assert (await world.get(job.name)).evaluation == asked["name"]
    assert "160 questions of default-ds-1" in (await told(world, job.name))["EVALUATION_STARTED"]
    await world.step(job.name)
    assert (await world.get(job.name)).awaits_verdict
    world.peers.end_evaluations()
    judged = await until_told(world, job.name)
    assert judged.state == pb.FineTuningJob.STATE_SUCCEEDED
    assert judged.verdict.answer == model_pb2.Verdict.ANSWER_BETTER
    assert (judged.verdict.evaluation, judged.verdict.item_count, judged.verdict.p_value) == (asked["name"], 80, 0.004)
    assert world.peers.judged == [("projects/default/models/m", asked["name"])]
    last = (await world.events(job.name))[-1]
    assert (last.type, last.message) == ("VERDICT", "BETTER: on 80 items 20 to 5.")
    assert last.data["answer"] == "BETTER"
    assert (await world.record(job.name)).due_time is None


async def test_watching_goes_on_until_the_verdict_stands(world: World) -> None:
    job = await world.create()
    await world.train(job.name)
    types = []
    async for response in world.jobs.WatchFineTuningJob(pb.WatchFineTuningJobRequest(name=job.name), timeout_s=20):
        types += [event.type for event in response.events]
        world.peers.end_evaluations()
        await world.step(job.name)
    assert types[-2:] == ["EVALUATION_STARTED", "VERDICT"]
    assert response.fine_tuning_job.verdict.sentence == "Better: on 80 items 20 to 5."


async def test_a_program_that_is_away_delays_the_verdict_and_fails_nothing(world: World) -> None:
    job = await world.create()
    await world.train(job.name)
    for verb in ("default_suite", "begin_evaluation", "evaluation", "judge"):
        world.peers.away = {verb}
        for _ in range(5):
            await world.step(job.name)
            world.peers.end_evaluations()
        waiting = await world.get(job.name)
        assert (waiting.state, waiting.awaits_verdict) == (pb.FineTuningJob.STATE_SUCCEEDED, True)
        assert (await world.record(job.name)).due_time is not None
    world.peers.away = set()
    assert (await until_told(world, job.name)).verdict.answer == model_pb2.Verdict.ANSWER_BETTER
    assert [event.type for event in await world.events(job.name)].count("VERDICT") == 1


async def test_a_trainer_that_dies_between_any_two_steps_makes_one_evaluation_and_one_verdict(world: World) -> None:
    job = await world.create()
    await world.train(job.name)
    for _ in range(8):
        record = await world.record(job.name)
        if record.due_time is None:
            break
        await reconcile_job(world.trainer, record)  # looked, and never written: the program was killed here
        await world.step(job.name)
        world.peers.end_evaluations()
    assert len(world.peers.evaluations) == 1
    types = [event.type for event in await world.events(job.name)]
    assert (types.count("EVALUATION_STARTED"), types.count("VERDICT")) == (1, 1)
    assert len(set(world.peers.judged)) == 1


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
async def test_an_evaluation_without_scores_leaves_the_model_and_says_how_to_compare_by_hand(world: World, state: str) -> None:
    job = await world.create()
    await world.train(job.name)
    await world.step(job.name)
    world.peers.end_evaluations(state, "A row can't be asked.")
    ended = await until_told(world, job.name)
    assert (ended.state, ended.HasField("verdict")) == (pb.FineTuningJob.STATE_SUCCEEDED, False)
    assert ended.fine_tuned_model == "ft:tiny:default::m"
    event = (await world.events(job.name))[-1]
    assert (event.type, event.level) == ("EVALUATION_FAILED", 2)
    for part in (state, "A row can't be asked.", "--suite default-ds-1 --model models/b --model ft:tiny:default::m", "judge"):
        assert part in event.message


async def test_rows_that_no_suite_can_ask_are_told_and_leave_the_model(world: World) -> None:
    world.peers.suite_error = errors.InvalidInput("Test rows end with the call of a tool.")
    job = await world.create()
    await world.train(job.name)
    ended = await until_told(world, job.name)
    assert ended.state == pb.FineTuningJob.STATE_SUCCEEDED
    assert "Test rows end with the call of a tool." in (await told(world, job.name))["EVALUATION_FAILED"]


async def test_too_few_rows_are_answered_with_how_much_data_would_tell(world: World) -> None:
    world.peers.answer = "INSUFFICIENT_EVIDENCE"
    job = await world.create()
    await world.train(job.name)
    await world.step(job.name)
    world.peers.end_evaluations()
    await until_told(world, job.name)
    # 320 items are needed, and 80 of 800 rows are held out.
    assert (await told(world, job.name))["VERDICT"].endswith("about 3200 rows of data would hold out so many.")


async def test_without_held_out_rows_a_job_says_that_nothing_is_compared(world: World) -> None:
    world.peers.test = None
    job = await world.create()
    await world.train(job.name)
    assert not (await world.get(job.name)).awaits_verdict
    assert "No rows were held out" in (await told(world, job.name))["NOT_EVALUATED"]
    assert (await world.record(job.name)).due_time is None


async def test_who_wants_no_comparison_gets_none(world: World) -> None:
    job = await world.create(evaluation_settings=pb.JobEvaluation(is_disabled=True))
    assert job.evaluation_settings.is_disabled
    await world.train(job.name)
    assert not (await world.get(job.name)).awaits_verdict
    assert world.peers.evaluations == {}
    assert not {"NOT_EVALUATED", "EVALUATION_STARTED"} & set(await told(world, job.name))


async def test_a_suite_of_ones_own_is_asked_the_base_in_all_its_ways(world: World) -> None:
    settings = pb.JobEvaluation(suite=SUITE, candidate_prompts=["zero-shot"])
    job = await world.create(evaluation_settings=settings)
    assert job.evaluation_settings == settings
    await world.train(job.name)
    await world.step(job.name)
    (asked,) = world.peers.evaluations.values()
    assert asked["suite"] == SUITE
    assert asked["subjects"] == {"models/b": [], "projects/default/models/m": ["zero-shot"]}


async def test_every_mistake_in_what_is_to_be_compared_is_told_at_once(world: World) -> None:
    for settings, fields in (
        ({"suite": "projects/other/suites/x", "is_disabled": True}, ["suite", "is_disabled"]),
        ({"suite": "x"}, ["suite"]),
        ({"candidate_prompts": ["a"]}, ["candidate_prompts"]),
    ):
        with pytest.raises(errors.InvalidInput) as caught:
            await world.create(evaluation_settings=pb.JobEvaluation(**settings))  # type: ignore[arg-type]
        assert [v.field.rpartition(".")[2] for v in caught.value.violations] == fields
    with pytest.raises(errors.NotFound):
        await world.create(evaluation_settings=pb.JobEvaluation(suite="projects/default/suites/none"))


async def test_of_a_sweep_only_the_winners_model_is_compared(world: World) -> None:
    world.peers.validation = HELD_OUT
    asked = sweep_pb2.Sweep(base_model="tiny", dataset=DATASET, recipes=[pb.Recipe(rank=4), pb.Recipe(rank=8)])
    created = await world.sweeps.CreateSweep(sweep_pb2.CreateSweepRequest(parent="projects/default", sweep=asked))
    names: list[str] = []
    for loss in (0.7, 0.4):
        await look_at_sweep(world, created.name)
        names.append(
            f"projects/default/fineTuningJobs/{created.name.rpartition('/')[2].replace('sweep-', 'ftjob-')}-{len(names) + 1}"
        )
        await world.move(names[-1], "RUNNING")
        world.commit_result(names[-1], validation=[{"step": 1, "loss": loss}], best_step=1)
        await world.move(names[-1], "SUCCEEDED")
    for _ in range(4):
        await look_at_sweep(world, created.name)
    loser, winner = [await world.get(name) for name in names]
    assert (loser.awaits_verdict, winner.awaits_verdict) == (False, True)
    await world.step(winner.name)
    world.peers.end_evaluations()
    assert (await until_told(world, winner.name)).verdict.answer == model_pb2.Verdict.ANSWER_BETTER
    assert list(world.peers.evaluations) == [f"verdict-{names[1].rpartition('/')[2]}"]


async def look_at_sweep(world: World, name: str) -> None:
    record = await world.trainer.database.get(SWEEP_KIND, name)
    if record.due_time is not None:
        await world.trainer.database.wake(SWEEP_KIND, name, record.create_time)
        await world.sweeping.run_once()


async def test_a_job_from_before_there_were_verdicts_stays_as_it_is(world: World) -> None:
    job = await world.create()
    record = await world.record(job.name)
    old = copy.deepcopy(dict(record.document))
    for name in ("evaluation_settings", "suite", "evaluation", "verdict", "awaits_verdict"):
        del old[name]
    read = replace(Job.from_document(old), state="SUCCEEDED", dataset_spec={"test": HELD_OUT})
    await world.trainer.database.update(record, read.to_document())
    found = await world.get(job.name)
    assert (found.state, found.awaits_verdict, found.HasField("verdict")) == (pb.FineTuningJob.STATE_SUCCEEDED, False, False)
    async for response in world.jobs.WatchFineTuningJob(pb.WatchFineTuningJobRequest(name=job.name), timeout_s=20):
        assert response.fine_tuning_job.name == job.name
    assert (await world.trainer.database.get(KIND, job.name)).due_time is None
