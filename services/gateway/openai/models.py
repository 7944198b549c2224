"""/v1/models: what can be asked for, straight from the table of routes."""

from typing import Annotated, Any

from afina.v1 import model_pb2 as pb
from fastapi import APIRouter, Depends

from services.common.errors import InvalidInput
from services.common.transport.grpc_client import Client
from services.gateway.keys import ApiKey
from services.gateway.openai.callers import caller
from services.gateway.openai.paging import only_query
from services.gateway.routing import Route, Routes


def router(table: Routes, models: Client) -> APIRouter:
    """Return the routes of models."""
    routes = APIRouter(prefix="/v1/models")

    @routes.get("", dependencies=[Depends(only_query())])
    async def list_all(key: Annotated[ApiKey, Depends(caller)]) -> dict[str, Any]:
        return {"object": "list", "data": [object_of(route) for route in table.list(key.project)]}

    @routes.get("/{model:path}")
    async def retrieve(model: str, key: Annotated[ApiKey, Depends(caller)]) -> dict[str, Any]:
        return object_of(await table.find(key.project, model))

    @routes.delete("/{model:path}")
    async def delete(model: str, key: Annotated[ApiKey, Depends(caller)]) -> dict[str, Any]:
        route = await table.find(key.project, model)
        if not model.startswith("ft:") or route.kind not in ("adapter", "full"):
            raise InvalidInput(
                f"{model} can't be deleted here: only fine-tuned models, whose names begin with ft:, can.",
                reason="MODEL_NOT_DELETABLE",
                metadata={"param": "model"},
            )
        await models.DeleteModel(pb.DeleteModelRequest(name=route.model))
        return {"id": model, "object": "model", "deleted": True}

    return routes


def object_of(route: Route) -> dict[str, Any]:
    """Return a model as OpenAI writes it."""
    created = int(route.create_time.timestamp())
    return {"id": route.public_id, "object": "model", "created": created, "owned_by": route.project or "afina"}
