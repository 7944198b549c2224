"""What can be asked of inference about models and the catalogue: one short function a verb. Endpoints: `endpoints.py`."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.common.errors import AlreadyExists, ArtifactNotFound, InvalidInput, NotFound, Unavailable, Violation, WrongState
from services.common.names import parse, project_of
from services.common.ports.database import Record
from services.common.ports.manifest import Manifest, fetch_folder
from services.common.ports.object_store import ObjectStore
from services.common.telemetry import log
from services.inference import catalogue, endpoint, model
from services.inference.adapter_checks import adapter_rank, base_modules, check_adapter, read_header
from services.inference.catalogue import Entry
from services.inference.endpoint import Endpoint
from services.inference.fleet import change
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.proof import parse_golden
from services.inference.routes import Replica, every, replicas_of
from services.inference.servers import ENGINE_RANKS, PLACEMENT_KIND, SERVER_KIND, Placement, Server, placement_name, server_name

WAIT_LOOK_S = 1.0
_logger = logging.getLogger("afina.inference")


async def create_entry(inference: Inference, entry_id: str, manifest_key: str, aliases: Sequence[str], max_length: int) -> Record:
    """Add a base whose files are in the store. Raises: InvalidInput (all violations), NotFound, AlreadyExists."""
    names = tuple(dict.fromkeys(alias for alias in aliases if alias != entry_id))
    _refuse("The base can't be added", catalogue.check_request(entry_id, names, max_length, manifest_key))
    manifest, texts = await asyncio.to_thread(_read_base, inference.store, manifest_key, max_length)
    if not catalogue.has_chat_template(manifest, texts):
        log(_logger, logging.WARNING, "the base has no chat template: it answers completions only", entry=entry_id)
    name = f"catalogueEntries/{entry_id}"
    for public_id in (entry_id, *names):
        await _reserve(inference, public_id, name)
    length = max_length or catalogue.default_max_length(texts)
    base = Model(
        name=model.base_name(manifest.digest),
        kind="BASE",
        digest=manifest.digest,
        public_id=entry_id,
        manifest_key=manifest_key,
        size_bytes=manifest.size_bytes,
        max_length=length,
        provenance=manifest.data,
    )
    with contextlib.suppress(AlreadyExists):
        await inference.database.create(model.KIND, base.name, base.to_document())
    entry = Entry(name, base.name, base.digest, manifest_key, length, names)
    try:
        record = await inference.database.create(catalogue.KIND, name, entry.to_document())
    except AlreadyExists as error:
        record = await inference.database.get(catalogue.KIND, name)
        if record.document["digest"] != base.digest:
            raise AlreadyExists(f"{entry_id} is another base already; choose another id.", metadata={"name": name}) from error
    inference.routes.touch()
    return record


async def get_entry(inference: Inference, name: str) -> Record:
    """Return an entry by its name or by an alias in its name's place. Raises: NotFound."""
    given = parse(catalogue.NAME, name)["entry"]
    try:
        alias = await inference.database.get(catalogue.ALIAS_KIND, f"aliases/{given}")
        return await inference.database.get(catalogue.KIND, alias.document["entry"])
    except NotFound as error:
        raise NotFound(f"The catalogue has no {given}; list its entries.", metadata={"name": name}) from error


async def list_entries(inference: Inference, after: int | None, limit: int) -> Sequence[Record]:
    """Return the catalogue, newest first."""
    return await inference.database.list(catalogue.KIND, "", after=after, limit=limit)


async def create_model(inference: Inference, parent: str, manifest_key: str, suffix: str, step: int = 0) -> Record:
    """Register the adapter that a manifest describes; twice is once. Raises: InvalidInput (all violations), NotFound."""
    project = parse("projects/{project}", parent)["project"]
    if not model.SUFFIX.fullmatch(suffix):
        raise InvalidInput(f"The suffix {suffix!r} has to be at most 64 of a-z, 0-9 and -.", reason="SUFFIX_INVALID")
    if step < 0:
        raise InvalidInput(f"The step is {step}; it counts from 1, and 0 says that there is none.", reason="STEP_INVALID")
    manifest = Manifest.from_json(await asyncio.to_thread(inference.store.read, manifest_key))
    base = await _base_of(inference, manifest)
    rank = await asyncio.to_thread(_check_adapter, inference, manifest, base)
    # The plugin finds an adapter by digest alone; the manifest stays where the job put it, too.
    by_digest = f"manifests/adapters/{manifest.digest}.json"
    await asyncio.to_thread(inference.store.commit, by_digest, manifest.to_json())
    name = model.adapter_name(project, manifest.digest)
    adapter = Model(
        name=name,
        kind="ADAPTER",
        digest=manifest.digest,
        public_id=model.public_id(base.public_id, project, suffix, name, step),
        manifest_key=manifest_key,
        size_bytes=manifest.size_bytes,
        base=base.name,
        base_digest=base.digest,
        rank=rank,
        provenance={key: manifest.data[key] for key in model.PROVENANCE_KEYS if key in manifest.data},
    )
    try:
        record = await inference.database.create(model.KIND, name, adapter.to_document())
    except AlreadyExists:
        record = await inference.database.get(model.KIND, name)
    inference.routes.touch()
    return record


