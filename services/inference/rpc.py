"""ModelService, CatalogueService and EndpointService: proto ↔ use case."""

from collections.abc import AsyncIterator

import grpc
from afina.v1 import catalogue_pb2, catalogue_pb2_grpc, endpoint_pb2, endpoint_pb2_grpc, model_pb2, model_pb2_grpc
from google.protobuf import empty_pb2

from services.common.ports.database import Record
from services.common.transport import wire
from services.inference import endpoints, entries, promotions, serving, use_cases, verdicts
from services.inference.catalogue import Entry
from services.inference.endpoint import Endpoint, Promotion
from services.inference.gate import Gate
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.routes import Replica, Route, Table

DEFAULT_WAIT_S = 30.0
MARGIN_S = 1.0  # so that "not yet" reaches the caller before its deadline does
MAX_WAIT_S = 600.0


class ModelRpc(model_pb2_grpc.ModelServiceServicer):
    """The models' API."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def CreateModel(self, request: model_pb2.CreateModelRequest, context: grpc.aio.ServicerContext) -> model_pb2.Model:
        """See the proto."""
        asked = (request.parent, request.manifest_key, request.suffix, request.step, request.max_length)
        return _model(await use_cases.create_model(self._inference, *asked))

    async def GetModel(self, request: model_pb2.GetModelRequest, context: grpc.aio.ServicerContext) -> model_pb2.Model:
        """See the proto."""
        record = await use_cases.get_model(self._inference, request.name, request.parent)
        return _model(record, await serving.status(self._inference, Model.from_document(record.document)))

    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await use_cases.list_models(self._inference, request.parent, after, limit)
        models = [_model(record) for record in records]
        return model_pb2.ListModelsResponse(models=models, next_page_token=wire.next_page_token(records, limit))

    async def DeleteModel(self, request: model_pb2.DeleteModelRequest, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        """See the proto."""
        await use_cases.delete_model(self._inference, request.name)
        return empty_pb2.Empty()

    async def EnsureServed(
        self, request: model_pb2.EnsureServedRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.EnsureServedResponse:
        """See the proto."""
        record, replicas = await serving.ensure_served(self._inference, request.name, _wait_s(context))
        status = await serving.status(self._inference, Model.from_document(record.document))
        return model_pb2.EnsureServedResponse(model=_model(record, status), replicas=[_replica(replica) for replica in replicas])

    async def ProveModel(self, request: model_pb2.ProveModelRequest, context: grpc.aio.ServicerContext) -> model_pb2.Model:
        """See the proto."""
        record = await serving.prove_model(self._inference, request.name, _wait_s(context))
        return _model(record, await serving.status(self._inference, Model.from_document(record.document)))

    async def JudgeModel(self, request: model_pb2.JudgeModelRequest, context: grpc.aio.ServicerContext) -> model_pb2.Model:
        """See the proto."""
        return _model(await verdicts.judge_model(self._inference, request.name, request.evaluation))

    async def WatchRoutes(
        self, request: model_pb2.WatchRoutesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[model_pb2.WatchRoutesResponse]:
        """See the proto."""
        async for table in self._inference.routes.watch():
            yield _table(table)

    async def AcknowledgeRoutes(
        self, request: model_pb2.AcknowledgeRoutesRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.AcknowledgeRoutesResponse:
        """See the proto."""
        routes = self._inference.routes
        if await routes.watchers.acknowledge(request.watcher, request.revision, request.title):
            return model_pb2.AcknowledgeRoutesResponse(believed_s=routes.watchers.believed_s)
        return model_pb2.AcknowledgeRoutesResponse(table=_table(await routes.refresh()))

    async def ForgetRoutes(self, request: model_pb2.ForgetRoutesRequest, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        """See the proto."""
        await self._inference.routes.watchers.forget(request.watcher)
        return empty_pb2.Empty()


class CatalogueRpc(catalogue_pb2_grpc.CatalogueServiceServicer):
    """The catalogue's API."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def CreateCatalogueEntry(
        self, request: catalogue_pb2.CreateCatalogueEntryRequest, context: grpc.aio.ServicerContext
    ) -> catalogue_pb2.CatalogueEntry:
        """See the proto."""
        given = _asked(request.catalogue_entry, f"catalogueEntries/{request.catalogue_entry_id}")
        return _entry(await entries.create_entry(self._inference, given))

    async def GetCatalogueEntry(
        self, request: catalogue_pb2.GetCatalogueEntryRequest, context: grpc.aio.ServicerContext
    ) -> catalogue_pb2.CatalogueEntry:
        """See the proto."""
        return _entry(await entries.get_entry(self._inference, request.name))

    async def ListCatalogueEntries(
        self, request: catalogue_pb2.ListCatalogueEntriesRequest, context: grpc.aio.ServicerContext
    ) -> catalogue_pb2.ListCatalogueEntriesResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await entries.list_entries(self._inference, after, limit)
        found = [_entry(record) for record in records]
        token = wire.next_page_token(records, limit)
        return catalogue_pb2.ListCatalogueEntriesResponse(catalogue_entries=found, next_page_token=token)

    async def UpdateCatalogueEntry(
        self, request: catalogue_pb2.UpdateCatalogueEntryRequest, context: grpc.aio.ServicerContext
    ) -> catalogue_pb2.CatalogueEntry:
        """See the proto."""
        given, fields = request.catalogue_entry, frozenset(request.update_mask.paths)
        return _entry(await entries.update_entry(self._inference, _asked(given, given.name), fields, given.etag))

    async def DeleteCatalogueEntry(
        self, request: catalogue_pb2.DeleteCatalogueEntryRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """See the proto."""
        await entries.delete_entry(self._inference, request.name, request.etag)
        return empty_pb2.Empty()


class EndpointRpc(endpoint_pb2_grpc.EndpointServiceServicer):
    """The endpoints' API."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def CreateEndpoint(
        self, request: endpoint_pb2.CreateEndpointRequest, context: grpc.aio.ServicerContext
    ) -> endpoint_pb2.Endpoint:
        """See the proto."""
        given = request.endpoint.gate
        rule = Gate(given.significance_level, given.min_effect, given.min_item_count, given.suite)
        return _endpoint(await endpoints.create_endpoint(self._inference, request.parent, request.endpoint_id, rule))

    async def GetEndpoint(
        self, request: endpoint_pb2.GetEndpointRequest, context: grpc.aio.ServicerContext
    ) -> endpoint_pb2.Endpoint:
        """See the proto."""
        return _endpoint(await endpoints.get_endpoint(self._inference, request.name))

    async def ListEndpoints(
        self, request: endpoint_pb2.ListEndpointsRequest, context: grpc.aio.ServicerContext
    ) -> endpoint_pb2.ListEndpointsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await endpoints.list_endpoints(self._inference, request.parent, after, limit)
        found = [_endpoint(record) for record in records]
        return endpoint_pb2.ListEndpointsResponse(endpoints=found, next_page_token=wire.next_page_token(records, limit))

    async def PromoteEndpoint(
        self, request: endpoint_pb2.PromoteEndpointRequest, context: grpc.aio.ServicerContext
    ) -> endpoint_pb2.Endpoint:
        """See the proto."""
        asked = (request.name, request.model, request.evaluation, request.etag, _wait_s(context))
        override, reason = request.override_reason, request.reason
        return _endpoint(await promotions.promote(self._inference, *asked, override_reason=override, reason=reason))

    async def RollbackEndpoint(
        self, request: endpoint_pb2.RollbackEndpointRequest, context: grpc.aio.ServicerContext
    ) -> endpoint_pb2.Endpoint:
        """See the proto."""
        asked = (request.name, request.model, request.reason, request.etag, _wait_s(context))
        return _endpoint(await promotions.rollback(self._inference, *asked))

    async def ListPromotions(
        self, request: endpoint_pb2.ListPromotionsRequest, context: grpc.aio.ServicerContext
    ) -> endpoint_pb2.ListPromotionsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        found = await endpoints.list_promotions(self._inference, request.parent, after or 0, limit)
        token = str(found[-1].number) if len(found) == limit else ""
        return endpoint_pb2.ListPromotionsResponse(promotions=[_promotion(p) for p in found], next_page_token=token)


def _wait_s(context: grpc.aio.ServicerContext) -> float:
    left_s = context.time_remaining()
    return DEFAULT_WAIT_S if left_s is None else max(0.0, min(left_s, MAX_WAIT_S) - MARGIN_S)


def _asked(given: catalogue_pb2.CatalogueEntry, name: str) -> Entry:
    aliases, parser = tuple(given.aliases), given.tool_call_parser
    return Entry(name, "", "", given.manifest_key, given.max_length, aliases, given.chat_template, parser)


def _model(record: Record, status: serving.Status | None = None) -> model_pb2.Model:
    found = Model.from_document(record.document)
    return model_pb2.Model(
        name=found.name,
        kind=model_pb2.Model.Kind.Value(f"KIND_{found.kind}"),
        state=model_pb2.Model.State.Value(f"STATE_{found.state}"),
        digest=found.digest,
        public_id=found.public_id,
        base=found.base,
        manifest_key=found.manifest_key,
        size_bytes=found.size_bytes,
        provenance=wire.struct(found.provenance),
        quarantine_reason=found.quarantine_reason,
        proof=wire.struct(found.proof),
        create_time=wire.timestamp(record.create_time),
        serving=model_pb2.Model.Serving.Value(f"SERVING_{status.serving}") if status else None,
        serving_message=status.message if status else "",
        chat_template=status.chat_template if status else "",
        is_distinguishable=found.is_distinguishable,
        verdict=_verdict(found),
    )


def _verdict(found: Model) -> model_pb2.Verdict | None:
    if not found.verdict:
        return None
    told = {**found.verdict, "create_time": wire.timestamp(found.verdict["create_time"])}
    return model_pb2.Verdict(**{**told, "answer": f"ANSWER_{found.verdict['answer']}"})


def _replica(replica: Replica) -> model_pb2.Replica:
    return model_pb2.Replica(url=replica.url, served_name=replica.served_name, api_key=replica.api_key)


def _table(table: Table) -> model_pb2.WatchRoutesResponse:
    return model_pb2.WatchRoutesResponse(routes=[_route(route) for route in table.routes], revision=table.revision)


def _route(route: Route) -> model_pb2.Route:
    return model_pb2.Route(
        public_id=route.public_id,
        project=route.project,
        model=route.model,
        digest=route.digest,
        replicas=[_replica(replica) for replica in route.replicas],
        kind=route.kind,
        create_time=wire.timestamp(route.create_time),
    )


def _entry(record: Record) -> catalogue_pb2.CatalogueEntry:
    entry = Entry.from_document(record.document)
    return catalogue_pb2.CatalogueEntry(
        name=entry.name,
        model=entry.model,
        digest=entry.digest,
        manifest_key=entry.manifest_key,
        aliases=entry.aliases,
        max_length=entry.max_length,
        create_time=wire.timestamp(record.create_time),
        chat_template=entry.chat_template,
        tool_call_parser=entry.tool_call_parser,
        etag=str(record.version),
    )


def _endpoint(record: Record) -> endpoint_pb2.Endpoint:
    found = Endpoint.from_document(record.document)
    return endpoint_pb2.Endpoint(
        name=found.name,
        gate=endpoint_pb2.Gate(
            significance_level=found.gate.significance_level,
            min_effect=found.gate.min_effect,
            min_item_count=found.gate.min_item_count,
            suite=found.gate.suite,
        ),
        model=found.model,
        digest=found.digest,
        promotions=[_promotion(promotion) for promotion in found.promotions],
        create_time=wire.timestamp(record.create_time),
        etag=str(record.version),
        promotion_count=found.promotion_count,
    )


def _promotion(promotion: Promotion) -> endpoint_pb2.Promotion:
    return endpoint_pb2.Promotion(
        model=promotion.model,
        digest=promotion.digest,
        previous_model=promotion.previous_model,
        previous_digest=promotion.previous_digest,
        evaluation=promotion.evaluation,
        verdict=promotion.verdict,
        create_time=wire.timestamp(promotion.create_time),
        actor=promotion.actor,
        reason=promotion.reason,
        kind=endpoint_pb2.Promotion.Kind.Value(f"KIND_{promotion.kind or 'UNSPECIFIED'}"),
        evidence=endpoint_pb2.Evidence(**promotion.evidence) if promotion.evidence else None,
        number=promotion.number,
    )
