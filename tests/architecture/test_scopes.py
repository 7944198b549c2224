"""Every gRPC method and every HTTP route asks for a scope, and the table names nothing that is not served."""

import importlib
import pkgutil

import afina.v1
from afina.v1 import model_pb2_grpc
from starlette.routing import BaseRoute, Route

from services.common import scopes
from services.common.backends.database.sql import SqlDatabase
from services.common.transport.grpc_client import Client
from services.gateway.app import Gateway, make_app
from services.gateway.routing import Routes
from services.gateway.upstream import Upstream
from services.gateway.use_cases import Keys


def routes() -> list[BaseRoute]:
    client = Client(model_pb2_grpc.ModelServiceStub, "127.0.0.1:1")  # nobody is asked
    table = Routes(client)
    keys = Keys(SqlDatabase("sqlite:///:memory:"))
    upstream = Upstream(table, idle_timeout_s=1, answer_timeout_s=1)
    return list(make_app(Gateway(keys, table, upstream, client, client, client, client)).router.routes)


def test_every_method_of_every_proto_has_a_scope_and_the_table_has_no_other() -> None:
    names = [module.name for module in pkgutil.iter_modules(afina.v1.__path__) if module.name.endswith("_pb2")]
    descriptors = [importlib.import_module(f"afina.v1.{name}").DESCRIPTOR for name in names]
    services = [service for descriptor in descriptors for service in descriptor.services_by_name.values()]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods == set(scopes.OF_METHOD)


def test_every_route_under_v1_has_a_scope_and_the_table_has_no_other() -> None:
    under = [route for route in routes() if isinstance(route, Route) and route.path.startswith("/v1")]
    assert {f"{method} {route.path}" for route in under for method in route.methods or ()} == set(scopes.OF_ROUTE)


def test_nothing_is_served_that_the_table_can_not_see() -> None:
    assert [route for route in routes() if not isinstance(route, Route)] == []


def test_no_key_can_be_given_what_only_the_operator_may_do() -> None:
    assert not {scopes.OPERATOR, scopes.ATTEMPT} & set(scopes.SCOPES)
    assert scopes.OF_METHOD["/afina.v1.ApiKeyService/CreateApiKey"] == scopes.OPERATOR
    assert scopes.OF_METHOD["/afina.v1.ModelService/WatchRoutes"] == scopes.OPERATOR  # it tells the keys of model servers
