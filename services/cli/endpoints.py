"""`afina endpoints`: stable names that production calls, re-pointed only through their gate."""

import click
from afina.v1 import endpoint_pb2 as pb
from afina.v1 import endpoint_pb2_grpc

from services.cli import models
from services.cli.call import Call, every, last, verb
from services.cli.output import age
from services.common.transport.grpc_client import Client

PROMOTE_TIMEOUT_S = 300.0


@click.group("endpoints")
def group() -> None:
    """Stable names that production calls; changed only through their gate."""


@verb(group, "create")
@click.argument("endpoint_id")
@click.option("--significance-level", type=float, default=0.0, help="Largest p-value that counts; 0.05.")
@click.option("--min-effect", type=float, default=0.0, help="By how much accuracy must rise; 0.")
@click.option("--min-items", "min_item_count", type=int, default=0, help="Fewer items are never enough; 50.")
@click.option("--suite", default="", help="The only suite that counts; any unless given.")
async def create(
    call: Call, endpoint_id: str, significance_level: float, min_effect: float, min_item_count: int, suite: str
) -> None:
    """Create an endpoint that points to nothing yet."""
    gate = pb.Gate(
        significance_level=significance_level,
        min_effect=min_effect,
        min_item_count=min_item_count,
        suite=call.name("suites", suite) if suite else "",
    )
    request = pb.CreateEndpointRequest(parent=call.parent, endpoint_id=endpoint_id, endpoint=pb.Endpoint(gate=gate))
    show(call, await client(call).CreateEndpoint(request))


@verb(group, "list")
async def list_(call: Call) -> None:
    """List endpoints, newest first."""
    found = await every(client(call).ListEndpoints, pb.ListEndpointsRequest(parent=call.parent), "endpoints")
    columns = {
        "id": lambda e: last(e.name),
        "model": lambda e: last(e.model) or "nothing yet",
        "changes": lambda e: len(e.promotions),
        "made": lambda e: age(e.create_time),
    }
    call.show_list(found, columns, "There are no endpoints yet; make one with `afina endpoints create ID`.")


@verb(group, "get")
@click.argument("endpoint")
async def get(call: Call, endpoint: str) -> None:
    """Show one endpoint with its gate and its changes."""
    show(call, await client(call).GetEndpoint(pb.GetEndpointRequest(name=call.name("endpoints", endpoint))))


@verb(group, "promote")
@click.argument("endpoint")
@click.option("--model", required=True, help="The candidate: public id or resource name.")
@click.option("--evaluation", required=True, help="The evidence: a finished evaluation of champion and candidate.")
async def promote(call: Call, endpoint: str, model: str, evaluation: str) -> None:
    """Point an endpoint to a model, if its gate lets the model pass; exit code 5 and the reason if not."""
    candidate = await models.find(call, model)
    request = pb.PromoteEndpointRequest(
        name=call.name("endpoints", endpoint), model=candidate.name, evaluation=call.name("evaluations", evaluation)
    )
    show(call, await client(call).PromoteEndpoint(request, timeout_s=PROMOTE_TIMEOUT_S))


def client(call: Call) -> Client:
    """The endpoints' service."""
    return call.client(endpoint_pb2_grpc.EndpointServiceStub, "inference")


def show(call: Call, endpoint: pb.Endpoint) -> None:
    """Print one endpoint."""
    gate = endpoint.gate
    rule = f"p ≤ {gate.significance_level or 0.05:g}, effect > {gate.min_effect:g}, at least {gate.min_item_count or 50} items"
    changes = [f"{p.create_time.ToDatetime():%Y-%m-%d %H:%M}  {last(p.model)}: {p.verdict}" for p in endpoint.promotions]
    call.show(
        endpoint,
        {
            "name": endpoint.name,
            "model": endpoint.model or "nothing yet",
            "gate": rule + (f", suite {last(gate.suite)}" if gate.suite else ""),
            "changes": "\n".join(changes),
            "made": age(endpoint.create_time),
        },
    )
