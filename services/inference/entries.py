"""What can be asked of inference about the catalogue: one short function a verb.

Whole weights have one entry, with as many aliases as people like: a template or a length is then the server's, and not one
of two that disagree.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Violation, WrongState
from services.common.names import parse
from services.common.ports.database import Document, Record
from services.common.telemetry import log
from services.inference import catalogue, model
from services.inference.artifacts import read_manifest, read_weights, refuse
from services.inference.catalogue import Entry
from services.inference.demand import relaunch, retire
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.public_ids import entry_of, holder_of, release, reserve
from services.inference.records import change, every

UPDATABLE = frozenset({"aliases", "max_length", "chat_template", "manifest_key", "tool_call_parser"})
_logger = logging.getLogger("afina.inference")


async def create_entry(inference: Inference, asked: Entry) -> Record:
    """Add a base whose files are in the store. Raises: InvalidInput (all violations), NotFound, AlreadyExists."""
    asked = replace(asked, aliases=tuple(dict.fromkeys(alias for alias in asked.aliases if alias != asked.entry_id)))
    refuse("The base can't be added", catalogue.check_entry(asked))
    base = await _read_base(inference, asked)
    refuse("The base can't be added", catalogue.check_template_is_needed(asked, base.has_chat_template))
    if not base.has_chat_template and not asked.chat_template:
        log(_logger, logging.WARNING, "the base has no chat template: it answers completions only", entry=asked.name)
    holder = await entry_of(inference, base.name)
    if holder is not None and holder.name != asked.name:
        raise AlreadyExists(
            f"These weights are {holder.name} already; give it the alias {asked.entry_id} instead.",
            reason="BASE_HAS_ENTRY",
            metadata={"holder": holder.name},
        )
    await reserve(inference, asked)
    await _register(inference, base)
    entry = replace(asked, model=base.name, digest=base.digest, max_length=base.max_length)
    try:
        record = await inference.database.create(catalogue.KIND, entry.name, entry.to_document())
    except AlreadyExists as error:
        record = await inference.database.get(catalogue.KIND, entry.name)
        if record.document["digest"] != base.digest:
            told = f"{entry.entry_id} is another base already; choose another id, or update its manifest_key to replace it."
            raise AlreadyExists(told, metadata={"name": entry.name}) from error
    await _amend(inference, Entry.from_document(record.document))  # as the entry says, which may have been there
    inference.routes.touch()
    return record


async def get_entry(inference: Inference, name: str) -> Record:
    """Return an entry by its name or by an alias in its name's place. Raises: NotFound."""
    given = parse(catalogue.NAME, name)["entry"]
    record = await holder_of(inference, given)
    if record is None:
        raise NotFound(f"The catalogue has no {given}; list its entries.", metadata={"name": name})
    return record


async def list_entries(inference: Inference, after: int | None, limit: int) -> Sequence[Record]:
    """Return the catalogue, newest first."""
    return await inference.database.list(catalogue.KIND, "", after=after, limit=limit)


async def update_entry(inference: Inference, given: Entry, fields: frozenset[str], etag: str) -> Record:
    """Write some fields of an entry. Raises: InvalidInput, NotFound, AlreadyExists, WrongState, Conflict (stale etag)."""
    if not fields or fields - UPDATABLE:
        told = ", ".join(sorted(fields - UPDATABLE)) or "nothing"
        raise InvalidInput(f"update_mask names {told}; it takes {', '.join(sorted(UPDATABLE))}.", reason="UPDATE_MASK_INVALID")
    record = await get_entry(inference, given.name)
    require_etag(record, etag)
    old = Entry.from_document(record.document)
    new = replace(old, **{name: getattr(given, name) for name in fields})
    new = replace(new, aliases=tuple(dict.fromkeys(alias for alias in new.aliases if alias != new.entry_id)))
    refuse("The entry can't be changed", catalogue.check_entry(new))
    if fields == {"aliases"}:
        base = Model.from_document((await inference.database.get(model.KIND, old.model)).document)
    else:
        base = await _read_base(inference, new)
    if "chat_template" in fields:
        refuse("The entry can't be changed", catalogue.check_template_is_needed(new, base.has_chat_template))
    elif base.has_chat_template:
        new = replace(new, chat_template="")
    new = replace(new, model=base.name, digest=base.digest, max_length=base.max_length)
    if base.name != old.model:
        holder = await entry_of(inference, base.name)
        if holder is not None:
            raise AlreadyExists(f"These weights are {holder.name} already.", metadata={"holder": holder.name})
        if old.chat_template:  # declared here and nowhere else: it would be lost with the entry's old weights
            await _require_unused(inference, old, "they need its chat template: import the new weights under another name")
    elif new.chat_template != old.chat_template:
        await _require_unused(inference, old, "its chat template stays: they were trained with it")
    await reserve(inference, new)
    await _register(inference, base)
    changed = await inference.database.update(record, new.to_document())
    # What follows is done again by whoever repeats a call that broke off here.
    await _amend(inference, new)
    await release(inference, set(old.public_ids) - set(new.public_ids))
    await relaunch(inference, base, new)
    if new.model != old.model:
        await forget_base(inference, old.model, f"{new.name} means other weights now.")
    log(_logger, logging.INFO, "catalogue entry changed", entry=new.name, fields=sorted(fields))
    inference.routes.touch()
    return changed


