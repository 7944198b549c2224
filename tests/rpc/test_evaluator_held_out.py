"""Whether a model has seen what it is asked, and the suite that a dataset gets by itself: the evaluator over real gRPC."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from afina.v1 import dataset_pb2, model_pb2, suite_pb2
from afina.v1 import evaluation_pb2 as pb

from services.common import errors
from services.common.transport import wire
from services.evaluator.evaluation import KIND
from tests.builders import chat
from tests.fakes import ScriptedLauncher
from tests.unit.evaluator.world import BASE, DATASET, PARENT, TUNED, World, id_of, opened, rows

OTHER = f"{PARENT}/datasets/ds-2"
OWN = {"name": DATASET, "digest": "d" * 64}
STRANGE = {"name": OTHER, "digest": "2" * 64}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path, ScriptedLauncher(), {}) as world:
        world.datasets.datasets[OTHER] = dataset_pb2.Dataset(name=OTHER, digest="2" * 64)
        yield world


def trained_on(model: model_pb2.Model, *datasets: dict[str, str]) -> None:
    told: dict[str, Any] = {"dataset": datasets[0]} if len(datasets) == 1 else {"datasets": list(datasets)}
    model.provenance.CopyFrom(wire.struct(told))


async def findings(world: World) -> dict[str, pb.HeldOut]:
    created = await world.create()
    assert list(created.held_out) == []
    await world.move(created.name, "RUNNING")
    return {found.model: found for found in (await world.get(created.name)).held_out}


async def test_a_model_of_the_suites_own_dataset_has_not_seen_its_test_rows_and_of_a_base_nobody_knows(world: World) -> None:
    trained_on(world.models.models["tuned"], OWN)
    found = await findings(world)
    assert (found[TUNED].finding, found[TUNED].row_count) == (pb.HeldOut.FINDING_SAME_SPLIT, 6)
    assert list(found[TUNED].datasets) == [DATASET]
    assert found[BASE].finding == pb.HeldOut.FINDING_UNKNOWN
    assert "nobody knows" in found[BASE].message


async def test_a_model_of_other_rows_is_compared_row_by_row(world: World) -> None:
    trained_on(world.models.models["tuned"], STRANGE)
    assert (await findings(world))[TUNED].finding == pb.HeldOut.FINDING_DISJOINT
    world.datasets.overlaps[DATASET, OTHER] = [2, 5]
    found = (await findings(world))[TUNED]
    assert (found.finding, found.overlap_count, list(found.rows)) == (pb.HeldOut.FINDING_OVERLAPS, 2, [2, 5])
    assert found.message.startswith("2 of the 6 test rows")


async def test_every_dataset_counts_that_a_model_or_what_it_stands_on_was_trained_on(world: World) -> None:
    trained_on(world.models.models["tuned"], OWN)
    trained_on(world.models.models["base"], STRANGE)
    world.datasets.overlaps[DATASET, OTHER] = [1]
    found = await findings(world)
    assert found[TUNED].finding == found[BASE].finding == pb.HeldOut.FINDING_OVERLAPS
    assert list(found[TUNED].datasets) == [DATASET, OTHER]
    world.datasets.overlaps.clear()
    trained_on(world.models.models["tuned"], OWN, STRANGE)
    trained_on(world.models.models["base"], STRANGE)
    found = await findings(world)
    assert (found[TUNED].finding, found[BASE].finding) == (pb.HeldOut.FINDING_SAME_SPLIT, pb.HeldOut.FINDING_DISJOINT)


async def test_a_dataset_that_is_not_here_leaves_it_unknown(world: World) -> None:
    trained_on(world.models.models["tuned"], {"name": f"{PARENT}/datasets/gone", "digest": "9" * 64})
    found = (await findings(world))[TUNED]
    assert (found.finding, "There is no" in found.message) == (pb.HeldOut.FINDING_UNKNOWN, True)


@pytest.mark.parametrize("told", [{"dataset": "ds-1"}, {"datasets": [OWN, {"digest": "d" * 64}]}, {"datasets": "all of it"}])
async def test_an_origin_that_nobody_can_read_leaves_it_unknown(world: World, told: dict[str, Any]) -> None:
    world.models.models["tuned"].provenance.CopyFrom(wire.struct(told))
    assert (await findings(world))[TUNED].finding == pb.HeldOut.FINDING_UNKNOWN


async def test_a_comparison_that_takes_its_time_is_waited_for_before_anything_is_asked(world: World) -> None:
    trained_on(world.models.models["tuned"], STRANGE)
    world.datasets.is_comparing = True
    created = await world.create()
    await world.step(created.name)
    assert not world.launcher.manifests
    assert (await world.evaluator.database.get(KIND, created.name)).due_time is not None
    world.datasets.is_comparing = False
    await world.move(created.name, "RUNNING")
    assert (await world.get(created.name)).held_out[1].finding == pb.HeldOut.FINDING_DISJOINT


async def default(world: World, dataset: str = DATASET) -> suite_pb2.Suite:
    request = suite_pb2.EnsureDefaultSuiteRequest(parent=PARENT, dataset=dataset)
    suite: suite_pb2.Suite = await world.suites.EnsureDefaultSuite(request)
    return suite


async def test_the_default_suite_of_labels_asks_the_rows_as_they_are_and_is_made_once(world: World) -> None:
    suite = await default(world)
    assert suite.name == f"{PARENT}/suites/default-ds-1"
    assert [criterion.WhichOneof("criterion") for criterion in suite.criteria] == ["classification", "exact_match"]
    assert list(suite.prompts) == [suite_pb2.Prompt(id="zero-shot", method=suite_pb2.Prompt.METHOD_GENERATE)]
    assert (suite.max_items, suite.max_tokens, suite.dataset_digest) == (400, 32, "d" * 64)
    world.hold("test", rows(9, 1))  # whatever the dataset says now
    assert await default(world) == suite


async def test_the_default_suite_asks_at_most_400_of_many_rows_and_the_worker_is_told_so(world: World) -> None:
    many = [chat(f"Tell me about {n}.", f"A long story about the number {n}, which ends well.") for n in range(1000)]
    world.hold("test", many, OTHER)
    suite = await default(world, OTHER)
    created = await world.create(pb.Subject(model=BASE), pb.Subject(model=TUNED), suite=suite.name)
    assert (created.question_count, created.deciding_metric) == (800, "chrf")
    await world.move(created.name, "RUNNING")
    spec = json.loads(world.store.read(world.environment(created.name)["AFINA_SPEC"]))
    assert spec["suite"]["max_items"] == 400
    assert id_of(created.name) in spec["result"]["prefix"]


async def test_a_dataset_without_test_rows_or_with_calls_of_tools_has_no_default_suite(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await default(world, OTHER)
    assert [violation.reason for violation in caught.value.violations] == ["NO_TEST_ROWS"]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    world.hold("test", [row] * 3, OTHER)
    with pytest.raises(errors.InvalidInput, match="call of a tool"):
        await default(world, OTHER)
    for dataset in (f"{PARENT}/datasets/none", "projects/other/datasets/ds-1", "ds-1"):
        with pytest.raises((errors.NotFound, errors.InvalidInput)):
            await default(world, dataset)
