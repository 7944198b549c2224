"""What inference asks of the evaluator, as values of its own words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from afina.v1 import evaluation_pb2, evaluation_pb2_grpc, suite_pb2, suite_pb2_grpc

from services.common.transport.grpc_client import Client
from services.inference.gate import Comparison


@dataclass(frozen=True)
class Evidence:
    """An evaluation as the gate sees it.

    By model name: `digests` when it was created, `prompts` it was asked in (none: all), and in `held_out` whether it has seen
    the rows: SAME_SPLIT, DISJOINT, OVERLAPS or UNKNOWN.
    """

    name: str
    state: str
    suite: str
    suite_digest: str
    digests: Mapping[str, str]
    prompts: Mapping[str, tuple[str, ...]]
    comparisons: tuple[Comparison, ...]
    held_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A suite as it is now: its digest, every prompt, whether no row of it chose anything in training, and its dataset."""

    digest: str
    prompts: tuple[str, ...]
    dataset: str
    dataset_digest: str
    is_test_part: bool


class Evaluations(Protocol):
    """Inference's view of `evaluator`."""

    async def evidence(self, evaluation: str) -> Evidence:
        """Return an evaluation. Raises: NotFound, Unavailable."""

    async def suite(self, name: str) -> Suite:
        """Return a suite. Raises: NotFound, Unavailable."""


class GrpcEvaluations:
    """The evaluator over gRPC."""

    def __init__(self, address: str) -> None:
        self._evaluations = Client(evaluation_pb2_grpc.EvaluationServiceStub, address)
        self._suites = Client(suite_pb2_grpc.SuiteServiceStub, address)

    async def evidence(self, evaluation: str) -> Evidence:
        """See Evaluations."""
        found = await self._evaluations.GetEvaluation(evaluation_pb2.GetEvaluationRequest(name=evaluation))
        return Evidence(
            name=found.name,
            state=evaluation_pb2.Evaluation.State.Name(found.state).removeprefix("STATE_"),
            suite=found.suite,
            suite_digest=found.suite_digest,
            digests={subject.model: subject.digest for subject in found.subjects},
            prompts={subject.model: tuple(subject.prompts) for subject in found.subjects},
            comparisons=tuple(_comparison(comparison) for comparison in found.comparisons),
            held_out={
                one.model: evaluation_pb2.HeldOut.Finding.Name(one.finding).removeprefix("FINDING_") for one in found.held_out
            },
        )

    async def suite(self, name: str) -> Suite:
        """See Evaluations."""
        found = await self._suites.GetSuite(suite_pb2.GetSuiteRequest(name=name))
        is_test_part = found.part != suite_pb2.Suite.PART_VALIDATION
        prompts = tuple(prompt.id for prompt in found.prompts)
        return Suite(found.digest, prompts, found.dataset, found.dataset_digest, is_test_part)

    async def close(self) -> None:
        """Close the connections."""
        await self._evaluations.close()
        await self._suites.close()


def _comparison(found: evaluation_pb2.Comparison) -> Comparison:
    return Comparison(
        champion=found.champion,
        champion_prompt=found.champion_prompt,
        candidate=found.candidate,
        candidate_prompt=found.candidate_prompt,
        item_count=found.item_count,
        candidate_only_count=found.candidate_only_count,
        champion_only_count=found.champion_only_count,
        score_effect=found.effect,
    )
