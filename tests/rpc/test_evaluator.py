"""The evaluator as its clients see it: real gRPC, real SQLite and files, its peers over gRPC; the workers end on cue."""

import functools
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from afina.v1 import evaluation_pb2 as pb
from afina.v1 import model_pb2, resources_pb2, suite_pb2, worker_pb2

from services.common import errors
from services.common.ports.manifest import Manifest
from services.common.reconcile import Reconciler
from services.common.transport import wire
from services.common.transport.worker_reports import TOKEN_KEY
from services.evaluator.attempts import CLEAN_AGAIN_S, reconcile_evaluation
from services.evaluator.clients import Peers
from services.evaluator.evaluation import KIND
from services.evaluator.use_cases import Evaluator
from tests.fakes import ScriptedLauncher
from tests.unit.evaluator.world import BASE, DATASET, LABELS, PARENT, TUNED, World, id_of, opened, prompts, rows


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path, ScriptedLauncher(), {"EXTRA": "1"}) as world:
        yield world


async def test_a_suite_takes_what_it_leaves_open_from_its_dataset(world: World) -> None:
    suite = await world.suite()
    assert suite.name == f"{PARENT}/suites/reviews"
    assert list(suite.labels) == LABELS
    assert suite.max_tokens == 32
    assert [criterion.WhichOneof("criterion") for criterion in suite.criteria] == ["classification", "exact_match"]
    assert suite.part == suite_pb2.Suite.PART_TEST
    assert len(suite.digest) == 64
    assert await world.suites.GetSuite(suite_pb2.GetSuiteRequest(name=suite.name)) == suite


async def test_the_same_suite_under_the_same_id_is_the_same_and_another_is_refused(world: World) -> None:
    first = await world.suite()
    assert await world.suite() == first
    with pytest.raises(errors.AlreadyExists):
        await world.suite(max_tokens=64)


async def test_a_suite_without_an_id_is_named_by_its_content(world: World) -> None:
    first = await world.suite("")
    assert await world.suite("") == first
    assert (await world.suite("", max_tokens=64)).name != first.name


async def test_every_mistake_in_a_suite_is_told_at_once(world: World) -> None:
    bad = [suite_pb2.Prompt(id="A", method=suite_pb2.Prompt.METHOD_GENERATE, shots=4), suite_pb2.Prompt(id="b")]
    with pytest.raises(errors.InvalidInput) as caught:
        await world.suite("Not OK", prompts=bad, max_tokens=-1)
    assert {violation.field for violation in caught.value.violations} == {
        "suite_id", "suite.prompts[0].id", "suite.prompts[0].shots", "suite.prompts[1].method", "suite.max_tokens",
    }  # fmt: skip


