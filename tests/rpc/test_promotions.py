"""How endpoints change, over real gRPC: overrides, rollbacks, the history, and what crosses with them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from afina.v1 import endpoint_pb2, model_pb2, suite_pb2

from services.common import errors, scopes
from services.common.principal import OPERATOR, PROGRAM, Principal, act_as
from services.inference import endpoint, endpoints, model, promotions
from services.inference.candidacy import stand
from services.inference.endpoint import Endpoint, Promotion, before
from services.inference.model import Model
from tests.rpc.inference_world import DATASET, ENDPOINT, EVALUATION, PARENT, SUITE, World, inference_world

Kind = endpoint_pb2.Promotion


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Inference, with everything around it."""
    async with inference_world(tmp_path) as made:
        yield made


async def chain(world: World, count: int) -> list[model_pb2.Model]:
    """Promote so many models, each better than the one before."""
    entry = await world.add_base()
    await world.add_endpoint()
    champion, made = entry.model, []
    for _ in range(count):
        made.append(await world.add_adapter())
        await world.evaluate(made[-1], champion)
        await world.promote(made[-1].name, reason=f"number {len(made)}")
        champion = made[-1].name
    return made


async def refusal(world: World, candidate: model_pb2.Model, **why: str) -> errors.WrongState:
    with pytest.raises(errors.WrongState) as refused:
        await world.promote(candidate.name, **why)
    return refused.value


async def test_the_history_tells_who_changed_what_when_why_and_on_what_evidence(world: World) -> None:
    begin = datetime.now(UTC)
    first, second = await chain(world, 2)
    await world.rollback(reason="it is rude")
    told = await world.history()
    assert [(p.number, p.kind, p.model, p.previous_model) for p in told] == [
        (1, Kind.KIND_FIRST, first.name, ""),
        (2, Kind.KIND_PROMOTION, second.name, first.name),
        (3, Kind.KIND_ROLLBACK, first.name, second.name),
    ]
    assert [(p.digest, p.previous_digest) for p in told][1] == (second.digest, first.digest)
    assert [p.reason for p in told] == ["number 1", "number 2", "it is rude"]
    assert {p.actor for p in told} == {OPERATOR.name}
    assert all(begin <= p.create_time.ToDatetime(tzinfo=UTC) <= datetime.now(UTC) for p in told)
    evidence = told[1].evidence
    assert (evidence.evaluation, evidence.suite, evidence.suite_digest) == (EVALUATION, SUITE, "e" * 64)
    assert (evidence.champion, evidence.champion_digest) == (first.name, first.digest)
    assert (evidence.item_count, evidence.candidate_only_count, evidence.champion_only_count) == (200, 40, 5)
    assert evidence.effect == 35 / 200
    # 2 · Σ_{k≤5} C(45,k) / 2^45, counted out: 1 + 45 + 990 + 14190 + 148995 + 1221759 = 1385980
    assert evidence.p_value == 2 * 1385980 / 2**45
    assert told[2].evidence == told[0].evidence  # what brought the model then is why it may come back


async def test_an_endpoint_shows_its_last_changes_and_keeps_all_of_them(world: World) -> None:
    (first, second) = await chain(world, 2)
    for number in range(6):
        await world.rollback((first, second)[number % 2].name, reason=f"again {number}")
    found = await world.endpoints.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=ENDPOINT))
    assert found.promotion_count == 8
    assert [p.number for p in found.promotions] == [4, 5, 6, 7, 8]
    assert [p.number for p in await world.history()] == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_changes_from_before_there_was_a_history_are_in_it(world: World) -> None:
    first, second = await chain(world, 2)
    record = await endpoints.get_endpoint(world.inference, ENDPOINT)
    kept = ("model", "digest", "previous_model", "evaluation", "verdict", "create_time")
    old = {key: record.document[key] for key in ("name", "gate", "model", "digest")}
    old["promotions"] = [{key: p[key] for key in kept} for p in record.document["promotions"]]
    await world.inference.database.delete(record)
    await world.inference.database.create(endpoint.KIND, ENDPOINT, old)
    assert [(p.number, p.model, p.kind) for p in await world.history()] == [(1, first.name, 0), (2, second.name, 0)]
    await world.rollback()
    assert [(p.number, p.model) for p in await world.history()] == [(1, first.name), (2, second.name), (3, first.name)]


async def test_rolling_back_twice_goes_back_two_steps_and_not_forward_again(world: World) -> None:
    first, second, third = await chain(world, 3)
    assert (await world.rollback()).model == second.name
    assert (await world.rollback()).model == first.name
    with pytest.raises(errors.WrongState) as refused:
        await world.rollback()
    assert refused.value.reason == "NOTHING_BEFORE"
    assert (await world.rollback(third.name)).model == third.name
    route = (await world.routes())["support"]
    assert (route.model, route.digest, len(route.replicas)) == (third.name, third.digest, 1)


