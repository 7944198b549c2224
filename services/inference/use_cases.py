"""What can be asked of inference about models: one short function a verb. Others: `entries.py`, `serving.py`, `endpoints.py`."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, WrongState
from services.common.names import parse, project_of
from services.common.ports.database import Record
from services.common.ports.manifest import Manifest
from services.inference import catalogue, endpoint, entries, model
from services.inference.artifacts import read_adapter, read_manifest, read_weights, refuse, told_base
from services.inference.candidacy import end_candidacies
from services.inference.demand import retire
from services.inference.endpoint import Endpoint
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.records import MAX_TRIES, every, is_used
from services.inference.servers import PLACEMENT_KIND, placement_name, server_name


async def create_model(
    inference: Inference, parent: str, manifest_key: str, suffix: str, step: int = 0, max_length: int = 0
) -> Record:
    """Register what a manifest describes, an adapter or full weights; twice is once.

    Raises: InvalidInput (all violations), NotFound (the manifest, the base that it names).
    """
    project = parse("projects/{project}", parent)["project"]
    if not model.SUFFIX.fullmatch(suffix):
        raise InvalidInput(f"The suffix {suffix!r} has to be at most 64 of a-z, 0-9 and -.", reason="SUFFIX_INVALID")
    if step < 0:
        raise InvalidInput(f"The step is {step}; it counts from 1, and 0 says that there is none.", reason="STEP_INVALID")
    manifest = await asyncio.to_thread(read_manifest, inference.store, manifest_key)
    _require_own(project, manifest_key, manifest)
    name = model.own_name(project, manifest.digest)
    found = await (_full if manifest.kind == "full" else _adapter)(inference, manifest, max_length)
    new = Model(
        name=name,
        digest=manifest.digest,
        public_id=model.public_id(found.pop("base_public_id"), project, suffix, name, step),
        manifest_key=manifest_key,
        size_bytes=manifest.size_bytes,
        provenance={key: manifest.data[key] for key in model.PROVENANCE_KEYS if key in manifest.data},
        **found,
    )
    try:
        record = await inference.database.create(model.KIND, name, new.to_document())
    except AlreadyExists:
        record = await inference.database.get(model.KIND, name)
    inference.routes.touch()
    return record


def _require_own(project: str, manifest_key: str, manifest: Manifest) -> None:
    """Refuse the result of another project's job; what was imported is whose the operator says. Raises: InvalidInput.

    A worker tells the keys of the checkpoints that it published, and its trainer registers them: they are its own job's or none.
    """
    job = str(manifest.data.get("job", ""))
    if manifest_key.startswith("jobs/") and job and not job.startswith(f"projects/{project}/"):
        told = f"{manifest_key} is the result of {job}; register it in that project."
        raise InvalidInput(told, reason="WRONG_PROJECT", metadata={"job": job})


async def get_model(inference: Inference, name: str, parent: str = "") -> Record:
    """Return a model by resource name, public id or alias. Raises: NotFound, InvalidInput."""
    if name.startswith("models/"):
        parse(model.BASE_NAME, name)
        return await inference.database.get(model.KIND, name)
    if name.startswith("projects/"):
        parse(model.OWN_NAME, name)
        return await inference.database.get(model.KIND, name)
    adapter = model.name_of_public_id(name)
    if adapter is None:
        entry = await entries.get_entry(inference, f"catalogueEntries/{name}")
        return await inference.database.get(model.KIND, entry.document["model"])
    project, resource = adapter
    record = await inference.database.get(model.KIND, resource) if parent in ("", f"projects/{project}") else None
    if record is None or record.document["public_id"] != name:
        raise NotFound(f"There is no model {name} in {parent or 'any project'}.", metadata={"name": name})
    return record


async def list_models(inference: Inference, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return a project's models and all bases, newest first."""
    project_of(parent)
    own = await inference.database.list(model.KIND, f"{parent}/models", after=after, limit=limit)
    bases = await inference.database.list(model.KIND, "models", after=after, limit=limit)
    return sorted([*own, *bases], key=lambda record: -record.sequence)[:limit]


