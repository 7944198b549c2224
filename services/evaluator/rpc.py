"""SuiteService, EvaluationService and WorkerService: proto ↔ use case."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import grpc
from afina.v1 import evaluation_pb2 as pb
from afina.v1 import evaluation_pb2_grpc, suite_pb2, suite_pb2_grpc
from google.protobuf import json_format

from services.common.ports.database import Record
from services.common.transport import wire
from services.evaluator import use_cases
from services.evaluator.evaluation import Evaluation, Subject
from services.evaluator.scoring.criteria import KINDS, Bleu, Criterion, Unset
from services.evaluator.suite import TEST, Prompt, Suite
from services.evaluator.use_cases import Evaluator


class SuiteRpc(suite_pb2_grpc.SuiteServiceServicer):
    """The suites' API."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    async def CreateSuite(self, request: suite_pb2.CreateSuiteRequest, context: grpc.aio.ServicerContext) -> suite_pb2.Suite:
        """See the proto."""
        given = request.suite
        asked = Suite(
            name="",
            dataset=given.dataset,
            prompts=tuple(_prompt(prompt) for prompt in given.prompts),
            labels=tuple(given.labels),
            max_tokens=given.max_tokens,
            criteria=tuple(criterion_of(criterion) for criterion in given.criteria),
            part=_name(suite_pb2.Suite.Part, given.part, "PART_") if given.part else TEST,
            max_items=given.max_items,
        )
        return suite_message(await use_cases.create_suite(self._evaluator, request.parent, asked, request.suite_id))

    async def EnsureDefaultSuite(
        self, request: suite_pb2.EnsureDefaultSuiteRequest, context: grpc.aio.ServicerContext
    ) -> suite_pb2.Suite:
        """See the proto."""
        return suite_message(await use_cases.ensure_default_suite(self._evaluator, request.parent, request.dataset))

    async def GetSuite(self, request: suite_pb2.GetSuiteRequest, context: grpc.aio.ServicerContext) -> suite_pb2.Suite:
        """See the proto."""
        return suite_message(await use_cases.get_suite(self._evaluator, request.name))

    async def ListSuites(
        self, request: suite_pb2.ListSuitesRequest, context: grpc.aio.ServicerContext
    ) -> suite_pb2.ListSuitesResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await use_cases.list_suites(self._evaluator, request.parent, after, limit)
        suites = [suite_message(record) for record in records]
        return suite_pb2.ListSuitesResponse(suites=suites, next_page_token=wire.next_page_token(records, limit))