async def test_a_suite_over_an_unknown_dataset_or_one_of_another_project_is_refused(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await world.suite(dataset=f"{PARENT}/datasets/none")
    for dataset in ("projects/other/datasets/ds-1", "ds-1", ""):
        with pytest.raises(errors.InvalidInput) as caught:
            await world.suite(dataset=dataset)
        assert [violation.field for violation in caught.value.violations] == ["suite.dataset"]


async def test_label_scoring_is_refused_where_the_dataset_has_no_labels(world: World) -> None:
    world.datasets.datasets[DATASET].label_counts.clear()
    with pytest.raises(errors.InvalidInput, match="Label scoring"):
        await world.suite()
    assert list((await world.suite(prompts=prompts()[:1])).labels) == []


async def test_a_suite_keeps_its_criteria_its_part_and_the_words_of_its_prompts(world: World) -> None:
    world.hold("validation", rows(15, 3))
    prompt = suite_pb2.Prompt(
        id="mine", method=suite_pb2.Prompt.METHOD_GENERATE, instruction="Be brief.", template="{{question}}\nOne of {{labels}}:"
    )
    criteria = [
        suite_pb2.Criterion(bleu=suite_pb2.Bleu(tokenizer=suite_pb2.Bleu.TOKENIZER_ZH, lowercase=True)),
        suite_pb2.Criterion(chrf=suite_pb2.Chrf(words=True)),
        suite_pb2.Criterion(rouge=suite_pb2.Rouge(unicode=True)),
        suite_pb2.Criterion(exact_match=suite_pb2.ExactMatch(drop_articles=True)),
        suite_pb2.Criterion(classification=suite_pb2.Classification()),
    ]
    suite = await world.suite(prompts=[prompt], criteria=criteria, part=suite_pb2.Suite.PART_VALIDATION)
    assert list(suite.prompts) == [prompt]
    assert list(suite.criteria) == criteria
    assert suite.part == suite_pb2.Suite.PART_VALIDATION
    created = await world.create(pb.Subject(model=BASE), suite=suite.name)
    assert (created.deciding_metric, created.choice, created.question_count) == ("bleu", pb.Evaluation.CHOICE_CLOSEST, 3)


async def test_validation_rows_choose_where_test_rows_decide(world: World) -> None:
    world.hold("validation", rows(15, 30))
    created = await world.create()
    assert (created.deciding_metric, created.choice) == ("accuracy", pb.Evaluation.CHOICE_VALIDATION)
    assert created.question_count == 3 * (6 + 30) + (6 + 30)
    await world.move(created.name, "RUNNING")
    spec = json.loads(world.store.read(world.environment(created.name)["AFINA_SPEC"]))
    assert spec["dataset"]["choosing"]["key"] == world.datasets.datasets[DATASET].validation.artifact.key
    assert [subject["has_choice"] for subject in spec["subjects"]] == [True, True]


async def test_criteria_that_say_nothing_or_do_not_fit_free_text_are_refused_together(world: World) -> None:
    world.datasets.datasets[DATASET].label_counts.clear()
    criteria = [
        suite_pb2.Criterion(classification=suite_pb2.Classification()),
        suite_pb2.Criterion(),
        suite_pb2.Criterion(bleu=suite_pb2.Bleu(tokenizer=99)),  # type: ignore[arg-type]
    ]
    bad = suite_pb2.Prompt(id="p", method=suite_pb2.Prompt.METHOD_GENERATE, template="{{questoin}}")
    with pytest.raises(errors.InvalidInput) as caught:
        await world.suite(prompts=[bad], criteria=criteria, part=9)
    assert [(violation.field, violation.reason) for violation in caught.value.violations] == [
        ("suite.prompts[0].template", "UNKNOWN_VARIABLE"),
        ("suite.prompts[0].template", "QUESTION_MISSING"),
        ("suite.part", "UNKNOWN_PART"),
        ("suite.criteria[1]", "REQUIRED"),
        ("suite.criteria[2].bleu.tokenizer", "UNKNOWN_TOKENIZER"),
        ("suite.criteria", "LABELS_NEEDED"),
    ]


async def test_an_unknown_dataset_is_told_with_the_other_mistakes(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await world.suite(dataset=f"{PARENT}/datasets/none", max_tokens=-1)
    assert [violation.field for violation in caught.value.violations] == ["suite.max_tokens", "suite.dataset"]


async def test_an_evaluation_goes_from_suite_to_scores(world: World) -> None:
    created = await world.create()
    assert await world.state(created.name) == "PENDING"
    assert [subject.digest for subject in created.subjects] == ["b" * 64, "a" * 64]
    assert [list(subject.prompts) for subject in created.subjects] == [["zero-shot", "few-shot", "label-scored"], ["zero-shot"]]
    assert (created.question_count, created.answered_count, list(created.labels)) == (24, 0, LABELS)
    assert len(created.suite_digest) == 64
    await world.move(created.name, "RUNNING")
    world.commit_result(created.name)
    world.launcher.end(f"{id_of(created.name)}-1", 0)
    await world.move(created.name, "SUCCEEDED")
    done = await world.get(created.name)
    assert (done.scores[0].accuracy, done.scores[0].prompt, list(done.scores[0].confusion)[:4]) == (
        0.5,
        "zero-shot",
        [1, 0, 0, 1],
    )
    assert (done.comparisons[0].p_value, done.comparisons[0].candidate) == (0.25, TUNED)
    assert (done.answers.size_bytes, done.answered_count) == (3, 24)
    [listed] = (await world.evaluations.ListEvaluations(pb.ListEvaluationsRequest(parent=PARENT))).evaluations
    assert (listed.scores[0].accuracy, list(listed.scores[0].confusion)) == (0.5, [])
    assert done.HasField("end_time")


async def test_a_worker_gets_one_spec_one_token_and_a_key_that_ends_with_the_evaluation(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    told = world.environment(created.name)
    spec = json.loads(world.store.read(told["AFINA_SPEC"]))
    assert told["OBJECT_STORE"] == world.store.url
    assert told["EXTRA"] == "1"
    assert spec["evaluation"] == created.name
    assert spec["subjects"][1] == {
        "model": TUNED, "prompts": ["zero-shot"], "digest": "a" * 64, "public_id": "ft:tiny:default::1",
        "base": {"manifest_key": "manifests/bases/tiny.json", "digest": "b" * 64, "chat_template": ""}, "has_choice": False,
    }  # fmt: skip
    assert [criterion["kind"] for criterion in spec["suite"]["criteria"]] == ["classification", "exact_match"]
    assert (spec["suite"]["part"], spec["dataset"]["choosing"]) == ("test", {})
    [request] = world.keys.live.values()
    assert told["GATEWAY_API_KEY"] == "afina-secret-1"
    assert (list(request.scopes), request.ttl.seconds, request.parent) == (["inference"], 30 * 86400, PARENT)
    world.commit_result(created.name)
    await world.move(created.name, "SUCCEEDED")
    assert world.keys.live == {}


async def test_neither_token_nor_key_is_ever_in_the_database(world: World, tmp_path: Path) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    told = world.environment(created.name)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("e.db*"))
    assert len(told["AFINA_ATTEMPT_TOKEN"]) > 40
    assert told["AFINA_ATTEMPT_TOKEN"].encode() not in kept
    assert told["GATEWAY_API_KEY"].encode() not in kept


async def test_every_mistake_in_an_evaluation_is_told_at_once(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await world.create(pb.Subject(), pb.Subject(model=BASE, prompts=["zero-shot", "poem"]), pb.Subject(model=BASE))
    assert {violation.field for violation in caught.value.violations} == {
        "evaluation.subjects[0].model", "evaluation.subjects[1].prompts", "evaluation.subjects[2].model",
    }  # fmt: skip


async def test_a_model_is_the_same_subject_under_any_of_its_names(world: World) -> None:
    with pytest.raises(errors.InvalidInput, match="is a subject already"):
        await world.create(pb.Subject(model=BASE), pb.Subject(model="tiny"))
    assert (await world.create(pb.Subject(model="tiny"))).subjects[0].model == BASE


async def test_an_unknown_suite_or_model_is_not_found(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await world.create(suite=f"{PARENT}/suites/none")
    with pytest.raises(errors.NotFound):
        await world.create(pb.Subject(model="models/none"))
    world.models.models["foreign"] = model_pb2.Model(name="projects/other/models/x", public_id="x")
    with pytest.raises(errors.NotFound):
        await world.create(pb.Subject(model="projects/other/models/x"))


async def test_all_unknown_models_are_told_at_once_and_with_other_mistakes(world: World) -> None:
    unknown = [pb.Subject(model="models/none"), pb.Subject(model=BASE), pb.Subject(model="models/nobody")]
    with pytest.raises(errors.NotFound) as caught:
        await world.create(*unknown)
    assert [violation.field for violation in caught.value.violations] == [
        "evaluation.subjects[0].model",
        "evaluation.subjects[2].model",
    ]
    with pytest.raises(errors.InvalidInput) as refused:
        await world.create(*unknown[:1], pb.Subject(model=BASE, prompts=["poem"]))
    assert [violation.reason for violation in refused.value.violations] == ["UNKNOWN_PROMPT", "NOT_FOUND"]
    with pytest.raises(errors.InvalidInput) as missing:
        await world.create(pb.Subject(), suite=f"{PARENT}/suites/none")
    assert [violation.field for violation in missing.value.violations] == ["evaluation.subjects[0].model", "evaluation.suite"]


async def test_a_quarantined_model_is_not_evaluated(world: World) -> None:
    world.models.models["tuned"].state = model_pb2.Model.STATE_QUARANTINED
    with pytest.raises(errors.InvalidInput, match="quarantined"):
        await world.create()


async def test_the_same_request_id_is_the_same_evaluation(world: World) -> None:
    first = await world.create(request_id="r-1")
    assert (await world.create(request_id="r-1")).name == first.name
    assert (await world.create(request_id="r-2")).name != first.name


async def test_a_crashed_worker_is_launched_again_with_new_secrets_and_three_crashes_fail(world: World) -> None:
    created = await world.create()
    secrets = set()
    for attempt in (1, 2, 3):
        await world.move(created.name, "RUNNING")
        told = world.environment(created.name, attempt)
        secrets |= {told["AFINA_ATTEMPT_TOKEN"], told["GATEWAY_API_KEY"]}
        assert len(world.keys.live) == 1
        world.launcher.end(f"{id_of(created.name)}-{attempt}", 137)
        await world.move(created.name, "PENDING" if attempt < 3 else "FAILED")
    assert len(secrets) == 6
    assert len(world.launcher.manifests) == 3
    assert world.keys.live == {}
    assert (await world.get(created.name)).error.message.startswith("The worker ended 3 times")


@pytest.mark.parametrize("exit_code", [75, 143])
async def test_a_worker_that_was_told_to_leave_has_not_crashed(world: World, exit_code: int) -> None:
    created = await world.create()
    for attempt in range(1, 7):
        await world.move(created.name, "RUNNING")
        world.launcher.end(f"{id_of(created.name)}-{attempt}", exit_code if attempt % 2 else 137)
        await world.move(created.name, "PENDING" if attempt < 6 else "FAILED")
    assert (await world.get(created.name)).error.message.startswith("The worker ended 3 times")


async def test_what_a_worker_said_last_is_the_error_after_the_third_attempt(world: World) -> None:
    created = await world.create()
    for attempt in (1, 2, 3):
        await world.move(created.name, "RUNNING")
        world.give_up(created.name, attempt, 1, "GATEWAY_UNAVAILABLE", "tiny gave no answer within 600 s.")
        await world.move(created.name, "PENDING" if attempt < 3 else "FAILED")
    failed = await world.get(created.name)
    assert "tiny gave no answer within 600 s." in failed.error.message
    assert b"GATEWAY_UNAVAILABLE" in failed.error.SerializeToString()


async def test_a_worker_that_refuses_its_input_is_not_launched_again(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    world.give_up(created.name, 1, 64, "WRONG_MODEL_ANSWERED", "tiny was answered by another.")
    await world.move(created.name, "FAILED")
    failed = await world.get(created.name)
    assert failed.error.message == "tiny was answered by another."
    assert b"WRONG_MODEL_ANSWERED" in failed.error.SerializeToString()
    assert b"test row 3" in failed.error.SerializeToString()
    assert len(world.launcher.manifests) == 1
    assert world.keys.live == {}


async def test_a_worker_that_finished_while_the_service_was_away_has_finished(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    world.commit_result(created.name)
    world.launcher.end(f"{id_of(created.name)}-1", 137)  # killed after its result was committed
    await world.move(created.name, "SUCCEEDED")


async def test_a_result_of_another_evaluation_is_not_taken(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    foreign = Manifest("evaluation", (), {"evaluation": f"{PARENT}/evaluations/eval-x", "scores": [], "comparisons": []})
    world.store.commit(f"evaluations/{id_of(created.name)}/manifest.json", foreign.to_json())
    await world.move(created.name, "FAILED")
    assert "is not the result of" in (await world.get(created.name)).error.message


async def test_a_launch_whose_service_died_before_it_could_say_so_is_adopted(world: World) -> None:
    created = await world.create()
    before = await world.evaluator.database.get(KIND, created.name)
    await reconcile_evaluation(world.evaluator, before)  # launched, and never written: the service was killed here
    await world.move(created.name, "RUNNING")
    assert len(world.launcher.manifests) == 1
    assert (await world.evaluator.database.get(KIND, created.name)).document["attempt"] == 1
    assert list(world.keys.live) == [f"{PARENT}/apiKeys/key-1"]


async def test_without_a_gateway_an_evaluation_waits(world: World) -> None:
    away = Peers("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1")
    created = await world.create()
    lonely = Evaluator(world.evaluator.database, world.store, world.launcher, away, {})
    loop = Reconciler(lonely.database, KIND, functools.partial(reconcile_evaluation, lonely))
    await loop.run_once()
    assert await world.state(created.name) == "PENDING"
    assert world.launcher.manifests == {}
    await world.move(created.name, "RUNNING")
    await away.close()


async def test_a_cancelled_evaluation_stops_its_worker_and_stays_cancelled(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
    await world.move(created.name, "CANCELLED")
    assert world.launcher.stopped == [f"{id_of(created.name)}-1"]
    assert world.keys.live == {}
    with pytest.raises(errors.WrongState):
        await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELLED"])
async def test_what_attempts_kept_of_their_answers_goes_when_an_evaluation_ends(world: World, state: str) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    folder, other = f"evaluations/{id_of(created.name)}", "evaluations/another/kept/0-0"
    for key in (f"{folder}/kept/0-0", f"{folder}/kept/0-64", other):
        world.store.commit(key, b"[]")
    if state == "SUCCEEDED":  # by a worker that was killed before it could tidy up
        world.commit_result(created.name)
    elif state == "FAILED":
        world.give_up(created.name, 1, 64, "ROWS_INVALID", "No.")
    else:
        await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
    await world.move(created.name, state)
    assert list(world.store.list(f"{folder}/kept/")) == []
    assert list(world.store.list("evaluations/another/")) == [other]
    assert world.store.read(f"{folder}/spec-1.json")


async def test_a_key_that_can_not_be_revoked_at_the_end_is_revoked_when_the_gateway_answers_again(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    world.commit_result(created.name)
    away = Peers("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1")
    record = await world.evaluator.database.get(KIND, created.name)
    change = await reconcile_evaluation(replace(world.evaluator, peers=away), record)
    assert (change.document["state"], change.due_in_s, len(world.keys.live)) == ("SUCCEEDED", CLEAN_AGAIN_S, 1)
    ended = await world.evaluator.database.update(record, change.document, events=change.events)
    again = await reconcile_evaluation(world.evaluator, ended)
    assert (again.document, again.due_in_s, world.keys.live) == (change.document, None, {})
    await away.close()


async def test_an_evaluation_that_waits_can_be_cancelled(world: World) -> None:
    created = await world.create()
    await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
    await world.move(created.name, "CANCELLED")
    assert world.launcher.manifests == {}


async def test_cancelling_between_a_launch_and_its_being_written_stops_the_worker(world: World) -> None:
    created = await world.create()
    before = await world.evaluator.database.get(KIND, created.name)
    await reconcile_evaluation(world.evaluator, before)  # launched; what it returns is too late to be written
    await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
    await world.move(created.name, "CANCELLED")
    assert world.launcher.stopped == [f"{id_of(created.name)}-1"]
    assert world.keys.live == {}


async def test_an_evaluation_that_ends_while_an_attempt_is_launched_leaves_neither_worker_nor_key(world: World) -> None:
    created = await world.create()
    before = await world.evaluator.database.get(KIND, created.name)
    await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
    await world.move(created.name, "CANCELLED")
    await reconcile_evaluation(world.evaluator, before)  # a look that began earlier
    assert (await world.launcher.observe(f"{id_of(created.name)}-1")).has_ended
    assert world.keys.live == {}


async def report(world: World, name: str, token: str, first: int, *answered: int, attempt: int = 1) -> bool:
    events = [resources_pb2.Event(type="ANSWERED", message="a", data=wire.struct({"answered": n, "total": 24})) for n in answered]
    request = worker_pb2.ReportProgressRequest(name=name, attempt=attempt, first_number=first, events=events)
    response = await world.workers.ReportProgress(request, metadata=((TOKEN_KEY, token),))
    return bool(response.stop_requested)


async def test_progress_is_recorded_once_however_often_it_is_reported(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    token = world.environment(created.name)["AFINA_ATTEMPT_TOKEN"]
    await report(world, created.name, token, 0, 5, 9)
    await report(world, created.name, token, 0, 5, 9)
    await report(world, created.name, token, 1, 9, 12)
    stored = await world.evaluator.database.events(KIND, created.name, limit=100)
    assert [event.data["answered"] for event in stored if event.type == "ANSWERED"] == [5, 9, 12]
    assert (await world.get(created.name)).answered_count == 12


async def test_what_an_attempt_had_answered_does_not_count_for_the_next(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    old = world.environment(created.name)["AFINA_ATTEMPT_TOKEN"]
    await report(world, created.name, old, 0, 20)
    world.launcher.end(f"{id_of(created.name)}-1", 1)
    await world.move(created.name, "PENDING")
    with pytest.raises(errors.Unauthenticated):
        await report(world, created.name, old, 1, 21)
    assert (await world.get(created.name)).answered_count == 0
    await world.move(created.name, "RUNNING")
    assert (await world.get(created.name)).answered_count == 0
    await report(world, created.name, world.environment(created.name, 2)["AFINA_ATTEMPT_TOKEN"], 0, 3, attempt=2)
    assert (await world.get(created.name)).answered_count == 3


async def test_a_worker_without_the_attempts_token_is_refused_and_so_is_an_attempt_that_is_over(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    old = world.environment(created.name)["AFINA_ATTEMPT_TOKEN"]
    for token, attempt in (("wrong", 1), ("", 1), (old, 2)):
        with pytest.raises(errors.Unauthenticated):
            await report(world, created.name, token, 0, 1, attempt=attempt)
    world.launcher.end(f"{id_of(created.name)}-1", 1)
    await world.move(created.name, "PENDING")
    await world.move(created.name, "RUNNING")
    with pytest.raises(errors.Unauthenticated):
        await report(world, created.name, old, 0, 1)


async def test_a_worker_of_a_cancelled_evaluation_is_told_to_stop(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    token = world.environment(created.name)["AFINA_ATTEMPT_TOKEN"]
    assert await report(world, created.name, token, 0, 1) is False
    await world.evaluations.CancelEvaluation(pb.CancelEvaluationRequest(name=created.name))
    assert await report(world, created.name, token, 1, 2) is True


async def test_watching_tells_every_event_once_and_closes_when_the_evaluation_has_ended(world: World) -> None:
    created = await world.create()
    await world.move(created.name, "RUNNING")
    world.commit_result(created.name)
    await world.move(created.name, "SUCCEEDED")
    sequences, states = [], []
    async for response in world.evaluations.WatchEvaluation(pb.WatchEvaluationRequest(name=created.name), timeout_s=20):
        sequences += [event.sequence for event in response.events]
        states.append(response.evaluation.state)
    assert sequences == list(range(1, len(sequences) + 1))
    assert states[-1] == pb.Evaluation.STATE_SUCCEEDED


async def test_pages_of_suites_and_evaluations_follow_one_another(world: World) -> None:
    names = [(await world.create()).name for _ in range(3)]
    first = await world.evaluations.ListEvaluations(pb.ListEvaluationsRequest(parent=PARENT, page_size=2))
    second = await world.evaluations.ListEvaluations(
        pb.ListEvaluationsRequest(parent=PARENT, page_size=2, page_token=first.next_page_token)
    )
    assert [one.name for one in [*first.evaluations, *second.evaluations]] == names[::-1]
    await world.suite("other", max_tokens=64)
    listed = await world.suites.ListSuites(suite_pb2.ListSuitesRequest(parent=PARENT))
    assert [suite.name.rpartition("/")[2] for suite in listed.suites] == ["other", "reviews"]


async def test_a_replica_that_froze_while_it_launched_leaves_the_worker_alone_that_another_one_adopted(world: World) -> None:
    created = await world.create()
    before = await world.evaluator.database.get(KIND, created.name)
    await world.move(created.name, "RUNNING")
    await reconcile_evaluation(world.evaluator, before)  # a look that began earlier
    assert world.launcher.stopped == []
    assert len(world.keys.live) == 1
