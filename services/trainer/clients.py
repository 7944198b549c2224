"""What the trainer asks of other services, as values of its own words."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC
from typing import Any, Protocol

from afina.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    suite_pb2,
    suite_pb2_grpc,
)

from services.common.transport.grpc_client import Client

FINALIZE_TIMEOUT_S = 50.0
PROVE_LOOK_S = 20.0
CHUNK_BYTES = 1 << 20
RESULTS_PURPOSE = "fine-tune-results"


class Peers(Protocol):
    """The trainer's view of `dataset`, `inference` and `evaluator`."""

    async def finalize(self, file: str, split: Mapping[str, Any], validation_file: str) -> str:
        """Make a Dataset of a file (and one whose rows validate, or "") and return its name. Raises: NotFound, InvalidInput."""

    async def dataset(self, name: str) -> dict[str, Any]:
        """Return name, digest and parts of a Dataset. Raises: NotFound."""

    async def file_exists(self, name: str) -> None:
        """Raises: NotFound."""

    async def base(self, public_id: str) -> dict[str, Any]:
        """Return manifest_key, digest, name, public_id, chat_template (often "") and max_length of a base. Raises: NotFound."""

    async def register(self, project: str, manifest_key: str, suffix: str, step: int = 0) -> tuple[str, str]:
        """Register a result, or with a step a published checkpoint; return name and public id. Raises: InvalidInput."""

    async def keep_results(self, project: str, display_name: str, content: bytes, request_id: str) -> str:
        """Make a File that people can download and return its name; the same request_id is the same File."""

    async def prove(self, model: str) -> dict[str, Any]:
        """See to it that a Model is proven on a server, for a bounded time. Raises: Unavailable (not yet), WrongState."""

    async def suite(self, name: str) -> None:
        """Raises: NotFound."""

    async def default_suite(self, project: str, dataset: str) -> str:
        """Make or find the suite of a dataset's test rows and return its name. Raises: NotFound, InvalidInput."""

    async def begin_evaluation(
        self, project: str, suite: str, subjects: Mapping[str, Sequence[str]], request_id: str
    ) -> dict[str, Any]:
        """Have models asked in some of a suite's ways (none: all); return name and question_count.

        The same request_id is the same evaluation. Raises: NotFound, InvalidInput.
        """

    async def evaluation(self, name: str) -> dict[str, Any]:
        """Return state, has_ended and error (often "") of an evaluation. Raises: NotFound."""

    async def judge(self, model: str, evaluation: str) -> dict[str, Any]:
        """Have the verdict of an evaluation kept on a Model and return it. Raises: NotFound, WrongState."""


