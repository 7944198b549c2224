"""`afina completion SHELL`, and the names of resources that a shell offers for words like JOB and --model.

The shell's part is click's own. A name is asked of the program that owns it, for a second at most: a program that is away
offers nothing, because a person at a prompt waits for nobody.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import click
from afina.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    fine_tuning_job_pb2,
    fine_tuning_job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    suite_pb2,
    suite_pb2_grpc,
    sweep_pb2,
    sweep_pb2_grpc,
)
from click.shell_completion import CompletionItem, get_completion_class

from services.cli.home import find
from services.common.errors import AfinaError
from services.common.names import last
from services.common.transport.grpc_client import Client

SHELLS = ("bash", "zsh", "fish")
TIMEOUT_S = 1.0
MOST = 100  # the newest; who has more begins to type


@dataclass(frozen=True)
class Collection:
    """Where the names of a noun come from."""

    program: str
    stub: Callable[..., Any]
    method: str
    request: Callable[..., Any]
    field: str
    name: Callable[[Any], str] = lambda resource: last(resource.name)


_MODELS = Collection(
    "inference", model_pb2_grpc.ModelServiceStub, "ListModels", model_pb2.ListModelsRequest, "models", lambda m: str(m.public_id)
)
# By the name of the argument or option, the same in every command.
COLLECTIONS = {
    "dataset": Collection(
        "dataset", dataset_pb2_grpc.DatasetServiceStub, "ListDatasets", dataset_pb2.ListDatasetsRequest, "datasets"
    ),
    "job": Collection(
        "trainer",
        fine_tuning_job_pb2_grpc.FineTuningJobServiceStub,
        "ListFineTuningJobs",
        fine_tuning_job_pb2.ListFineTuningJobsRequest,
        "fine_tuning_jobs",
    ),
    "file": Collection("dataset", file_pb2_grpc.FileServiceStub, "ListFiles", file_pb2.ListFilesRequest, "files"),
    "sweep": Collection("trainer", sweep_pb2_grpc.SweepServiceStub, "ListSweeps", sweep_pb2.ListSweepsRequest, "sweeps"),
    "suite": Collection("evaluator", suite_pb2_grpc.SuiteServiceStub, "ListSuites", suite_pb2.ListSuitesRequest, "suites"),
    "evaluation": Collection(
        "evaluator",
        evaluation_pb2_grpc.EvaluationServiceStub,
        "ListEvaluations",
        evaluation_pb2.ListEvaluationsRequest,
        "evaluations",
    ),
    "endpoint": Collection(
        "inference", endpoint_pb2_grpc.EndpointServiceStub, "ListEndpoints", endpoint_pb2.ListEndpointsRequest, "endpoints"
    ),
    "key": Collection("gateway", api_key_pb2_grpc.ApiKeyServiceStub, "ListApiKeys", api_key_pb2.ListApiKeysRequest, "api_keys"),
    "model": _MODELS,
    "base_model": _MODELS,
}


class ResourceName(click.ParamType):
    """A word that names a resource; any text is taken, names that exist are offered."""

    name = "text"

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def shell_complete(self, context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so; none where the program is away."""
        environ = context.obj if context.obj is not None else os.environ
        project = context.params.get("project") or environ.get("AFINA_PROJECT") or "default"
        try:
            home = find(environ)
            address, token = home.addresses[self._collection.program], home.credential(environ)
            found = asyncio.run(_names(self._collection, address, token, f"projects/{project}"))
        except AfinaError:
            return []
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]


async def _names(collection: Collection, address: str, token: str, parent: str) -> list[str]:
    client = Client(collection.stub, address, retry=False, token=token)
    try:
        request = collection.request(parent=parent, page_size=MOST)
        response = await getattr(client, collection.method)(request, timeout_s=TIMEOUT_S)
        return [collection.name(resource) for resource in getattr(response, collection.field)]
    finally:
        await client.close()


def complete_names(parameters: Iterable[click.Parameter]) -> None:
    """Have every parameter that is called after a noun offer its names."""
    for parameter in parameters:
        if parameter.name in COLLECTIONS and isinstance(parameter.type, click.types.StringParamType):
            parameter.type = ResourceName(COLLECTIONS[parameter.name])


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete words: eval "$(afina completion bash)" in ~/.bashrc; afina completion fish | source."""
    found = get_completion_class(shell)
    assert found is not None  # they are click's own three
    click.echo(found(context.find_root().command, {}, "afina", "_AFINA_COMPLETE").source())
