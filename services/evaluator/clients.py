"""What the evaluator asks of other services, as values of its own words."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from afina.v1 import api_key_pb2, api_key_pb2_grpc, dataset_pb2, dataset_pb2_grpc, model_pb2, model_pb2_grpc
from google.protobuf import duration_pb2, json_format

from services.common import errors
from services.common.transport.grpc_client import Client
from services.evaluator.evaluation import Subject
from services.evaluator.suite import Part, Questions

KEY_TTL_S = 30 * 86400  # an attempt may wait in the queue for days; its key is revoked when it has ended
DELETE_TIMEOUT_S = 5.0  # several fit into a lease
COMPARE_LOOK_S = 15.0
MAX_CHAIN = 8  # models that stand on one another


@dataclass(frozen=True)
class Key:
    """A key for the gateway: its name, and the secret that is told once."""

    name: str
    secret: str


class Peers:
    """The evaluator's view of `dataset`, `inference` and `gateway`, over gRPC."""

    def __init__(self, dataset_address: str, inference_address: str, gateway_address: str) -> None:
        self._datasets = Client(dataset_pb2_grpc.DatasetServiceStub, dataset_address)
        self._models = Client(model_pb2_grpc.ModelServiceStub, inference_address)
        self._keys = Client(api_key_pb2_grpc.ApiKeyServiceStub, gateway_address)

    async def questions(self, dataset: str) -> Questions:
        """Return what a suite has to know of a Dataset. Raises: NotFound."""
        found = await self._datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset))
        train, validation, test = (_part(part) for part in (found.train, found.validation, found.test))
        return Questions(found.digest, train, validation, test, dict(found.label_counts))

    async def subject(self, asked: Subject, project: str) -> Subject:
        """Return a subject with the model's full name, digest, public id, base and template. Raises: NotFound, InvalidInput."""
        parent = f"projects/{project}"
        model = await self._models.GetModel(model_pb2.GetModelRequest(name=asked.model, parent=parent))
        if model.name.startswith("projects/") and not model.name.startswith(f"{parent}/"):
            raise errors.NotFound(f"There is no model {asked.model} in {parent}.", metadata={"name": asked.model})
        if model.state == model_pb2.Model.STATE_QUARANTINED:
            raise errors.InvalidInput(
                f"{asked.model} is quarantined and not served: {model.quarantine_reason}", reason="MODEL_QUARANTINED"
            )
        base = model
        if model.kind == model_pb2.Model.KIND_ADAPTER:
            base = await self._models.GetModel(model_pb2.GetModelRequest(name=model.base, parent=parent))
        return replace(
            asked,
            model=model.name,
            digest=model.digest,
            public_id=model.public_id,
            base={"manifest_key": base.manifest_key, "digest": base.digest, "chat_template": base.chat_template},
        )

    async def compare(self, dataset: str, others: Sequence[str]) -> dict[str, Any]:
        """Return row_count, overlap_count and rows: a dataset's test rows that train or validate in others. See CompareDatasets.

        Raises: NotFound, InvalidInput, Unavailable (not yet: it goes on, and is found when it is asked again).
        """
        request = dataset_pb2.CompareDatasetsRequest(name=dataset, others=others)
        found = await self._datasets.CompareDatasets(request, timeout_s=COMPARE_LOOK_S)
        return {"row_count": found.row_count, "overlap_count": found.overlap_count, "rows": list(found.rows)}

    async def origins(self, name: str) -> list[dict[str, str]]:
        """Return name and digest of every dataset that trained a model, or what it stands on; each once. Raises: NotFound."""
        found: dict[str, dict[str, str]] = {}
        for _ in range(MAX_CHAIN):
            model = await self._models.GetModel(model_pb2.GetModelRequest(name=name))
            provenance = json_format.MessageToDict(model.provenance)
            told = [one for one in (provenance.get("dataset"), *_listed(provenance.get("datasets"))) if one]
            if not all(isinstance(one, dict) and one.get("name") and one.get("digest") for one in told):
                return []  # whoever wrote it meant something else, and what it was nobody knows
            found |= {str(one["digest"]): {"name": str(one["name"]), "digest": str(one["digest"])} for one in told}
            if not model.base:
                break
            name = model.base
        return list(found.values())

    async def create_key(self, project: str, display_name: str) -> Key:
        """Issue a key that may only ask models, for longer than any attempt waits and asks. Raises: Unavailable."""
        request = api_key_pb2.CreateApiKeyRequest(
            parent=f"projects/{project}",
            display_name=display_name,
            ttl=duration_pb2.Duration(seconds=KEY_TTL_S),
            scopes=["inference"],
        )
        response = await self._keys.CreateApiKey(request)
        return Key(response.api_key.name, response.secret)

    async def delete_key(self, name: str) -> None:
        """Revoke a key; the absent is success. Raises: Unavailable."""
        with contextlib.suppress(errors.NotFound):
            await self._keys.DeleteApiKey(api_key_pb2.DeleteApiKeyRequest(name=name), timeout_s=DELETE_TIMEOUT_S)

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._datasets, self._models, self._keys):
            await client.close()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _part(part: Any) -> Part:
    if not part.row_count:
        return Part(0, {})
    artifact = part.artifact
    return Part(part.row_count, {"key": artifact.key, "size_bytes": artifact.size_bytes, "sha256": artifact.sha256})
