"""What must hold when a main job has ended, whoever was killed under it: right, once, nothing lost, little computed again."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from afina.v1 import evaluation_pb2, evaluation_pb2_grpc, model_pb2, model_pb2_grpc

from services.common.ports.manifest import Manifest
from tests.builders import eventually
from tests.e2e.main_job import ANSWER, ROWS, STEPS, Story
from tests.e2e.world import BASE, CHECKPOINT_INTERVAL_S, World

ONCE = ("MODEL_REGISTERED", "RESULTS_KEPT", "MODEL_PROVEN", "EVALUATION_STARTED", "VERDICT")
WEIGHTS = "adapter_model.safetensors"


async def check(world: World, story: Story, adapter_sha256: str = "", *, is_history_whole: bool = True) -> str:
    """Hold a story against what must be true; return the digest of its adapter's weights, which the next story's must equal.

    Events of a worker whose service is away when it leaves may be lost; then the history is not whole, but not doubled.
    """
    await world.all_serve()
    assert story.job.fine_tuned_model.startswith(f"ft:{BASE}:{story.project}:rooms:")
    check_events(story.events, is_whole=is_history_whole)
    manifest = await asyncio.to_thread(_manifest, world, story)
    weights = manifest.file(WEIGHTS).sha256
    assert adapter_sha256 in ("", weights), "the adapter is not that of an undisturbed run"
    await _one_model(world, story, manifest)
    assert story.answer == ANSWER
    assert [(p.model, p.evaluation) for p in story.endpoint.promotions] in ([], [(story.job.model, story.evaluation.name)])
    assert story.endpoint.promotions or story.verdict, "neither promoted nor refused in words"
    evaluations = world.call(story.project).client(evaluation_pb2_grpc.EvaluationServiceStub, "evaluator")
    listed = await evaluations.ListEvaluations(evaluation_pb2.ListEvaluationsRequest(parent=f"projects/{story.project}"))
    assert [found.name for found in listed.evaluations] == [story.evaluation.name]
    client = await world.openai(story.project)
    content = await asyncio.to_thread(lambda: client.files.content(story.file).read())
    assert content == ROWS
    mine = {name.rpartition("/")[2] for name in (story.job.name, story.evaluation.name)}
    await eventually(lambda: not [key for key in world.workers() if key.rpartition("-")[0] in mine], timeout_s=30)
    return weights


def check_events(events: Sequence[Any], *, is_whole: bool = True) -> None:
    """Events are gapless, say each thing once, and tell of at most one checkpoint interval that was computed again."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    counts = Counter(event.type for event in events)
    assert {kind: counts[kind] for kind in ONCE} == dict.fromkeys(ONCE, 1), counts
    begun = [event.message for event in events if event.message.endswith("runs.")]
    assert len(begun) == len(set(begun)), begun
    steps: list[tuple[int, float]] = []  # of the attempt that tells: number, seconds
    tokens = {0: 0.0}  # trained in all, by step; the same in every attempt
    unsaved = 0  # the step of a checkpoint that the store was away for
    for event in events:
        if event.type == "STEP":
            step = int(event.data["step"])
            tokens[step] = event.data["trained_tokens"]
            steps.append((step, (tokens[step] - tokens.get(step - 1, tokens[step])) / event.data["tokens_per_s"]))
        elif event.type == "CHECKPOINT_FAILED":
            unsaved = int(event.data["step"])
        elif event.type == "RESUMED":
            resumed = max(unsaved, int(event.data["step"]))
            again = [seconds for number, seconds in steps if number > resumed]
            # A checkpoint is saved after the step with which its interval is over, so without that one they are less.
            assert sum(again[:-1]) < CHECKPOINT_INTERVAL_S, (resumed, steps)
            steps, unsaved = [], 0
    numbers = [number for number, _ in steps]
    assert numbers == sorted(set(numbers)), numbers
    assert not is_whole or numbers == list(range(numbers[0], STEPS + 1)), numbers


def _manifest(world: World, story: Story) -> Manifest:
    """Read the job's manifest, and hold every file and every metric against it."""
    manifest = Manifest.from_json(world.store.read(f"jobs/{story.job.name.rpartition('/')[2]}/manifest.json"))
    assert manifest.kind == "adapter"
    assert manifest.data["job"] == story.job.name
    assert [metric["step"] for metric in manifest.data["metrics"]] == list(range(1, STEPS + 1))
    for file in manifest.files:
        data = world.store.read(file.artifact.key)
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.artifact.sha256, file.artifact.size_bytes), file.path
    return manifest


async def _one_model(world: World, story: Story, manifest: Manifest) -> None:
    models = world.call(story.project).client(model_pb2_grpc.ModelServiceStub, "inference")
    found = (await models.ListModels(model_pb2.ListModelsRequest(parent=f"projects/{story.project}"))).models
    own = [model for model in found if model.kind != model_pb2.Model.KIND_BASE]
    assert [model.name for model in own] == [story.job.model]
    assert own[0].digest == manifest.digest
    assert own[0].state == model_pb2.Model.STATE_ACTIVE
    assert own[0].provenance["job"] == story.job.name
    assert own[0].verdict.evaluation == story.job.verdict.evaluation == story.evaluation.name
