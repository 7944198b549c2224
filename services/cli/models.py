"""`afina models`: bring a base in, list what can be asked, have one served, take one away."""

import asyncio
from pathlib import Path
from typing import Any

import click
from afina.v1 import catalogue_pb2, catalogue_pb2_grpc, model_pb2, model_pb2_grpc

from services.cli.call import Call, every, verb
from services.cli.download import download
from services.cli.failure import is_away
from services.cli.output import age, short, size
from services.cli.watching import state_of
from services.common.backends import choose
from services.common.errors import InvalidInput, Unavailable
from services.common.ports.manifest import Manifest, put_folder
from services.common.transport.grpc_client import Client

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
ASK_TIMEOUT_S = 50.0


@click.group("models")
def group() -> None:
    """Bases and adapters: weights that can be served."""


@verb(group, "import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--id", "entry_id", required=True, help="The name that clients ask for.")
@click.option("--alias", "aliases", multiple=True, help="Another name for it; repeatable.")
@click.option("--max-length", type=int, default=0, help="Longest prompt with answer, in tokens; 2048.")
async def import_(call: Call, folder: Path, entry_id: str, aliases: tuple[str, ...], max_length: int) -> None:
    """Import a base from FOLDER (config.json, *.safetensors, tokenizer) into the object store and the catalogue."""
    entry = await import_base(call, folder, entry_id, aliases, max_length)
    call.show(
        entry,
        {
            "id": entry.name.rpartition("/")[2],
            "model": entry.model,
            "digest": entry.digest,
            "aliases": ", ".join(entry.aliases),
            "longest": f"{entry.max_length} tokens",
        },
    )


@verb(group, "list")
async def list_(call: Call) -> None:
    """List models, newest first; bases belong to every project."""
    found = await every(client(call).ListModels, model_pb2.ListModelsRequest(parent=call.parent), "models")
    columns = {
        "id": lambda m: m.public_id,
        "kind": lambda m: short(model_pb2.Model.Kind.Name(m.kind)).lower(),
        "state": state_of,
        "size": lambda m: size(m.size_bytes),
        "digest": lambda m: m.digest[:12],
        "made": lambda m: age(m.create_time),
    }
    call.show_list(found, columns, "There are no models yet; bring a base in with `afina models import DIR --id NAME`.")


@verb(group, "get")
@click.argument("model")
async def get(call: Call, model: str) -> None:
    """Show one model, by public id, alias or resource name."""
    show(call, await find(call, model))


@verb(group, "serve")
@click.argument("model")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Seconds to wait.")
async def serve(call: Call, model: str, timeout_s: float) -> None:
    """See to it that a model is loaded and proven on a server, and wait for that."""
    found = await find(call, model)
    with call.err.status(f"serving {found.public_id}"):
        response = await ensure_served(client(call), found.name, timeout_s)
    show(call, response.model, {"servers": ", ".join(replica.url for replica in response.replicas)})


@verb(group, "download")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
async def download_(call: Call, model: str, folder: Path) -> None:
    """Download a model into a new FOLDER, verified by digest: an adapter as PEFT reads it, with its base's tokenizer."""
    found = await find(call, model)
    base = await find(call, found.base) if found.base else None
    store = choose.object_store(call.home.object_store)
    with call.err.status(f"downloading {found.public_id}"):
        files = await asyncio.to_thread(download, store, found, base, folder)
    show(call, found, {"folder": folder, "files": ", ".join(files)})


def client(call: Call) -> Client:
    """The models' service."""
    return call.client(model_pb2_grpc.ModelServiceStub, "inference")


async def find(call: Call, given: str) -> model_pb2.Model:
    """Return a model by public id, alias or resource name. Raises: NotFound."""
    found: model_pb2.Model = await client(call).GetModel(model_pb2.GetModelRequest(name=given, parent=call.parent))
    return found


async def import_base(call: Call, folder: Path, entry_id: str, aliases: tuple[str, ...], max_length: int = 0) -> Any:
    """Put a base's files into the object store, then name them in the catalogue. Raises: InvalidInput, AlreadyExists."""
    manifest_key = await asyncio.to_thread(_put, call.home.object_store, folder, entry_id)
    entry = catalogue_pb2.CatalogueEntry(manifest_key=manifest_key, aliases=aliases, max_length=max_length)
    catalogue = call.client(catalogue_pb2_grpc.CatalogueServiceStub, "inference")
    request = catalogue_pb2.CreateCatalogueEntryRequest(catalogue_entry_id=entry_id, catalogue_entry=entry)
    return await catalogue.CreateCatalogueEntry(request, timeout_s=120)


async def ensure_served(models: Client, name: str, timeout_s: float) -> model_pb2.EnsureServedResponse:
    """Ask until a model is proven on a server. Raises: Unavailable (too late), WrongState (the proof failed)."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            request = model_pb2.EnsureServedRequest(name=name)
            response: model_pb2.EnsureServedResponse = await models.EnsureServed(
                request, timeout_s=max(1.0, min(ASK_TIMEOUT_S, left_s))
            )
            return response
        except Unavailable as error:
            if is_away(error) or left_s <= 1:
                raise
            await asyncio.sleep(0.5)


def show(call: Call, model: model_pb2.Model, more: dict[str, object] | None = None) -> None:
    """Print one model."""
    proof = dict(model.proof)
    told = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in proof.items())
    call.show(
        model,
        {
            "id": model.public_id,
            "name": model.name,
            "kind": short(model_pb2.Model.Kind.Name(model.kind)).lower(),
            "state": state_of(model),
            "why": model.quarantine_reason,
            "base": model.base,
            "digest": model.digest,
            "size": size(model.size_bytes),
            "proof": told,
            "made": age(model.create_time),
            **(more or {}),
        },
    )


def _put(object_store: str, folder: Path, entry_id: str) -> str:
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    missing += [] if any(folder.glob("*.safetensors")) else ["*.safetensors"]
    if missing:
        raise InvalidInput(f"{folder} is not a model folder: {', '.join(missing)} missing.", reason="FOLDER_INCOMPLETE")
    store = choose.object_store(object_store)
    manifest: Manifest = put_folder(store, "bases", folder, "base", {"source": entry_id})
    key = f"manifests/bases/{manifest.digest}.json"
    store.commit(key, manifest.to_json())
    return key
