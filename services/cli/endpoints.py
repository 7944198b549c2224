"""`afina endpoints`: stable names that production calls, re-pointed only through their gate."""

import asyncio
from collections.abc import Awaitable

import click
from afina.v1 import endpoint_pb2 as pb
from afina.v1 import endpoint_pb2_grpc

from services.cli import models
from services.cli.call import Call, every, last, verb
from services.cli.output import age, short
from services.common.errors import AfinaError
from services.common.transport.grpc_client import Client

PROMOTE_TIMEOUT_S = 300.0
LOOK_S = 1.0


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
        "changes": lambda e: e.promotion_count,
        "made": lambda e: age(e.create_time),
    }
    call.show_list(found, columns, "There are no endpoints yet; make one with `afina endpoints create ID`.")


@verb(group, "get")
@click.argument("endpoint")
async def get(call: Call, endpoint: str) -> None:
    """Show who answers for one endpoint, since when and why, with its gate and its last changes."""
    show(call, await client(call).GetEndpoint(pb.GetEndpointRequest(name=call.name("endpoints", endpoint))))


@verb(group, "promote")
@click.argument("endpoint")
@click.option("--model", required=True, help="The candidate: public id or resource name.")
@click.option("--evaluation", default="", help="The evidence: a finished evaluation of champion and candidate.")
@click.option("--reason", default="", help="Why, for the history.")
@click.option(
    "--override-reason", default="", help="Promote whatever the gate says, and keep why; of a key it asks endpoints.override."
)
async def promote(call: Call, endpoint: str, model: str, evaluation: str, reason: str, override_reason: str) -> None:
    """Point an endpoint to a model, if its gate lets the model pass; exit code 5 and the reason if not.

    It returns when no gateway answers with the model before. No override passes a failed proof.
    """
    if not evaluation and not override_reason:
        raise click.UsageError("Say on what evidence: --evaluation; make one with `afina evaluations create`.")
    candidate = await models.find(call, model)
    request = pb.PromoteEndpointRequest(
        name=call.name("endpoints", endpoint),
        model=candidate.name,
        evaluation=call.name("evaluations", evaluation) if evaluation else "",
        reason=reason,
        override_reason=override_reason,
    )
    changing = client(call).PromoteEndpoint(request, timeout_s=PROMOTE_TIMEOUT_S)
    show(call, await _followed(call, request.name, candidate.name, changing))


@verb(group, "rollback")
@click.argument("endpoint")
@click.option("--to", "model", default="", help="A model that it pointed to; the one before, unless given.")
@click.option("--reason", required=True, help="Why, for the history.")
async def rollback(call: Call, endpoint: str, model: str, reason: str) -> None:
    """Point an endpoint back to a model that it pointed to before; its evidence is in the history.

    Twice goes back two models. It returns when no gateway answers with the model before.
    """
    name = call.name("endpoints", endpoint)
    target = (await models.find(call, model)).name if model else ""
    seen = await client(call).GetEndpoint(pb.GetEndpointRequest(name=name))
    request = pb.RollbackEndpointRequest(name=name, model=target, reason=reason, etag=seen.etag)
    changing = client(call).RollbackEndpoint(request, timeout_s=PROMOTE_TIMEOUT_S)
    show(call, await _followed(call, name, target, changing))


@verb(group, "history")
@click.argument("endpoint")
async def history(call: Call, endpoint: str) -> None:
    """List every change of an endpoint: who, when, why, and on what evidence."""
    request = pb.ListPromotionsRequest(parent=call.name("endpoints", endpoint))
    found = await every(client(call).ListPromotions, request, "promotions")
    columns = {
        "no.": lambda p: p.number,
        "when": lambda p: f"{p.create_time.ToDatetime():%Y-%m-%d %H:%M:%S}",
        "what": lambda p: short(pb.Promotion.Kind.Name(p.kind)).lower() if p.kind else "",
        "model": lambda p: last(p.model)[:12],
        "who": lambda p: last(p.actor),
        "evaluation": lambda p: last(p.evaluation),
        "why": lambda p: "\n".join(text for text in (p.reason, p.verdict) if text),
    }
    call.show_list(found, columns, f"{endpoint} has not pointed to any model yet.")


async def _followed(call: Call, name: str, candidate: str, changing: Awaitable[pb.Endpoint]) -> pb.Endpoint:
    """Wait for a change, saying what it waits for."""
    task = asyncio.ensure_future(changing)
    with call.err.status("the gate looks at the evidence") as status:
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            try:
                status.update(await _waits_for(call, name, candidate))
            except AfinaError:  # the change itself will tell
                continue
    return task.result()


async def _waits_for(call: Call, name: str, candidate: str) -> str:
    pointing = await client(call).GetEndpoint(pb.GetEndpointRequest(name=name))
    if candidate in ("", pointing.model):
        return "every gateway takes the new table of routes; one that does not answer is waited for as long as it may"
    known = await models.find(call, candidate)
    return f"{known.public_id} is loaded and proven. {known.serving_message}" if known.serving_message else "the gate decides"


def client(call: Call) -> Client:
    """The endpoints' service."""
    return call.client(endpoint_pb2_grpc.EndpointServiceStub, "inference")


def show(call: Call, endpoint: pb.Endpoint) -> None:
    """Print one endpoint."""
    gate = endpoint.gate
    rule = f"p ≤ {gate.significance_level or 0.05:g}, effect > {gate.min_effect:g}, at least {gate.min_item_count or 50} items"
    changes = [
        f"{p.create_time.ToDatetime():%Y-%m-%d %H:%M}  {short(pb.Promotion.Kind.Name(p.kind)).lower()} to {last(p.model)}"
        for p in endpoint.promotions
    ]
    newest = endpoint.promotions[-1] if endpoint.promotions else pb.Promotion()
    call.show(
        endpoint,
        {
            "name": endpoint.name,
            "model": endpoint.model or "nothing yet",
            "digest": endpoint.digest[:12],
            "since": age(newest.create_time),
            "by": newest.actor,
            "why": newest.reason,
            "verdict": newest.verdict,
            "evaluation": newest.evaluation,
            "gate": rule + (f", suite {last(gate.suite)}" if gate.suite else ""),
            "changes": "\n".join(changes),
            "made": age(endpoint.create_time),
        },
    )
