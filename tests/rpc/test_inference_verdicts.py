"""The verdict on a Model, as clients see it over real gRPC: what an evaluation has to be for one, and what it says."""

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from afina.v1 import evaluation_pb2, model_pb2, suite_pb2

from services.common import errors
from tests.rpc.inference_world import EVALUATION, World, inference_world

V = model_pb2.Verdict


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with inference_world(tmp_path) as made:
        yield made


async def judge(world: World, model: model_pb2.Model, evaluation: str = EVALUATION) -> model_pb2.Verdict:
    judged = await world.models.JudgeModel(model_pb2.JudgeModelRequest(name=model.name, evaluation=evaluation))
    verdict: model_pb2.Verdict = judged.verdict
    return verdict


async def test_a_verdict_stands_on_the_model_with_its_numbers(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    assert not adapter.HasField("verdict")
    await world.evaluate(adapter, entry.model)
    verdict = await judge(world, adapter)
    assert (verdict.answer, verdict.evaluation, verdict.champion) == (V.ANSWER_BETTER, EVALUATION, entry.model)
    assert (verdict.item_count, verdict.effect, verdict.items_needed) == (200, 35 / 200, 0)
    # McNemar (1947): both tails of Binomial(45, 1/2) up to 5.
    assert verdict.p_value == pytest.approx(2 * sum(math.comb(45, k) for k in range(6)) / 2**45)
    assert "40 times" in verdict.sentence
    assert (await world.get(adapter.name)).verdict == verdict == await judge(world, adapter)
    (listed,) = [
        one
        for one in (await world.models.ListModels(model_pb2.ListModelsRequest(parent="projects/default"))).models
        if one.name == adapter.name
    ]
    assert listed.verdict == verdict


@pytest.mark.parametrize(
    ("better", "worse", "items", "answer", "needed"),
    [
        (5, 9, 200, V.ANSWER_NOT_BETTER, 0),
        (20, 2, 40, V.ANSWER_INSUFFICIENT_EVIDENCE, 50),  # however clear, the gate asks for 50
        (6, 2, 100, V.ANSWER_INSUFFICIENT_EVIDENCE, 391),  # Connor (1987): (1.96 √0.08 + 0.8416 √(0.08 - 0.04²))² / 0.04²
    ],
)
async def test_what_is_not_better_and_what_nobody_can_tell(
    world: World, better: int, worse: int, items: int, answer: V.Answer, needed: int
) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.evaluate(adapter, entry.model, better, worse, items)
    verdict = await judge(world, adapter)
    assert (verdict.answer, verdict.items_needed) == (answer, needed)


async def test_of_several_ways_of_asking_the_base_the_worst_for_the_model_is_told(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.evaluate(adapter, entry.model)
    weaker = world.evaluator.evaluation.comparisons.add()
    weaker.CopyFrom(world.evaluator.evaluation.comparisons[0])
    weaker.candidate_only_count, weaker.champion_only_count = 3, 30
    assert (await judge(world, adapter)).answer == V.ANSWER_NOT_BETTER


async def test_rows_that_the_model_has_seen_prove_nothing(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.evaluate(adapter, entry.model)
    seen = evaluation_pb2.HeldOut(model=adapter.name, finding=evaluation_pb2.HeldOut.FINDING_OVERLAPS, overlap_count=9)
    world.evaluator.evaluation.held_out.append(seen)
    verdict = await judge(world, adapter)
    assert verdict.answer == V.ANSWER_INSUFFICIENT_EVIDENCE
    assert "some of which are the same" in verdict.sentence
    another = await world.add_adapter()
    await world.evaluate(another, entry.model)
    world.evaluator.suite_part = suite_pb2.Suite.PART_VALIDATION
    verdict = await judge(world, another)
    assert (verdict.answer, "validation rows" in verdict.sentence) == (V.ANSWER_INSUFFICIENT_EVIDENCE, True)


async def test_what_is_no_evidence_leaves_the_model_without_a_verdict(world: World) -> None:
    entry = await world.add_base()
    adapter, other = await world.add_adapter(), await world.add_adapter()
    await world.evaluate(adapter, entry.model)
    finished = world.evaluator.evaluation

    async def refused(reason: str, **changes: object) -> None:
        evaluation = evaluation_pb2.Evaluation()
        evaluation.CopyFrom(finished)
        for name, value in changes.items():
            setattr(evaluation, name, value)
        world.evaluator.evaluation = evaluation
        with pytest.raises(errors.WrongState) as caught:
            await judge(world, adapter)
        assert caught.value.reason == reason

    await refused("EVALUATION_UNFINISHED", state=evaluation_pb2.Evaluation.STATE_RUNNING)
    await refused("EVALUATION_STALE", suite_digest="9" * 64)
    finished.subjects[1].digest, digest = "9" * 64, finished.subjects[1].digest
    await refused("EVALUATION_STALE")
    finished.subjects[1].digest = digest
    del finished.subjects[0].prompts[1:]
    await refused("CHAMPION_WEAKENED")
    await world.evaluate(adapter, other.name)
    finished = world.evaluator.evaluation
    await refused("WRONG_CHAMPION")
    assert not (await world.get(adapter.name)).HasField("verdict")
    with pytest.raises(errors.InvalidInput):
        await judge(world, adapter, "projects/other/evaluations/eval-1")
    with pytest.raises(errors.InvalidInput):
        await world.models.JudgeModel(model_pb2.JudgeModelRequest(name=entry.model, evaluation=EVALUATION))
    with pytest.raises(errors.NotFound):
        await judge(world, adapter, f"{EVALUATION}-none")


async def test_a_later_evaluation_gives_a_later_verdict(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.evaluate(adapter, entry.model)
    await judge(world, adapter)
    await world.evaluate(adapter, entry.model, better=3, worse=30)
    world.evaluator.evaluation.name = f"{EVALUATION}-2"
    assert (await judge(world, adapter, f"{EVALUATION}-2")).answer == V.ANSWER_NOT_BETTER
    assert (await world.get(adapter.name)).verdict.evaluation == f"{EVALUATION}-2"