async def delete_model(inference: Inference, name: str) -> None:
    """Delete an adapter or full weights that no endpoint points to; the bytes stay. Raises: NotFound, WrongState."""
    parse(model.OWN_NAME, name)
    deleted = await _remove(inference, name)
    if deleted.kind == "FULL" and not await is_used(inference.database, deleted.digest):
        await retire(inference, deleted.digest, f"{name} was deleted.")
    if deleted.base:
        await entries.forget_base(inference, deleted.base, f"{name} was deleted, the last that stood on it.")
    inference.routes.touch()


async def _remove(inference: Inference, name: str) -> Model:
    """Delete a model's record and its place, once no endpoint points to it nor can begin to: see `candidacy.py`.

    Raises: NotFound, WrongState (one does), Conflict.
    """
    for _ in range(MAX_TRIES):
        record = await inference.database.get(model.KIND, name)
        left = Model.from_document(record.document)
        await end_candidacies(inference, left)
        for other in await every(inference.database, endpoint.KIND, f"projects/{project_of(name)}/endpoints"):
            pointing = Endpoint.from_document(other.document)
            if pointing.model == name:
                raise WrongState(
                    f"{pointing.name} points to {name}; promote another model there first.",
                    reason="MODEL_IN_USE",
                    metadata={"endpoint": pointing.name},
                )
        with contextlib.suppress(Conflict):  # a promotion has begun, a proof was written, or it was released: look again
            leaving = await inference.database.update(record, left.quarantine("It is being deleted.").to_document())
            with contextlib.suppress(NotFound):
                place = placement_name(server_name(left.served_digest), name)
                await inference.database.delete(await inference.database.get(PLACEMENT_KIND, place))
            await inference.database.delete(leaving)
            return left
    raise Conflict(f"{name} changes too often; repeat.", metadata={"name": name})


async def _adapter(inference: Inference, manifest: Manifest, max_length: int) -> dict[str, Any]:
    """Return what is an adapter's own of a Model's fields. Raises: InvalidInput, NotFound."""
    base = await _base_of(inference, manifest)
    rank = await asyncio.to_thread(read_adapter, inference.store, inference.cache, manifest, base)
    # The plugin finds an adapter by digest alone; the manifest stays where the job put it, too.
    by_digest = f"manifests/adapters/{manifest.digest}.json"
    await asyncio.to_thread(inference.store.commit, by_digest, manifest.to_json())
    origin = {"base": base.name, "base_digest": base.digest, "base_public_id": base.public_id}
    return {"kind": "ADAPTER", "rank": rank, **origin}


async def _full(inference: Inference, manifest: Manifest, max_length: int) -> dict[str, Any]:
    """Return what is full weights' own of a Model's fields. Raises: InvalidInput, NotFound (a base that they name)."""
    refuse("The weights can't be served", catalogue.check_max_length(max_length))
    with contextlib.suppress(NotFound):
        base = Model.from_document((await inference.database.get(model.KIND, model.base_name(manifest.digest))).document)
        told = f"These are the weights of {base.public_id}, file by file; ask for that, whose server everybody shares."
        raise InvalidInput(told, reason="WEIGHTS_ARE_A_BASE", metadata={"base": base.name})
    texts = await asyncio.to_thread(read_weights, inference.store, manifest, max_length)
    origin = {"base_public_id": model.NO_BASE}
    if told_base(manifest):
        base = await _base_of(inference, manifest)
        origin = {"base": base.name, "base_digest": base.digest, "base_public_id": base.public_id}
    return {
        "kind": "FULL",
        "max_length": max_length or catalogue.default_max_length(texts),
        "has_chat_template": catalogue.has_chat_template(manifest, texts),
        **origin,
    }


async def _base_of(inference: Inference, manifest: Manifest) -> Model:
    """Return the base that is named like the one in a manifest; of an adapter, `read_adapter` says whether it is that one."""
    digest = told_base(manifest)
    try:
        return Model.from_document((await inference.database.get(model.KIND, model.base_name(digest))).document)
    except NotFound as error:
        raise NotFound(
            f"The {manifest.kind} model stands on base {digest or 'unknown'}, which the catalogue lacks; add it first.",
            reason="BASE_NOT_FOUND",
            metadata={"base_digest": digest},
        ) from error
