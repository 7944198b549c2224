"""The evaluator with its real worker as a process, which asks a scripted gateway over real HTTP."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from afina.v1 import api_key_pb2, suite_pb2
from afina.v1 import evaluation_pb2 as pb
from sacrebleu.metrics import BLEU, CHRF

from services.common.backends import choose
from services.common.backends.launcher.process import ProcessLauncher
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.ports.manifest import put_folder
from services.common.ports.object_store import ObjectStore
from services.evaluator.evaluation import KIND
from tests.builders import chat, eventually
from tests.fakes_upstream import ScriptedInference, ScriptedUpstream, running_gateway
from tests.servers import S3Server
from tests.unit.evaluator.scripted_gateway import TEMPLATE, ScriptedGateway, save_tokenizer, words_of
from tests.unit.evaluator.world import BASE, DATASET, LABELS, PARENT, TUNED, World, id_of, opened, prompts


def scripted_gateway() -> ScriptedGateway:
    """The tuned model is always right; the base talks, and leans to what it saw last – negative – when its labels are scored."""

    def say(model: str, messages: list[dict[str, Any]]) -> str:
        if model == "tiny":
            return "I like reviews" if len(messages) == 1 else "Neutral."
        return LABELS[int(messages[-1]["content"].rpartition(" ")[2]) % 3].capitalize()

    def weigh(model: str, prompt: list[int], token: int) -> float:
        return -0.5 if words_of([token]) == "negative" else -3.0

    return ScriptedGateway(say=say, weigh=weigh, digests={"tiny": "b" * 64, "ft:tiny:default::1": "a" * 64})


@contextlib.asynccontextmanager
async def with_worker(tmp_path: Path, gateway: ScriptedGateway, store: ObjectStore | None = None) -> AsyncIterator[World]:
    """An evaluator that launches the real worker as a process."""
    environment = {"GATEWAY_URL": gateway.url, "AFINA_CACHE": str(tmp_path / "cache")}
    async with opened(tmp_path, ProcessLauncher(tmp_path / "processes"), environment, store=store) as world:
        yield world


async def ended(world: World, name: str) -> pb.Evaluation:
    """Wait until an evaluation has ended."""

    async def look() -> pb.Evaluation | None:
        await world.step(name)
        seen = await world.get(name)
        return seen if seen.HasField("end_time") else None

    found: pb.Evaluation = await eventually(look, timeout_s=120)
    return found


async def asked(world: World, name: str, gateway: ScriptedGateway, model: str) -> None:
    """Wait until a model is asked something."""

    async def look() -> bool:
        await world.step(name)
        return any(body["model"] == model for _, body, _ in gateway.requests)

    await eventually(look, timeout_s=120)


async def run_worker(tmp_path: Path, gateway: ScriptedGateway, *, cancel: bool = False) -> tuple[pb.Evaluation, World]:
    """Run one evaluation with the real worker as a process, and return how it ended."""
    async with with_worker(tmp_path, gateway) as world:
        created = await world.create()
        if cancel:
            await asked(world, created.name, gateway, "tiny")
            await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
        return await ended(world, created.name), world


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
    lines = [json.loads(line) for line in world.store.read(done.answers.key).splitlines()]
    assert [(line["part"], line["item"], line["expected"]) for line in lines] == [("test", n, LABELS[n % 3]) for n in range(6)]
    assert lines[0]["question"] == [{"role": "user", "content": "classify item 9"}]
    assert [(one["model"], one["prompt"]) for one in lines[0]["answers"]] == [(s.model, s.prompt) for s in done.scores]
    assert lines[0]["answers"][0] == {
        "model": BASE, "prompt": "zero-shot", "answer": "I like reviews", "label": None, "is_right": False,
        "scores": {"accuracy": 0.0, "exact_match": 0.0}, "finish_reason": "stop",
    }  # fmt: skip
    assert lines[0]["answers"][2]["logprobs"] == {"positive": -3.0, "negative": -0.5, "neutral": -3.0}
    assert list(world.store.list(f"evaluations/{id_of(done.name)}/kept/")) == []
    assert done.answered_count == 24
    scored = [body for path, body, _ in gateway.requests if path == "/v1/completions"]
    assert len(scored) == 6  # labels whose first tokens differ cost one request an item
    assert words_of(scored[0]["prompt"]).endswith("<|im_end|> <|im_start|> assistant")
    few = [body["messages"] for _, body, _ in gateway.requests if body["model"] == "tiny" and len(body.get("messages", [])) > 1]
    assert sorted(message["content"] for message in few[0] if message["role"] == "assistant") == LABELS
    assert {key for _, _, key in gateway.requests} == {"Bearer afina-secret-1"}
    assert not list((tmp_path / "cache").glob("*/model.safetensors"))


async def test_on_s3_the_worker_has_no_key_and_its_evaluation_comes_out_all_the_same(tmp_path: Path, s3_server: S3Server) -> None:
    store = s3_server.store(tmp_path.name)
    async with scripted_gateway().running() as gateway, with_worker(tmp_path, gateway, store) as world:
        created = await world.create()
        await asked(world, created.name, gateway, "tiny")
        (manifest,) = (tmp_path / "processes").glob("*/manifest.json")
        assert s3_server.environ["AWS_SECRET_ACCESS_KEY"] not in manifest.read_text()
        given = json.loads(manifest.read_text())["environment"]
        opened_store = choose.object_store(given["OBJECT_STORE"], given)
        with pytest.raises(PermissionDenied):
            await asyncio.to_thread(opened_store.delete, f"evaluations/{id_of(created.name)}/kept/x")
        done = await ended(world, created.name)
        assert done.state == pb.Evaluation.STATE_SUCCEEDED, done.error
        assert list(store.list(f"evaluations/{id_of(created.name)}/kept/")) == []
        with pytest.raises(Unauthenticated):
            await asyncio.to_thread(opened_store.read, done.answers.key)


async def test_labels_are_scored_by_the_template_that_the_catalogue_declares(tmp_path: Path) -> None:
    async with scripted_gateway().running() as gateway, with_worker(tmp_path, gateway) as world:
        manifest = put_folder(world.store, "bases", save_tokenizer(tmp_path / "bare", None), "base", {})
        world.store.commit("manifests/bases/bare.json", manifest.to_json())
        base = world.models.models["base"]
        base.manifest_key, base.chat_template = "manifests/bases/bare.json", TEMPLATE
        created = await world.create(pb.Subject(model=BASE, prompts=["label-scored"]))
        done = await ended(world, created.name)
    assert done.state == pb.Evaluation.STATE_SUCCEEDED, done.error
    asked_with = {words_of(body["prompt"]) for path, body, _ in gateway.requests if path == "/v1/completions"}
    assert asked_with == {f"<|im_start|> user classify item {n} <|im_end|> <|im_start|> assistant" for n in range(9, 15)}


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
    async with scripted_gateway().running() as gateway, with_worker(tmp_path, gateway) as world:
        counts = world.datasets.datasets[DATASET].label_counts
        del counts["neutral"]  # as where the dataset's program sees labels that its rows do not keep to
        suite = await world.suite(prompts=prompts()[:1], labels=["negative", "positive"])
        done = await ended(world, (await world.create(suite=suite.name)).name)
    assert "2 of 6 test rows" in done.error.message
    assert b"test row 2" in done.error.SerializeToString()
    assert b"test row 5" in done.error.SerializeToString()
    assert gateway.requests == []


async def test_validation_rows_choose_each_models_prompt_and_only_test_rows_decide(tmp_path: Path) -> None:
    """On the validation rows, all neutral, the base is right when it is shown examples; on test rows it never is better so."""
    async with scripted_gateway().running() as gateway, with_worker(tmp_path, gateway) as world:
        world.hold("validation", [chat(f"classify item {n}", "neutral") for n in range(1, 91, 3)])
        created = await world.create(pb.Subject(model=BASE), pb.Subject(model=TUNED, prompts=["few-shot", "zero-shot"]))
        done = await ended(world, created.name)
    assert done.state == pb.Evaluation.STATE_SUCCEEDED, done.error
    assert done.answered_count == done.question_count == 5 * (6 + 30)
    chosen = {(score.model, score.prompt): score.validation.value for score in done.scores if score.is_chosen}
    assert chosen == {(BASE, "few-shot"): 1.0, (TUNED, "few-shot"): 1.0}
    majority = next(score for score in done.scores if score.prompt == "majority")
    assert (majority.validation.value, majority.item_count) == (0.0, 6)
    forward = next(comparison for comparison in done.comparisons if comparison.candidate == TUNED)
    assert (forward.champion_prompt, forward.candidate_prompt, forward.item_count) == ("few-shot", "few-shot", 6)
    lines = [json.loads(line) for line in world.store.read(done.answers.key).splitlines()]
    assert [line["part"] for line in lines] == ["validation"] * 30 + ["test"] * 6


async def test_the_attempt_after_a_killed_worker_asks_only_what_was_not_answered(tmp_path: Path) -> None:
    async with scripted_gateway().running() as gateway, with_worker(tmp_path, gateway) as world:
        gateway.away = {"ft:tiny:default::1"}
        created = await world.create()
        await asked(world, created.name, gateway, "ft:tiny:default::1")
        process = json.loads((tmp_path / "processes" / f"{id_of(created.name)}-1" / "process.json").read_text())
        os.kill(process["pid"], signal.SIGKILL)
        gateway.away = set()
        done = await ended(world, created.name)
        events = await world.evaluator.database.events(KIND, created.name, limit=100)
    assert done.state == pb.Evaluation.STATE_SUCCEEDED, done.error
    assert "ATTEMPT_ENDED" in {event.type for event in events}
    questions = [
        json.dumps([body.get("messages"), body.get("prompt")]) for _, body, _ in gateway.requests if body["model"] == "tiny"
    ]
    assert len(questions) == len(set(questions)) == 18  # six items in three ways: none was asked twice
    assert {(score.model, score.prompt): score.accuracy for score in done.scores}[TUNED, "zero-shot"] == 1.0
    assert next(score for score in done.scores if score.prompt == "label-scored").accuracy == pytest.approx(1 / 3)


async def test_free_text_is_evaluated_through_the_real_gateway_with_a_key_that_ends_with_it(tmp_path: Path) -> None:
    """The server echoes the question: asked plainly it says what is expected, but for the last word of the odd rows."""

    def rows(first: int, count: int) -> list[dict[str, Any]]:
        texts = [f"number {n} is a fine and quiet place near the old river" for n in range(first, first + count)]
        return [chat(text, text.replace("river", "road") if n % 2 else text) for n, text in enumerate(texts)]

    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream("served-base", "served-tuned").running())
        inference = await stack.enter_async_context(ScriptedInference().running())
        inference.put("tiny", BASE, "b" * 64, upstream.replica("served-base"))
        inference.put("ft:tiny:default::1", TUNED, "a" * 64, upstream.replica("served-tuned"))
        gateway = await stack.enter_async_context(running_gateway(tmp_path, inference.address))
        await gateway.knows("tiny")
        environment = {"GATEWAY_URL": gateway.url, "AFINA_CACHE": str(tmp_path / "cache")}
        launcher = ProcessLauncher(tmp_path / "processes")
        world = await stack.enter_async_context(opened(tmp_path, launcher, environment, gateway.grpc_address))
        dataset = f"{PARENT}/datasets/free"
        world.hold("train", rows(0, 4), dataset)
        world.hold("validation", rows(10, 30), dataset)
        world.hold("test", rows(40, 130), dataset)  # more than a block
        generate = suite_pb2.Prompt.METHOD_GENERATE
        texts = (("polite", "Please say: {{question}}"), ("plain", ""))
        asking = [suite_pb2.Prompt(id=prompt, method=generate, template=template) for prompt, template in texts]
        criteria = [suite_pb2.Criterion(chrf=suite_pb2.Chrf()), suite_pb2.Criterion(exact_match=suite_pb2.ExactMatch())]
        suite = await world.suite("free", dataset=dataset, prompts=asking, criteria=criteria)
        created = await world.create(pb.Subject(model=BASE), pb.Subject(model="ft:tiny:default::1"), suite=suite.name)
        done = await ended(world, created.name)
        left = await gateway.api_keys.ListApiKeys(api_key_pb2.ListApiKeysRequest(parent=PARENT))
    assert done.state == pb.Evaluation.STATE_SUCCEEDED, done.error
    assert done.answered_count == len(upstream.requests) == 2 * 2 * (130 + 30)
    chosen = [score for score in done.scores if score.is_chosen]
    assert [(score.model, score.prompt, score.item_count) for score in chosen] == [(BASE, "plain", 130), (TUNED, "plain", 130)]
    meant = [row["messages"][1]["content"] for row in rows(40, 130)]
    said = [row["messages"][0]["content"] for row in rows(40, 130)]
    metrics = {metric.name: metric for metric in chosen[0].metrics}
    assert 100 * metrics["chrf"].value == pytest.approx(CHRF().corpus_score(said, [meant]).score)
    assert metrics["exact_match"].value == 0.5
    assert {(pair.effect, pair.p_value, pair.candidate_prompt) for pair in done.comparisons} == {(0.0, 1.0, "plain")}
    assert [key.display_name for key in left.api_keys] == ["tests"]


async def test_free_text_is_evaluated_from_its_rows_to_graded_scores(tmp_path: Path) -> None:
    """A dataset without labels: the tuned model says what the reference says but for its last word, the base something else.

    20 of its 24 test rows are asked.
    """
    answers = {f"Describe {n}": f"number {n} is a fine and quiet place near the old river" for n in range(30)}

    def say(model: str, messages: list[dict[str, Any]]) -> str:
        assert messages[0] == {"role": "system", "content": "Answer in one sentence."}
        meant = answers[messages[-1]["content"].removeprefix("Please: ")]
        return "I would rather not say" if model == "tiny" else meant.replace("river", "road")

    names = {"tiny": "b" * 64, "ft:tiny:default::1": "a" * 64}
    async with ScriptedGateway(say=say, digests=names, finish_reason="length").running() as gateway:
        async with with_worker(tmp_path, gateway) as world:
            dataset = f"{PARENT}/datasets/free"
            texts = [chat(question, answer) for question, answer in answers.items()]
            world.hold("train", texts[:6], dataset)
            world.hold("test", texts[6:], dataset)
            prompt = suite_pb2.Prompt(
                id="polite", method=suite_pb2.Prompt.METHOD_GENERATE, instruction="Answer in one sentence.",
                template="Please: {{question}}", shots=1,
            )  # fmt: skip
            criteria = [
                suite_pb2.Criterion(rouge=suite_pb2.Rouge()), suite_pb2.Criterion(bleu=suite_pb2.Bleu()),
                suite_pb2.Criterion(chrf=suite_pb2.Chrf()), suite_pb2.Criterion(exact_match=suite_pb2.ExactMatch()),
            ]  # fmt: skip
            suite = await world.suite("free", dataset=dataset, prompts=[prompt], criteria=criteria, max_items=20)
            created = await world.create(pb.Subject(model=BASE), pb.Subject(model=TUNED), suite=suite.name)
            done = await ended(world, created.name)
    assert done.state == pb.Evaluation.STATE_SUCCEEDED, done.error
    assert (done.deciding_metric, len(done.scores), list(done.labels)) == ("rougeL", 2, [])
    tuned = {metric.name: metric for metric in done.scores[1].metrics}
    assert list(tuned) == ["exact_match", "rouge1", "rouge2", "rougeL", "bleu", "chrf"]
    assert tuned["rougeL"].value == pytest.approx(11 / 12)  # 11 of 12 words in order: precision and recall alike
    assert tuned["rouge2"].value == pytest.approx(10 / 11)
    lines = [json.loads(line) for line in world.store.read(done.answers.key).splitlines()]
    meant = [line["expected"] for line in lines]
    assert len(meant) == 20
    assert meant == [answer for answer in list(answers.values())[6:] if answer in meant]  # in the order of the rows
    said = [answer.replace("river", "road") for answer in meant]
    assert 100 * tuned["bleu"].value == pytest.approx(BLEU().corpus_score(said, [meant]).score)
    assert (tuned["exact_match"].value, done.scores[1].confusion) == (0.0, [])
    forward = next(comparison for comparison in done.comparisons if comparison.candidate == TUNED)
    assert (forward.candidate_only_count, forward.champion_only_count, forward.item_count) == (20, 0, 20)
    assert done.question_count == 40
    assert forward.effect == forward.differences[0].effect.value > 0.5
    assert forward.p_value < 0.001
    answer = lines[0]["answers"][1]
    assert (answer["finish_reason"], answer["label"], answer["scores"]["rougeL"]) == ("length", None, round(11 / 12, 6))