class EvaluationRpc(evaluation_pb2_grpc.EvaluationServiceServicer):
    """The evaluations' API."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    async def CreateEvaluation(self, request: pb.CreateEvaluationRequest, context: grpc.aio.ServicerContext) -> pb.Evaluation:
        """See the proto."""
        given = request.evaluation
        subjects = [Subject(subject.model, tuple(subject.prompts)) for subject in given.subjects]
        record = await use_cases.create_evaluation(self._evaluator, request.parent, given.suite, subjects, request.request_id)
        return await self._message(record)

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: grpc.aio.ServicerContext) -> pb.Evaluation:
        """See the proto."""
        return await self._message(await use_cases.get_evaluation(self._evaluator, request.name))

    async def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListEvaluationsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await use_cases.list_evaluations(self._evaluator, request.parent, after, limit)
        evaluations = [_brief(await self._message(record)) for record in records]
        return pb.ListEvaluationsResponse(evaluations=evaluations, next_page_token=wire.next_page_token(records, limit))

    async def CancelEvaluation(self, request: pb.CancelEvaluationRequest, context: grpc.aio.ServicerContext) -> pb.Evaluation:
        """See the proto."""
        return await self._message(await use_cases.cancel_evaluation(self._evaluator, request.name))

    async def WatchEvaluation(
        self, request: pb.WatchEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchEvaluationResponse]:
        """See the proto."""
        changes = wire.watch(
            lambda: use_cases.get_evaluation(self._evaluator, request.name),
            lambda after: use_cases.list_events(self._evaluator, request.name, after, wire.WATCH_PAGE),
            lambda record: Evaluation.from_document(record.document).has_ended,
            request.after_sequence,
        )
        async for record, events in changes:
            yield pb.WatchEvaluationResponse(
                evaluation=await self._message(record), events=[wire.event(event) for event in events]
            )

    async def _message(self, record: Record) -> pb.Evaluation:
        return evaluation_message(record, await use_cases.answered_count(self._evaluator, record.name))


def suite_message(record: Record) -> suite_pb2.Suite:
    """Return a suite as it travels."""
    suite = Suite.from_document(record.document)
    prompts = [
        suite_pb2.Prompt(**{**asdict(prompt), "method": suite_pb2.Prompt.Method.Value(f"METHOD_{prompt.method}")})
        for prompt in suite.prompts
    ]
    return suite_pb2.Suite(
        name=suite.name,
        dataset=suite.dataset,
        prompts=prompts,
        labels=suite.labels,
        max_tokens=suite.max_tokens,
        digest=suite.digest,
        create_time=wire.timestamp(record.create_time),
        criteria=[criterion_message(criterion) for criterion in suite.criteria],
        part=suite_pb2.Suite.Part.Value(f"PART_{suite.part}"),
        max_items=suite.max_items,
        dataset_digest=suite.dataset_digest,
    )


def evaluation_message(record: Record, answered: int) -> pb.Evaluation:
    """Return an evaluation as it travels."""
    evaluation = Evaluation.from_document(record.document)
    message = pb.Evaluation(
        name=evaluation.name,
        state=pb.Evaluation.State.Value(f"STATE_{evaluation.state}"),
        suite=evaluation.suite,
        suite_digest=evaluation.suite_digest,
        subjects=[pb.Subject(model=s.model, prompts=s.prompts, digest=s.digest) for s in evaluation.subjects],
        labels=evaluation.labels,
        scores=[_parsed(score, pb.Score()) for score in evaluation.scores],
        comparisons=[_parsed(comparison, pb.Comparison()) for comparison in evaluation.comparisons],
        answered_count=evaluation.question_count if evaluation.state == "SUCCEEDED" else answered,
        question_count=evaluation.question_count,
        error=wire.error_status(evaluation.error),
        create_time=wire.timestamp(record.create_time),
        end_time=wire.timestamp(evaluation.end_time),
        etag=str(record.version),
        deciding_metric=evaluation.deciding_metric,
        choice=pb.Evaluation.Choice.Value(f"CHOICE_{evaluation.choice}"),
        held_out=[_held_out(found) for found in evaluation.held_out],
    )
    if evaluation.answers:
        _parsed(evaluation.answers, message.answers)
    return message


def _held_out(found: Mapping[str, Any]) -> pb.HeldOut:
    return pb.HeldOut(**{**found, "finding": f"FINDING_{found['finding']}"})


def _brief(message: pb.Evaluation) -> pb.Evaluation:
    """Leave out what makes a page of evaluations large."""
    for score in message.scores:
        score.ClearField("metrics")
        score.ClearField("confusion")
    for comparison in message.comparisons:
        comparison.ClearField("differences")
    return message


def _parsed(document: Mapping[str, Any], message: Any) -> Any:
    return json_format.ParseDict(dict(document), message)


def criterion_of(message: suite_pb2.Criterion) -> Criterion:
    """Return a criterion as the suite knows it; Unset for one that says nothing, which the suite then refuses."""
    kind = message.WhichOneof("criterion")
    if kind is None:
        return Unset()
    given = getattr(message, kind)
    options = {field.name: getattr(given, field.name) for field in given.DESCRIPTOR.fields}
    if kind == Bleu.kind:
        options["tokenizer"] = _name(suite_pb2.Bleu.Tokenizer, options["tokenizer"] or 1, "TOKENIZER_").lower()
    return KINDS[kind](**options)


def criterion_message(criterion: Criterion) -> suite_pb2.Criterion:
    """Return a criterion as it travels."""
    options = asdict(criterion)
    if isinstance(criterion, Bleu):
        options["tokenizer"] = f"TOKENIZER_{criterion.tokenizer.upper()}"
    return _parsed({criterion.kind: options}, suite_pb2.Criterion())  # type: ignore[no-any-return]


def _prompt(given: suite_pb2.Prompt) -> Prompt:
    method = _name(suite_pb2.Prompt.Method, given.method, "METHOD_")
    return Prompt(given.id, method, given.shots, given.seed, given.instruction, given.template)


def _name(enum: Any, number: int, prefix: str) -> str:
    """Return a value's name; empty for one that is not known, which the suite then refuses."""
    return str(enum.Name(number)).removeprefix(prefix) if number in enum.DESCRIPTOR.values_by_number else ""