class GrpcPeers:
    """Peers over gRPC."""

    def __init__(self, dataset_address: str, inference_address: str, evaluator_address: str) -> None:
        self._files = Client(file_pb2_grpc.FileServiceStub, dataset_address)
        self._datasets = Client(dataset_pb2_grpc.DatasetServiceStub, dataset_address)
        self._catalogue = Client(catalogue_pb2_grpc.CatalogueServiceStub, inference_address)
        self._models = Client(model_pb2_grpc.ModelServiceStub, inference_address, retry=False)
        self._suites = Client(suite_pb2_grpc.SuiteServiceStub, evaluator_address)
        self._evaluations = Client(evaluation_pb2_grpc.EvaluationServiceStub, evaluator_address)

    async def finalize(self, file: str, split: Mapping[str, Any], validation_file: str) -> str:
        """See Peers."""
        request = file_pb2.FinalizeFileRequest(name=file, validation_file=validation_file)
        if split:
            request.split.CopyFrom(dataset_pb2.Split(**split))
        dataset = await self._files.FinalizeFile(request, timeout_s=FINALIZE_TIMEOUT_S)
        return str(dataset.name)

    async def dataset(self, name: str) -> dict[str, Any]:
        """See Peers."""
        dataset = await self._datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=name))
        return {
            "name": dataset.name,
            "digest": dataset.digest,
            "train": _part(dataset.train),
            "validation": _part(dataset.validation),
            "test": _part(dataset.test),
            "row_count": dataset.row_count,
            "warnings": [warning.description for warning in dataset.warnings],
        }

    async def file_exists(self, name: str) -> None:
        """See Peers."""
        await self._files.GetFile(file_pb2.GetFileRequest(name=name))

    async def base(self, public_id: str) -> dict[str, Any]:
        """See Peers."""
        request = catalogue_pb2.GetCatalogueEntryRequest(name=f"catalogueEntries/{public_id}")
        entry = await self._catalogue.GetCatalogueEntry(request)
        return {
            "manifest_key": entry.manifest_key,
            "digest": entry.digest,
            "name": entry.model,
            "public_id": entry.name.rpartition("/")[2],
            "chat_template": entry.chat_template,
            "max_length": entry.max_length,
        }

    async def register(self, project: str, manifest_key: str, suffix: str, step: int = 0) -> tuple[str, str]:
        """See Peers."""
        request = model_pb2.CreateModelRequest(parent=f"projects/{project}", manifest_key=manifest_key, suffix=suffix, step=step)
        model = await self._models.CreateModel(request)
        return model.name, model.public_id

    async def keep_results(self, project: str, display_name: str, content: bytes, request_id: str) -> str:
        """See Peers."""
        metadata = file_pb2.FileMetadata(
            parent=f"projects/{project}", display_name=display_name, purpose=RESULTS_PURPOSE, request_id=request_id
        )

        async def messages() -> AsyncIterator[file_pb2.CreateFileRequest]:
            yield file_pb2.CreateFileRequest(metadata=metadata)
            for at in range(0, len(content), CHUNK_BYTES):
                yield file_pb2.CreateFileRequest(chunk=content[at : at + CHUNK_BYTES])

        file = await self._files.CreateFile(messages())
        return str(file.name)

    async def prove(self, model: str) -> dict[str, Any]:
        """See Peers."""
        response = await self._models.EnsureServed(model_pb2.EnsureServedRequest(name=model), timeout_s=PROVE_LOOK_S)
        return dict(response.model.proof)

    async def suite(self, name: str) -> None:
        """See Peers."""
        await self._suites.GetSuite(suite_pb2.GetSuiteRequest(name=name))

    async def default_suite(self, project: str, dataset: str) -> str:
        """See Peers."""
        request = suite_pb2.EnsureDefaultSuiteRequest(parent=f"projects/{project}", dataset=dataset)
        suite = await self._suites.EnsureDefaultSuite(request)
        return str(suite.name)

    async def begin_evaluation(
        self, project: str, suite: str, subjects: Mapping[str, Sequence[str]], request_id: str
    ) -> dict[str, Any]:
        """See Peers."""
        asked = [evaluation_pb2.Subject(model=model, prompts=prompts) for model, prompts in subjects.items()]
        begun = await self._evaluations.CreateEvaluation(
            evaluation_pb2.CreateEvaluationRequest(
                parent=f"projects/{project}",
                evaluation=evaluation_pb2.Evaluation(suite=suite, subjects=asked),
                request_id=request_id,
            )
        )
        return {"name": begun.name, "question_count": begun.question_count}

    async def evaluation(self, name: str) -> dict[str, Any]:
        """See Peers."""
        found = await self._evaluations.GetEvaluation(evaluation_pb2.GetEvaluationRequest(name=name))
        state = evaluation_pb2.Evaluation.State.Name(found.state).removeprefix("STATE_")
        return {"state": state, "has_ended": found.HasField("end_time"), "error": found.error.message}

    async def judge(self, model: str, evaluation: str) -> dict[str, Any]:
        """See Peers."""
        judged = await self._models.JudgeModel(model_pb2.JudgeModelRequest(name=model, evaluation=evaluation))
        verdict = judged.verdict
        return {
            "answer": model_pb2.Verdict.Answer.Name(verdict.answer).removeprefix("ANSWER_"),
            "sentence": verdict.sentence,
            "evaluation": verdict.evaluation,
            "item_count": verdict.item_count,
            "effect": verdict.effect,
            "p_value": verdict.p_value,
            "items_needed": verdict.items_needed,
            "champion": verdict.champion,
            "create_time": verdict.create_time.ToDatetime(UTC).isoformat(),
        }


def _part(part: dataset_pb2.DatasetPart) -> dict[str, Any] | None:
    if not part.row_count:
        return None
    artifact = part.artifact
    return {"key": artifact.key, "size_bytes": artifact.size_bytes, "sha256": artifact.sha256, "row_count": part.row_count}
