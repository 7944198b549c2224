"""`afina keys`: what clients of the HTTP API, and of gRPC, show."""

import click
from afina.v1 import api_key_pb2 as pb
from afina.v1 import api_key_pb2_grpc
from google.protobuf import duration_pb2

from services.cli.call import Call, every, last, verb
from services.cli.output import age, document, print_json
from services.common import scopes
from services.common.transport.grpc_client import Client


@click.group("keys")
def group() -> None:
    """API keys: what clients show."""


@verb(group, "create")
@click.argument("display_name")
@click.option("--days", type=click.IntRange(min=1), default=None, help="How long it works; for ever unless given.")
@click.option("--scope", "asked", multiple=True, type=click.Choice(scopes.SCOPES), help="What it may do; else everything.")
@click.option("--read-only", is_flag=True, help="It may look at everything, and ask and change nothing.")
async def create(call: Call, display_name: str, days: int | None, asked: tuple[str, ...], read_only: bool) -> None:
    """Issue a key for DISPLAY_NAME; the secret is shown once."""
    may = (*asked, *(scopes.READ_ONLY if read_only else ()))
    request = pb.CreateApiKeyRequest(parent=call.parent, display_name=display_name, scopes=may)
    if days is not None:
        request.ttl.CopyFrom(duration_pb2.Duration(seconds=days * 86400))
    response = await client(call).CreateApiKey(request)
    if call.as_json:
        print_json(call.out, document(response))
        return
    call.err.print(f"{last(response.api_key.name)} for {display_name}; this is the only time the secret is shown:", markup=False)
    call.out.file.write(response.secret + "\n")


@verb(group, "list")
async def list_(call: Call) -> None:
    """List keys without their secrets, newest first."""
    found = await every(client(call).ListApiKeys, pb.ListApiKeysRequest(parent=call.parent), "api_keys")
    columns = {
        "id": lambda k: last(k.name),
        "for": lambda k: k.display_name,
        "may": lambda k: "everything" if set(k.scopes) >= set(scopes.SCOPES) else " ".join(k.scopes),
        "until": lambda k: f"{k.expire_time.ToDatetime():%Y-%m-%d %H:%M}" if k.HasField("expire_time") else "",
        "issued": lambda k: age(k.create_time),
    }
    call.show_list(found, columns, "There are no keys.")


@verb(group, "delete")
@click.argument("key")
async def delete(call: Call, key: str) -> None:
    """Revoke a key at once."""
    name = call.name("apiKeys", key)
    await client(call).DeleteApiKey(pb.DeleteApiKeyRequest(name=name))
    if call.as_json:
        print_json(call.out, {"name": name, "is_deleted": True})
    else:
        call.out.print(f"{last(name)} is revoked.", markup=False)


def client(call: Call) -> Client:
    """The keys' service."""
    return call.client(api_key_pb2_grpc.ApiKeyServiceStub, "gateway")