async def get_model(inference: Inference, name: str, parent: str = "") -> Record:
    """Return a model by resource name, public id or alias. Raises: NotFound, InvalidInput."""
    if name.startswith("models/"):
        parse(model.BASE_NAME, name)
        return await inference.database.get(model.KIND, name)
    if name.startswith("projects/"):
        parse(model.ADAPTER_NAME, name)
        return await inference.database.get(model.KIND, name)
    adapter = model.name_of_public_id(name)
    if adapter is None:
        entry = await get_entry(inference, f"catalogueEntries/{name}")
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
    """Delete an adapter that no endpoint points to; its bytes stay. Raises: NotFound, WrongState."""
    parse(model.ADAPTER_NAME, name)
    record = await inference.database.get(model.KIND, name)
    for other in await every(inference.database, endpoint.KIND, f"projects/{project_of(name)}/endpoints"):
        pointing = Endpoint.from_document(other.document)
        if pointing.model == name:
            raise WrongState(
                f"{pointing.name} points to {name}; promote another model there first.",
                reason="MODEL_IN_USE",
                metadata={"endpoint": pointing.name},
            )
    placement = placement_name(server_name(record.document["base"]), name)
    with contextlib.suppress(NotFound):
        await inference.database.delete(await inference.database.get(PLACEMENT_KIND, placement))
    await inference.database.delete(record)
    inference.routes.touch()


async def ensure_served(inference: Inference, name: str, timeout_s: float) -> tuple[Record, tuple[Replica, ...]]:
    """See to it that a model is proven somewhere, and wait. Raises: NotFound, WrongState (quarantined), Unavailable."""
    end = asyncio.get_running_loop().time() + timeout_s
    wanted = Model.from_document((await get_model(inference, name)).document)
    wanted.require_active()
    await _want(inference, wanted)
    while True:
        replicas = await replicas_of(inference.database, wanted.name)
        record = await inference.database.get(model.KIND, wanted.name)  # after: a proof is written before its replica is
        Model.from_document(record.document).require_active()
        if replicas:
            return record, replicas
        left_s = end - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise await _not_yet(inference, wanted)
        await inference.routes.wait(min(WAIT_LOOK_S, left_s))


async def _want(inference: Inference, wanted: Model) -> None:
    """Make the records that the loops need: the server of its base, and for an adapter its place there."""
    base = Model.from_document((await inference.database.get(model.KIND, wanted.base_name)).document)
    now = inference.clock()
    server = Server(server_name(base.name), base.name, base.digest, base.manifest_key, base.max_length, since=now.isoformat())
    server = server.grow(wanted.rank, now)
    with contextlib.suppress(AlreadyExists):
        await inference.database.create(SERVER_KIND, server.name, server.to_document(), due_time=now)
    if wanted.kind == "BASE":
        return
    running = Server.from_document((await inference.database.get(SERVER_KIND, server.name)).document)
    if running.grow(wanted.rank, now) != running:

        def grow(document: dict[str, Any]) -> dict[str, Any]:
            return Server.from_document(document).grow(wanted.rank, now).to_document()

        await change(inference.database, SERVER_KIND, server.name, grow, now)
    placement = Placement(
        name=placement_name(server.name, wanted.name),
        server=server.name,
        model=wanted.name,
        digest=wanted.digest,
        base_digest=wanted.base_digest,
        manifest_key=wanted.manifest_key,
    )
    with contextlib.suppress(AlreadyExists):
        await inference.database.create(PLACEMENT_KIND, placement.name, placement.to_document(), due_time=now)


async def _not_yet(inference: Inference, wanted: Model) -> Unavailable:
    server = Server.from_document((await inference.database.get(SERVER_KIND, server_name(wanted.base_name))).document)
    told = f" {server.message}" if server.message else ""
    return Unavailable(
        f"{wanted.name} is not proven on a server yet (its server is {server.state}); ask again.{told}",
        reason="MODEL_NOT_READY",
        metadata={"model": wanted.name, "server_state": server.state, "retry_after_s": "5"},
    )


