"""Public ids: who has which name that clients ask for, among catalogue entries and endpoints.

A name is taken by a record of its own before the entry says that it has it, so of two callers one gets it. A record whose
entry does not say so is left from a call that failed, and whoever comes next may have it.
"""

import contextlib

from services.common.errors import AlreadyExists, NotFound
from services.common.names import last
from services.common.ports.database import Record
from services.inference import catalogue, endpoint
from services.inference.catalogue import Entry
from services.inference.inference import Inference
from services.inference.records import every


async def entry_of(inference: Inference, base: str) -> Entry | None:
    """Return the entry of a base by the base's resource name, or None."""
    entries = (Entry.from_document(record.document) for record in await every(inference.database, catalogue.KIND))
    return next((entry for entry in entries if entry.model == base), None)


async def holder_of(inference: Inference, public_id: str) -> Record | None:
    """Return the entry that has a name, as its id or as an alias, or None."""
    try:
        alias = await inference.database.get(catalogue.ALIAS_KIND, f"aliases/{public_id}")
        record = await inference.database.get(catalogue.KIND, alias.document["entry"])
    except NotFound:
        return None
    return record if public_id in Entry.from_document(record.document).public_ids else None


async def reserve(inference: Inference, entry: Entry) -> None:
    """Take every name of an entry. Raises: AlreadyExists (one is another entry's, or an endpoint's)."""
    endpoints = {last(record.name): record.name for record in await every(inference.database, endpoint.KIND)}
    for public_id in entry.public_ids:
        if public_id in endpoints:
            raise _taken(public_id, endpoints[public_id])
        name, document = f"aliases/{public_id}", {"entry": entry.name}
        try:
            await inference.database.create(catalogue.ALIAS_KIND, name, document)
        except AlreadyExists as error:
            alias = await inference.database.get(catalogue.ALIAS_KIND, name)
            if alias.document["entry"] == entry.name:
                continue
            if (holder := await holder_of(inference, public_id)) is not None:
                raise _taken(public_id, holder.name) from error
            await inference.database.update(alias, document)


async def release(inference: Inference, public_ids: set[str]) -> None:
    """Give names back; those that nobody has are success."""
    for public_id in public_ids:
        with contextlib.suppress(NotFound):
            await inference.database.delete(await inference.database.get(catalogue.ALIAS_KIND, f"aliases/{public_id}"))


def _taken(public_id: str, holder: str) -> AlreadyExists:
    return AlreadyExists(f"{public_id} is taken by {holder}; choose another.", metadata={"id": public_id, "holder": holder})
