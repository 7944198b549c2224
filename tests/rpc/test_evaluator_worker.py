"""The evaluator with its real worker as a process, which asks a scripted gateway over real HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest
from afina.v1 import evaluation_pb2 as pb

from services.common.backends.launcher.process import ProcessLauncher
from tests.builders import eventually
from tests.unit.evaluator.scripted_gateway import ScriptedGateway, words_of
from tests.unit.evaluator.world import BASE, DATASET, LABELS, TUNED, World, id_of, opened, prompts


def scripted_gateway() -> ScriptedGateway:
    """The tuned model is always right; the base talks, and leans to what it saw last – negative – when its labels are scored."""

    def say(model: str, messages: list[dict[str, Any]]) -> str:
        if model == "tiny":
            return "I like reviews" if len(messages) == 1 else "Neutral."
        return LABELS[int(messages[-1]["content"].rpartition(" ")[2]) % 3].capitalize()

    def weigh(model: str, prompt: list[int], token: int) -> float:
        return -0.5 if words_of([token]) == "negative" else -3.0

    return ScriptedGateway(say=say, weigh=weigh, digests={"tiny": "b" * 64, "ft:tiny:default::1": "a" * 64})


async def run_worker(tmp_path: Path, gateway: ScriptedGateway, *, cancel: bool = False) -> tuple[pb.Evaluation, World]:
    """Run one evaluation with the real worker as a process, and return how it ended."""
    environment = {"GATEWAY_URL": gateway.url, "AFINA_CACHE": str(tmp_path / "cache")}
    async with opened(tmp_path, ProcessLauncher(tmp_path / "processes"), environment) as world:
        created = await world.create()

        async def looks() -> pb.Evaluation:
            await world.step(created.name)
            return await world.get(created.name)

        async def asks() -> bool:
            await looks()
            return bool(gateway.requests)

        async def ended() -> pb.Evaluation | None:
            seen = await looks()
            return seen if seen.HasField("end_time") else None

        if cancel:
            await eventually(asks, timeout_s=120)
            await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
        return await eventually(ended, timeout_s=120), world


async def test_the_real_worker_asks_scores_compares_and_publishes(tmp_path: Path) -> None:
    async with scripted_gateway().running() as gateway:
        gateway.failures = [(503, {"retry-after": "0"}), (429, {"retry-after": "0"})]  # the model is being loaded
        done, world = await run_worker(tmp_path, gateway)
    assert done.state == pb.Evaluation.STATE_SUCCEEDED, done.error
    # Items 9..14 are negative, neutral, positive, twice; so every constant answer is right on 2 of 6.
    assert {(score.model, score.prompt): score.accuracy for score in done.scores} == {
        (BASE, "zero-shot"): 0.0,
        (BASE, "few-shot"): pytest.approx(1 / 3),
        (BASE, "label-scored"): pytest.approx(1 / 3),
        (TUNED, "zero-shot"): 1.0,
        ("", "majority"): pytest.approx(1 / 3),
    }
    by_way = {(score.model, score.prompt): list(score.confusion) for score in done.scores}
    assert by_way[BASE, "zero-shot"] == [0, 0, 0, 2] * 3
    assert by_way["", "majority"] == [0, 0, 2, 0] * 3
    forward = next(comparison for comparison in done.comparisons if comparison.candidate == TUNED)
    assert (forward.champion, forward.champion_prompt, forward.candidate_prompt) == (BASE, "few-shot", "zero-shot")
    assert (forward.candidate_only_count, forward.champion_only_count, forward.item_count) == (4, 0, 6)
    assert forward.p_value == 2 / 2**4
    answers = [json.loads(line) for line in world.store.read(done.answers.key).splitlines()]
    assert len(answers) == 24 + 6
    assert answers[0] == {
        "model": BASE, "prompt": "zero-shot", "item": 0, "reference": "negative", "answer": "I like reviews", "label": None,
        "is_right": False,
    }  # fmt: skip
    assert done.answered_count == 24
    scored = [body for path, body, _ in gateway.requests if path == "/v1/completions"]
    assert len(scored) == 6  # labels whose first tokens differ cost one request an item
    assert words_of(scored[0]["prompt"]).endswith("<|im_end|> <|im_start|> assistant")
    few = [body["messages"] for _, body, _ in gateway.requests if body["model"] == "tiny" and len(body.get("messages", [])) > 1]
    assert sorted(message["content"] for message in few[0] if message["role"] == "assistant") == LABELS
    assert {key for _, _, key in gateway.requests} == {"Bearer afina-secret-1"}
    assert not list((tmp_path / "cache").glob("*/model.safetensors"))


async def test_the_real_worker_ends_where_another_model_answers(tmp_path: Path) -> None:
    async with scripted_gateway().running() as gateway:
        gateway.digests["ft:tiny:default::1"] = "c" * 64
        done, _ = await run_worker(tmp_path, gateway)
    assert done.state == pb.Evaluation.STATE_FAILED
    assert b"WRONG_MODEL_ANSWERED" in done.error.SerializeToString()
    assert f"instead of {'a' * 64}" in done.error.message


async def test_the_real_worker_leaves_when_its_evaluation_is_cancelled(tmp_path: Path) -> None:
    async with scripted_gateway().running() as gateway:
        gateway.failures = [(503, {"retry-after": "20"})] * 1000
        done, world = await run_worker(tmp_path, gateway, cancel=True)
    assert done.state == pb.Evaluation.STATE_CANCELLED
    assert (await world.evaluator.launcher.observe(f"{id_of(done.name)}-1")).exit_code == 75


async def test_rows_that_are_no_label_end_an_evaluation_with_each_of_them(tmp_path: Path) -> None:
    async with scripted_gateway().running() as gateway:
        environment = {"GATEWAY_URL": gateway.url, "AFINA_CACHE": str(tmp_path / "cache")}
        async with opened(tmp_path, ProcessLauncher(tmp_path / "processes"), environment) as world:
            counts = world.datasets.datasets[DATASET].label_counts
            del counts["neutral"]  # as where the dataset's program sees labels that its rows do not keep to
            suite = await world.suite(prompts=prompts()[:1], labels=["negative", "positive"])
            created = await world.create(suite=suite.name)

            async def ended() -> pb.Evaluation | None:
                await world.step(created.name)
                seen = await world.get(created.name)
                return seen if seen.HasField("end_time") else None

            done = await eventually(ended, timeout_s=120)
    assert "2 of 6 test rows" in done.error.message
    assert b"test row 2" in done.error.SerializeToString()
    assert b"test row 5" in done.error.SerializeToString()
    assert gateway.requests == []