async def test_a_rollback_that_is_repeated_with_its_etag_goes_back_once(world: World) -> None:
    first, second, _ = await chain(world, 3)
    etag = (await world.endpoints.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=ENDPOINT))).etag
    assert [(await world.rollback(etag=etag)).model for _ in range(2)] == [second.name, second.name]
    for other in ({"reason": "another"}, {"model": first.name}, {"etag": "1"}):
        with pytest.raises(errors.Conflict):
            await world.rollback(**{"etag": etag, **other})


async def test_a_promotion_that_is_repeated_with_its_etag_is_made_once(world: World) -> None:
    """A gateway that stays behind makes the caller repeat what has been written already."""
    first, second, _ = await chain(world, 3)
    await world.rollback(first.name)
    etag = (await world.endpoints.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=ENDPOINT))).etag
    await world.evaluate(second, first.name)
    made = [await world.promote(second.name, etag=etag) for _ in range(2)]
    assert [(one.model, one.etag) for one in made] == [(second.name, made[0].etag)] * 2
    with pytest.raises(errors.Conflict):
        await world.promote(first.name, etag=etag)


def promoted(*given: str) -> list[Promotion]:
    """Return a history: a model for a promotion, `<model` for a rollback to it."""
    return [Promotion(name.strip("<"), "", "", "", "", "", kind="ROLLBACK" if name[0] == "<" else "PROMOTION") for name in given]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ("", None),
        ("a", None),
        ("a b", "a"),
        ("a b <a", None),
        ("a b c <b", "a"),
        ("a b c <b d", "b"),
        ("a b c <a", None),
        ("a b c <a <c", "a"),  # forward again by name
        ("a b a", "b"),  # promoted anew
        ("a b a <b", "a"),
        ("a b a c <a", "b"),  # the later one of two
    ],
)
def test_what_was_rolled_back_from_is_not_before(history: str, expected: str | None) -> None:
    found = before(promoted(*history.split()))
    assert (found.model if found else None) == expected


async def test_a_rollback_needs_a_reason_a_model_that_was_promoted_and_one_that_may_be_served(world: World) -> None:
    first, second = await chain(world, 2)
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(errors.InvalidInput) as invalid:
            await world.rollback(reason=reason)
        assert [violation.field for violation in invalid.value.violations] == ["reason"]
    never = await world.add_adapter()
    with pytest.raises(errors.WrongState) as refused:
        await world.rollback(never.name)
    assert refused.value.reason == "NEVER_PROMOTED"
    assert first.name in refused.value.message
    with pytest.raises(errors.Conflict):
        await world.rollback(etag="1")
    record = await world.inference.database.get(model.KIND, first.name)
    quarantined = Model.from_document(record.document).quarantine("its answers are others'")
    await world.inference.database.update(record, quarantined.to_document())
    with pytest.raises(errors.WrongState) as refused:
        await world.rollback()
    assert refused.value.reason == "MODEL_QUARANTINED"
    assert len(await world.history()) == 2
    assert (await world.rollback(second.name)).etag == (await world.rollback(second.name)).etag  # it points there already


async def test_an_override_passes_the_verdict_and_is_remembered_with_what_the_gate_said(world: World) -> None:
    entry = await world.add_base()
    worse = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(worse, entry.model, better=5, worse=9)
    assert (await refusal(world, worse)).reason == "NOT_BETTER"
    assert (await refusal(world, worse, reason="because")).reason == "NOT_BETTER"
    with pytest.raises(errors.InvalidInput) as invalid:
        await world.promote(worse.name, override_reason="x" * 501, reason="y" * 501)
    assert [violation.field for violation in invalid.value.violations] == ["override_reason", "reason"]
    with pytest.raises(errors.InvalidInput):
        await world.promote(worse.name, override_reason="   ")
    await world.promote(worse.name, override_reason="the champion's licence ends today")
    (told,) = await world.history()
    assert (told.kind, told.reason) == (Kind.KIND_OVERRIDE, "the champion's licence ends today")
    assert told.verdict.startswith("NOT_BETTER: Not better: on 200 items the candidate did better 5 times")
    assert (told.evidence.candidate_only_count, told.evidence.champion_only_count) == (5, 9)