async def _reserve(inference: Inference, public_id: str, entry: str) -> None:
    """Take a public id for an entry. Raises: AlreadyExists (it is another entry's)."""
    name = f"aliases/{public_id}"
    try:
        await inference.database.create(catalogue.ALIAS_KIND, name, {"entry": entry})
    except AlreadyExists as error:
        holder = (await inference.database.get(catalogue.ALIAS_KIND, name)).document["entry"]
        if holder != entry:
            raise AlreadyExists(
                f"{public_id} is taken by {holder}; choose another.", metadata={"id": public_id, "holder": holder}
            ) from error


async def _base_of(inference: Inference, manifest: Manifest) -> Model:
    """Return the base that is named like the one in a manifest; whether it is that one, `_check_adapter` says."""
    digest = _told_base(manifest)
    try:
        return Model.from_document((await inference.database.get(model.KIND, model.base_name(digest))).document)
    except NotFound as error:
        raise NotFound(
            f"The adapter stands on base {digest or 'unknown'}, which the catalogue lacks; add it first.",
            reason="BASE_NOT_FOUND",
            metadata={"base_digest": digest},
        ) from error


def _told_base(manifest: Manifest) -> str:
    """Return the digest of the base that a manifest says its adapter was trained on."""
    return str((manifest.data.get("base") or {}).get("digest", ""))


def _read_base(store: ObjectStore, manifest_key: str, max_length: int) -> tuple[Manifest, dict[str, bytes]]:
    """Read a base's manifest and its JSON files, and check both. Raises: InvalidInput, ArtifactNotFound."""
    manifest = Manifest.from_json(store.read(manifest_key))
    violations = _check_sizes(store, manifest)
    _refuse("The base's files are not what its manifest says", violations)
    small = {"config.json", "tokenizer_config.json"}
    texts = {file.path: store.read(file.artifact.key) for file in manifest.files if file.path in small}
    _refuse("The base can't be served", catalogue.check_base(manifest, texts, max_length))
    _modules(store, manifest)
    return manifest, texts


def _modules(store: ObjectStore, manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Read the headers of a base's weights where they lie. Raises: InvalidInput (not safetensors)."""
    headers = []
    for file in manifest.files:
        if file.path.endswith(".safetensors") and "/" not in file.path:
            with store.open(file.artifact.key) as stream:
                headers.append(read_header(stream, file.artifact.size_bytes))
    return base_modules(headers)


def _check_adapter(inference: Inference, manifest: Manifest, base: Model) -> int:
    """Check everything about an adapter and return its rank. Raises: InvalidInput with all violations."""
    _refuse("The adapter's files are not what its manifest says", _check_sizes(inference.store, manifest))
    violations = []
    if manifest.kind != "adapter":
        violations.append(Violation("manifest_key", "WRONG_KIND", f"The manifest is of kind {manifest.kind}, not adapter."))
    base_manifest = Manifest.from_json(inference.store.read(base.manifest_key))
    folder: Path = fetch_folder(inference.store, manifest, inference.cache)
    violations += check_adapter(
        folder,
        _modules(inference.store, base_manifest),
        base_digest=base.digest,
        told_base_digest=_told_base(manifest),
        max_rank=ENGINE_RANKS[-1],
    )
    try:
        parse_golden(inference.store.read(manifest.file("golden.json").key), base.digest)
    except InvalidInput as error:
        violations.append(Violation("golden.json", error.reason, error.message))
    _refuse("The adapter can't be served", violations)
    return adapter_rank(folder)


def _check_sizes(store: ObjectStore, manifest: Manifest) -> list[Violation]:
    violations = []
    for file in manifest.files:
        try:
            size_bytes = store.head(file.artifact.key)
        except ArtifactNotFound:
            violations.append(Violation(file.path, "ARTIFACT_NOT_FOUND", f"The object store has no {file.artifact.key}."))
            continue
        if size_bytes != file.artifact.size_bytes or not file.artifact.key.endswith(file.artifact.sha256):
            told = f"{file.artifact.size_bytes} bytes were written, {size_bytes} are there"
            violations.append(Violation(file.path, "ARTIFACT_MISMATCH", f"{file.artifact.key}: {told}."))
    return violations


def _refuse(what: str, violations: list[Violation]) -> None:
    if violations:
        told = " ".join(violation.description for violation in violations[:5])
        raise InvalidInput(f"{what}: {told}", reason=violations[0].reason, violations=violations)
