"""The catalogue from a terminal: a base's files into the store and its names into the list, or into an entry that is there."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afina.v1 import catalogue_pb2, catalogue_pb2_grpc
from google.protobuf import field_mask_pb2

from services.cli import imports
from services.cli.call import Call, every
from services.common.errors import AlreadyExists, NotFound
from services.common.transport.grpc_client import Client

REGISTER_TIMEOUT_S = 300.0  # the headers of many shards are read where they lie


def service(call: Call) -> Client:
    """The catalogue's service."""
    return call.client(catalogue_pb2_grpc.CatalogueServiceStub, "inference")


async def get(call: Call, name: str) -> catalogue_pb2.CatalogueEntry:
    """Return an entry by id, alias or name. Raises: NotFound."""
    full = name if "/" in name else f"catalogueEntries/{name}"
    found: catalogue_pb2.CatalogueEntry = await service(call).GetCatalogueEntry(catalogue_pb2.GetCatalogueEntryRequest(name=full))
    return found


async def entries(call: Call) -> Sequence[catalogue_pb2.CatalogueEntry]:
    """Return the whole catalogue."""
    return await every(service(call).ListCatalogueEntries, catalogue_pb2.ListCatalogueEntriesRequest(), "catalogue_entries")


async def import_base(call: Call, folder: Path, entry_id: str, aliases: tuple[str, ...]) -> Any:
    """Import a base from a folder. Raises: InvalidInput, AlreadyExists."""
    return await import_source(call, await asyncio.to_thread(imports.open_source, call, str(folder)), entry_id, aliases)


async def import_source(
    call: Call,
    source: imports.Source,
    entry_id: str = "",
    aliases: tuple[str, ...] = (),
    max_length: int = 0,
    template: str | None = None,
    parser: str = "",
    replace: bool = False,
) -> Any:
    """Put a base's files into the object store, then name them in the catalogue; twice is once.

    Raises: InvalidInput, AlreadyExists (the name belongs to other weights, and `replace` was not said).
    """
    manifest_key, manifest = await imports.put_source(call, source, "base", {})
    name = f"catalogueEntries/{entry_id or source.name}"
    wanted: dict[str, Any] = {"aliases": list(aliases), "max_length": max_length, "chat_template": template or ""}
    wanted["tool_call_parser"] = parser
    try:
        known = await get(call, name)
    except NotFound:
        entry = catalogue_pb2.CatalogueEntry(manifest_key=manifest_key, **wanted)
        request = catalogue_pb2.CreateCatalogueEntryRequest(catalogue_entry_id=name.partition("/")[2], catalogue_entry=entry)
        return await service(call).CreateCatalogueEntry(request, timeout_s=REGISTER_TIMEOUT_S)
    changes = {key: value for key, value in wanted.items() if value}
    if set(aliases) <= {*known.aliases, known.name.rpartition("/")[2]}:
        changes.pop("aliases", None)
    else:
        changes["aliases"] = [*known.aliases, *aliases]
    if known.digest != manifest.digest:
        if not replace:
            raise AlreadyExists(
                f"{known.name} is another base already, {known.digest[:12]}; choose another --name, or say --replace.",
                metadata={"name": known.name, "digest": known.digest},
            )
        changes["manifest_key"] = manifest_key
    return await update(call, known, changes) if changes else known


def show(call: Call, entry: catalogue_pb2.CatalogueEntry) -> None:
    """Print one entry of the catalogue."""
    call.show(
        entry,
        {
            "id": entry.name.rpartition("/")[2],
            "model": entry.model,
            "digest": entry.digest,
            "aliases": ", ".join(entry.aliases),
            "longest": f"{entry.max_length} tokens",
            "template": f"declared, {len(entry.chat_template.encode())} bytes" if entry.chat_template else "",
            "tool calls": entry.tool_call_parser,
        },
    )


async def update(call: Call, entry: catalogue_pb2.CatalogueEntry, fields: dict[str, Any]) -> Any:
    """Write some fields of an entry as it was read. Raises: Conflict (changed meanwhile), AlreadyExists, WrongState."""
    given = catalogue_pb2.CatalogueEntry(name=entry.name, etag=entry.etag, **fields)
    mask = field_mask_pb2.FieldMask(paths=sorted(fields))
    request = catalogue_pb2.UpdateCatalogueEntryRequest(catalogue_entry=given, update_mask=mask)
    return await service(call).UpdateCatalogueEntry(request, timeout_s=REGISTER_TIMEOUT_S)