async def test_an_override_may_do_without_an_evaluation_and_the_gate_may_not(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()
    with pytest.raises(errors.InvalidInput):
        await world.promote(adapter.name, evaluation="")
    await world.promote(adapter.name, evaluation="", override_reason="there is no time")
    (told,) = await world.history()
    assert (told.verdict, told.evaluation, told.HasField("evidence")) == ("No evaluation was given.", "", False)


async def test_a_key_that_may_promote_may_not_override_the_gate_unless_it_has_the_scope_for_that(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()

    async def override(*asked: str) -> None:
        act_as(Principal(f"{PARENT}/apiKeys/key-1", "default", frozenset(scopes.whole(asked))))
        try:
            await promotions.promote(world.inference, ENDPOINT, adapter.name, "", "", 20, override_reason="I can")
        finally:
            act_as(PROGRAM)

    with pytest.raises(errors.PermissionDenied, match=r"endpoints\.override") as refused:
        await override("endpoints.promote")
    assert refused.value.metadata == {"scope": "endpoints.override"}
    assert await world.history() == []
    await override("endpoints.override")
    assert [p.actor for p in await world.history()] == [f"{PARENT}/apiKeys/key-1"]


async def test_an_override_that_the_gate_would_have_passed_is_a_promotion(world: World) -> None:
    entry = await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()
    await world.evaluate(adapter, entry.model)
    await world.promote(adapter.name, override_reason="to be sure")
    assert [p.kind for p in await world.history()] == [Kind.KIND_FIRST]


async def test_no_override_passes_digests_proof_or_quarantine(world: World) -> None:
    entry = await world.add_base()
    adapter, other = await world.add_adapter(), await world.add_adapter()
    same = await world.add_adapter(world.put_adapter(base_references=-1.01))
    bad = await world.add_adapter()
    world.answers[bad.digest] = -3.0
    await world.add_endpoint()
    why = {"override_reason": "I know what I do"}
    await world.evaluate(adapter, entry.model)
    assert (await refusal(world, other, **why)).reason == "WRONG_CANDIDATE"
    for subject in range(2):
        world.evaluator.evaluation.subjects[subject].digest = "f" * 64
        assert (await refusal(world, adapter, **why)).reason == "EVALUATION_STALE"
        await world.evaluate(adapter, entry.model)
    world.evaluator.evaluation.suite_digest = "f" * 64
    assert (await refusal(world, adapter, **why)).reason == "EVALUATION_STALE"
    for model_, reason in ((same, "MODEL_INDISTINGUISHABLE"), (bad, "MODEL_QUARANTINED")):
        assert (await refusal(world, model_, evaluation="", **why)).reason == reason
    assert not await world.history()


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (f"{PARENT}/datasets/ds-other", ("was trained on projects/default/datasets/ds-other", "shares no row with it")),
        ("projects/other/datasets/ds-reviews", ("was trained on projects/other/datasets/ds-reviews",)),
        ("", ("names no dataset", "register it with its provenance")),
    ],
)
async def test_rows_that_a_model_may_have_seen_are_no_evidence(world: World, dataset: str, words: tuple[str, ...]) -> None:
    entry = await world.add_base()
    candidate = await world.add_adapter(world.put_adapter(dataset=dataset))
    await world.add_endpoint()
    await world.evaluate(candidate, entry.model)
    refused = await refusal(world, candidate)
    assert refused.reason == "ROWS_NOT_HELD_OUT"
    assert all(word in refused.message for word in (*words, SUITE)), refused.message
    await world.promote(candidate.name, override_reason="its rows are of another year")
    assert (await world.history())[0].verdict.startswith("ROWS_NOT_HELD_OUT: ")


async def test_test_rows_of_the_dataset_that_trained_a_model_were_held_out_and_its_validation_rows_were_not(world: World) -> None:
    entry = await world.add_base()
    candidate = await world.add_adapter(world.put_adapter(dataset=DATASET))
    await world.add_endpoint()
    await world.evaluate(candidate, entry.model)
    world.evaluator.suite_part = suite_pb2.Suite.PART_VALIDATION
    assert (await refusal(world, candidate)).reason == "ROWS_NOT_HELD_OUT"
    world.evaluator.suite_part = suite_pb2.Suite.PART_TEST
    assert (await world.promote(candidate.name)).model == candidate.name


async def test_full_weights_of_nobody_get_their_first_endpoint_by_override_alone(world: World) -> None:
    await world.add_base()
    probe = {"prefix_token_ids": [1, 2, 3], "token_ids": [7], "adapter_logprobs": [-1.0]}
    chat = {"messages": [{"role": "user", "content": "hi"}], "prompt_token_ids": [1, 2, 3], "probes": [probe]}
    full = await world.add_adapter(world.put_full(golden={"chats": [chat] * 8}))
    await world.add_endpoint()
    await world.evaluate(full, (await world.get("tiny")).name)
    assert (await refusal(world, full)).reason == "CHAMPION_MISSING"
    await world.promote(full.name, override_reason="bought, with its own evaluation")
    route = (await world.routes())["support"]
    assert (route.digest, len(route.replicas)) == (full.digest, 1)