async def delete_entry(inference: Inference, name: str, etag: str) -> None:
    """Remove a base that no model stands on, with its names and its server. Raises: NotFound, WrongState, Conflict."""
    parse(catalogue.NAME, name)
    record = await inference.database.get(catalogue.KIND, name)
    require_etag(record, etag)
    entry = Entry.from_document(record.document)
    await _require_unused(inference, entry, "delete them first")
    await inference.database.delete(record)
    await release(inference, set(entry.public_ids))
    await forget_base(inference, entry.model, "Its catalogue entry was deleted.")
    log(_logger, logging.INFO, "catalogue entry deleted", entry=entry.name, digest=entry.digest)
    inference.routes.touch()


async def forget_base(inference: Inference, name: str, why: str) -> None:
    """Delete a base that no entry and no model stands on any more, and have its server end. Idempotent; the absent is success."""
    try:
        record = await inference.database.get(model.KIND, name)
    except NotFound:
        return
    base = Model.from_document(record.document)
    if await entry_of(inference, name) is not None or await _users(inference, base.digest):
        return
    await inference.database.delete(record)
    await retire(inference, base.digest, why)


def require_etag(record: Record, etag: str) -> None:
    """Raises: Conflict (the record has changed since the etag was given out)."""
    if etag and etag != str(record.version):
        raise Conflict(f"{record.name} has changed since you read it; read it again.", metadata={"etag": str(record.version)})


async def _read_base(inference: Inference, entry: Entry) -> Model:
    """Return the base that an entry's manifest describes, checked. Raises: InvalidInput, ArtifactNotFound."""
    manifest = await asyncio.to_thread(read_manifest, inference.store, entry.manifest_key)
    if manifest.kind != "base":
        told = f"The manifest is of kind {manifest.kind}, not base; register it as a model of a project."
        refuse("The base can't be added", [Violation("catalogue_entry.manifest_key", "WRONG_KIND", told)])
    texts = await asyncio.to_thread(read_weights, inference.store, manifest, entry.max_length)
    return Model(
        name=model.base_name(manifest.digest),
        kind="BASE",
        digest=manifest.digest,
        public_id=entry.entry_id,
        manifest_key=entry.manifest_key,
        size_bytes=manifest.size_bytes,
        max_length=entry.max_length or catalogue.default_max_length(texts),
        has_chat_template=catalogue.has_chat_template(manifest, texts),
        provenance=manifest.data,
    )


async def _register(inference: Inference, base: Model) -> None:
    """Have a base's record."""
    with contextlib.suppress(AlreadyExists):
        await inference.database.create(model.KIND, base.name, base.to_document())


async def _amend(inference: Inference, entry: Entry) -> None:
    """Write into a base's record what its entry says."""

    def write(document: Document) -> Document:
        known = Model.from_document(document)
        return replace(known, max_length=entry.max_length, public_id=entry.entry_id).to_document()

    await change(inference.database, model.KIND, entry.model, write, None)


async def _require_unused(inference: Inference, entry: Entry, advice: str) -> None:
    """Raises: WrongState (adapters or full weights stand on this base)."""
    users = await _users(inference, entry.digest)
    if users:
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        raise WrongState(
            f"{users[0]}{more} stand on {entry.name}; {advice}.",
            reason="BASE_IN_USE",
            metadata={"model": users[0], "model_count": str(len(users))},
        )


async def _users(inference: Inference, digest: str) -> list[str]:
    """Return the adapters and full weights that stand on the base of this digest."""
    models = [Model.from_document(record.document) for record in await every(inference.database, model.KIND, "projects")]
    return [known.name for known in models if known.base_digest == digest]
