"""Endpoints as their clients see them, over real gRPC: what the gate takes for evidence."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from afina.v1 import (
    endpoint_pb2,
    evaluation_pb2,
    suite_pb2,
)

from services.common import errors
from tests.rpc.inference_world import ENDPOINT, EVALUATION, PARENT, SUITE, World, inference_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        yield made


async def test_an_endpoint_gets_its_gates_defaults_and_every_mistake_is_named(world: World) -> None:
    created = await world.add_endpoint()
    assert (created.gate.significance_level, created.gate.min_effect, created.gate.min_item_count) == (0.05, 0, 50)
    assert created.model == ""
    with pytest.raises(errors.AlreadyExists):
        await world.add_endpoint()
    gate = endpoint_pb2.Gate(significance_level=0.6, min_effect=1.5, min_item_count=-1, suite="projects/other/suites/x")
    request = endpoint_pb2.CreateEndpointRequest(parent=PARENT, endpoint_id="A b", endpoint=endpoint_pb2.Endpoint(gate=gate))
    with pytest.raises(errors.InvalidInput) as refused:
        await world.endpoints.CreateEndpoint(request)
    assert len(refused.value.violations) == 5


async def test_an_endpoint_cannot_take_a_bases_name(world: World) -> None:
    await world.add_base(aliases=["support"])
    with pytest.raises(errors.AlreadyExists):
        await world.add_endpoint()


async def test_a_better_model_is_promoted_and_the_endpoint_remembers_why(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    created = await world.add_endpoint(suite=SUITE)
    await world.evaluate(adapter, entry.model)
    promoted = await world.promote(adapter.name, created.etag)
    assert (promoted.model, promoted.digest) == (adapter.name, adapter.digest)
    (promotion,) = promoted.promotions
    assert (promotion.previous_model, promotion.evaluation) == ("", EVALUATION)
    assert "40 times" in promotion.verdict
    route = (await world.routes())["support"]
    assert (route.kind, route.project, route.model, len(route.replicas)) == ("endpoint", "default", adapter.name, 1)
    assert await world.promote(adapter.name) == await world.promote(adapter.name, created.etag) == promoted
    with pytest.raises(errors.Conflict):
        await world.promote(adapter.name, "99")


async def test_the_next_champion_is_the_model_that_the_endpoint_points_to(world: World) -> None:
    entry = await world.add_base()
    first, second = await world.add_adapter(), await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(first, entry.model)
    await world.promote(first.name)
    await world.evaluate(second, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(second.name)
    assert refused.value.reason == "WRONG_CHAMPION"
    await world.evaluate(second, first.name)
    promoted = await world.promote(second.name)
    assert [promotion.model for promotion in promoted.promotions] == [first.name, second.name]
    assert promoted.promotions[1].previous_model == first.name


async def test_a_model_that_is_not_better_or_not_surely_better_is_refused_with_the_number_of_items(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(adapter, entry.model, better=5, worse=9)
    with pytest.raises(errors.WrongState) as worse:
        await world.promote(adapter.name)
    assert worse.value.reason == "NOT_BETTER"
    await world.evaluate(adapter, entry.model, better=20, worse=10, items=100)
    with pytest.raises(errors.WrongState) as thin:
        await world.promote(adapter.name)
    assert thin.value.reason == "INSUFFICIENT_EVIDENCE"
    assert thin.value.metadata["items_needed"] == "234"  # see the gate's unit test
    assert (await world.endpoints.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=ENDPOINT))).model == ""


async def test_evidence_that_is_unfinished_stale_or_of_another_suite_is_refused(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint(suite=SUITE)

    async def reason() -> str:
        with pytest.raises(errors.WrongState) as refused:
            await world.promote(adapter.name)
        await world.evaluate(adapter, entry.model)
        return refused.value.reason

    await world.evaluate(adapter, entry.model)
    world.evaluator.evaluation.state = evaluation_pb2.Evaluation.STATE_RUNNING
    assert await reason() == "EVALUATION_UNFINISHED"
    world.evaluator.evaluation.suite = f"{PARENT}/suites/easier"
    assert await reason() == "WRONG_SUITE"
    world.evaluator.evaluation.suite_digest = "f" * 64
    assert await reason() == "EVALUATION_STALE"
    for subject in range(2):
        world.evaluator.evaluation.subjects[subject].digest = "f" * 64
        assert await reason() == "EVALUATION_STALE"
    world.evaluator.evaluation.comparisons[0].champion = "models/other"
    assert await reason() == "WRONG_CHAMPION"
    assert (await world.promote(adapter.name)).model == adapter.name


async def test_where_several_ways_of_asking_the_champion_are_told_the_candidate_has_to_pass_each(world: World) -> None:
    entry = await world.add_base()
    candidate = await world.add_adapter()
    await world.add_endpoint(min_effect=0.1)
    await world.evaluate(candidate, entry.model, better=40, worse=18)  # effect 0.11: passes, and is the less sure one
    surer = world.evaluator.evaluation.comparisons.add()
    surer.CopyFrom(world.evaluator.evaluation.comparisons[0])
    surer.candidate_only_count, surer.champion_only_count = 12, 0  # effect 0.06
    with pytest.raises(errors.WrongState) as caught:
        await world.promote(candidate.name)
    assert caught.value.reason == "NOT_BETTER"
    assert "12 times and the champion 0 times" in caught.value.message
    del world.evaluator.evaluation.comparisons[1]
    assert (await world.promote(candidate.name)).model == candidate.name


async def test_rows_that_chose_a_checkpoint_are_no_evidence(world: World) -> None:
    entry = await world.add_base()
    candidate = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(candidate, entry.model)
    world.evaluator.suite_part = suite_pb2.Suite.PART_VALIDATION
    with pytest.raises(errors.WrongState) as caught:
        await world.promote(candidate.name)
    assert caught.value.reason == "ROWS_NOT_HELD_OUT"


async def test_a_champion_that_was_not_asked_in_all_of_the_suites_ways_is_no_champion_to_beat(world: World) -> None:
    entry = await world.add_base()
    first, second = await world.add_adapter(), await world.add_adapter()
    await world.add_endpoint()
    for candidate, champion in ((first, entry.model), (second, first.name)):
        await world.evaluate(candidate, champion)
        world.evaluator.evaluation.subjects[0].prompts[:] = ["zero-shot"]
        with pytest.raises(errors.WrongState) as refused:
            await world.promote(candidate.name)
        assert refused.value.reason == "CHAMPION_WEAKENED"
        for words in (champion, "few-shot, label-scored", "leave its prompts out"):
            assert words in refused.value.message
        world.evaluator.evaluation.subjects[0].prompts[:] = []  # none means all
        assert (await world.promote(candidate.name)).model == candidate.name


async def test_a_quarantined_or_indistinguishable_model_is_never_promoted(world: World) -> None:
    entry = await world.add_base()
    await world.add_endpoint()
    bad = await world.add_adapter()
    world.answers[bad.digest] = -3.0
    await world.evaluate(bad, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(bad.name)
    assert refused.value.reason == "MODEL_QUARANTINED"
    same = await world.add_adapter(world.put_adapter(base_references=-1.01))
    await world.evaluate(same, entry.model)
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(same.name)
    assert refused.value.reason == "MODEL_INDISTINGUISHABLE"
    assert (await world.ensure(same.name)).replicas


async def test_model_and_evaluation_of_another_project_are_refused(world: World) -> None:
    await world.add_base()
    theirs, ours = await world.add_adapter(parent="projects/other"), await world.add_adapter()
    await world.add_endpoint()
    foreign = EVALUATION.replace(PARENT, "projects/other")
    for model, evaluation in ((theirs.name, EVALUATION), (ours.name, foreign)):
        request = endpoint_pb2.PromoteEndpointRequest(name=ENDPOINT, model=model, evaluation=evaluation)
        with pytest.raises(errors.InvalidInput) as refused:
            await world.endpoints.PromoteEndpoint(request)
        assert refused.value.reason == "WRONG_PROJECT"