async def test_of_two_promotions_at_once_one_happens_and_the_other_is_told(world: World) -> None:
    await world.add_base()
    one, two = await world.add_adapter(), await world.add_adapter()
    await world.add_endpoint()
    await world.ensure(one.name)
    await world.ensure(two.name)
    why = {"evaluation": "", "override_reason": "in a hurry"}
    ended = await asyncio.gather(*(world.promote(m.name, **why) for m in (one, two)), return_exceptions=True)
    conflicts = [end for end in ended if isinstance(end, errors.Conflict)]
    if not conflicts:  # one after the other is right, too: the history has both
        assert len(await world.history()) == 2
    else:
        assert "changed by somebody else" in conflicts[0].message
        assert len(conflicts) == 1
        assert [p.number for p in await world.history()] == [1]


async def test_a_promotion_under_way_is_refused_when_its_model_is_deleted_first(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()
    record = await endpoints.get_endpoint(world.inference, ENDPOINT)
    await stand(world.inference, adapter.name, record)  # the promotion has decided, and is about to write
    await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=adapter.name))
    pointing = replace(Endpoint.from_document(record.document), model=adapter.name, digest=adapter.digest)
    with pytest.raises(errors.Conflict):
        await world.inference.database.update(record, pointing.to_document())
    with pytest.raises(errors.NotFound):
        await world.get(adapter.name)


async def test_a_model_is_kept_when_a_promotion_comes_between_the_look_at_endpoints_and_its_end(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()
    deleting = await world.inference.database.get(model.KIND, adapter.name)  # what a deletion has read
    await world.promote(adapter.name, evaluation="", override_reason="in a hurry")
    leaving = Model.from_document(deleting.document).quarantine("It is being deleted.")
    with pytest.raises(errors.Conflict):
        await world.inference.database.update(deleting, leaving.to_document())
    with pytest.raises(errors.WrongState) as refused:
        await world.models.DeleteModel(model_pb2.DeleteModelRequest(name=adapter.name))
    assert refused.value.reason == "MODEL_IN_USE"
    assert (await world.get(adapter.name)).state == model_pb2.Model.STATE_ACTIVE


async def test_deletions_and_promotions_of_one_model_at_once_never_leave_an_endpoint_without_its_model(world: World) -> None:
    await world.add_base()
    await world.add_endpoint()
    for _ in range(6):
        adapter = await world.add_adapter()
        await world.ensure(adapter.name)
        asked = world.promote(adapter.name, evaluation="", override_reason="in a hurry")
        deleted = world.models.DeleteModel(model_pb2.DeleteModelRequest(name=adapter.name))
        ended = await asyncio.gather(asked, deleted, return_exceptions=True)
        assert any(isinstance(end, errors.AfinaError) for end in ended), ended
        assert all(isinstance(end, errors.AfinaError) for end in ended if isinstance(end, BaseException)), ended
        pointing = await world.endpoints.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=ENDPOINT))
        if pointing.model:
            assert (await world.get(pointing.model)).state == model_pb2.Model.STATE_ACTIVE


async def test_a_quarantine_that_comes_while_a_promotion_decides_stops_it(world: World) -> None:
    await world.add_base()
    adapter = await world.add_adapter()
    await world.add_endpoint()
    record = await endpoints.get_endpoint(world.inference, ENDPOINT)
    held = await world.inference.database.get(model.KIND, adapter.name)
    quarantined = Model.from_document(held.document).quarantine("it answers as its base")
    await world.inference.database.update(held, quarantined.to_document())
    with pytest.raises(errors.WrongState) as refused:
        await stand(world.inference, adapter.name, record)
    assert refused.value.reason == "MODEL_QUARANTINED"


async def test_a_promotion_that_is_repeated_raises_the_revision_again_so_that_it_waits_again(world: World) -> None:
    (only,) = await chain(world, 1)
    table = await world.inference.routes.refresh()
    assert (await world.promote(only.name)).promotion_count == 1
    assert (await world.inference.routes.refresh()).revision == table.revision + 1


async def test_promotions_are_the_documents_that_they_were(world: World) -> None:
    await chain(world, 1)
    (told,) = await endpoints.history(world.inference, ENDPOINT)
    record = await endpoints.get_endpoint(world.inference, ENDPOINT)
    assert asdict(told) == record.document["promotions"][0]
