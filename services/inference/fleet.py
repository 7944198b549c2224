"""How servers and placements move: what the reconcile loops do in each state.

    server:     STARTING → ACTIVE → (it crashed, or does not answer) FAILED → STARTING, one generation on
                anywhere → (another needs its place, or its weights were deleted) STOPPING → STOPPED → (asked) STARTING
                 (its rank, length or template changed) STOPPING → STARTING
    placement:  LOADING → PROVEN | REFUSED | UNPROVABLE, and LOADING again for each generation of its server

A server is ACTIVE once it is up and knows its base by digest. A placement is PROVEN once the golden chats came out right;
it is REFUSED, and its model quarantined, when they did not, or when an engine that is up has refused it three times; it is
UNPROVABLE, its model as it was, when its server takes too few tokens to be asked. A server that may run something leaves the
routes first and ends when it has answered what it was asked; records go when the weights they speak of are gone.
"""

import asyncio
import contextlib
import functools
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from services.common.errors import ArtifactNotFound, InvalidInput, NotFound, OverLimit, Unavailable
from services.common.names import last
from services.common.ports.database import Document, Record
from services.common.ports.launcher import WorkloadState
from services.common.ports.manifest import Manifest, fetch_folder
from services.common.ports.model_server import GoldenChat
from services.common.ports.object_store import ObjectStore
from services.common.reconcile import Change
from services.common.telemetry import log
from services.inference import model
from services.inference.adapter_checks import check_weights
from services.inference.artifacts import GOLDEN_FILE, refuse
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.proof import Proof, fit, parse_golden, prove
from services.inference.records import change, every, is_used
from services.inference.room import make_room
from services.inference.servers import (
    HOST,
    MAX_MISSES,
    MAX_REFUSALS,
    PLACEMENT_KIND,
    SERVER_KIND,
    START_LIMIT_S,
    Placement,
    Server,
)

LOOK_AGAIN_S = 0.5
HEALTH_INTERVAL_S = 2.0
LEAVE_AFTER_S = 3.0  # by then every gateway has the table without it
DRAIN_LIMIT_S = 120.0
LAST_WORDS_BYTES = 600
_logger = logging.getLogger("afina.inference")


async def reconcile_server(inference: Inference, record: Record) -> Change:
    """Look at a server and move it by at most one state."""
    server = Server.from_document(record.document)
    if server.state == "STOPPED":
        return await _rest(inference, record, server)
    step = {"STARTING": _start, "ACTIVE": _watch, "FAILED": _restart, "STOPPING": _stop}[server.state]
    moved, due_in_s = await step(inference, server)
    if (moved.state, moved.message) != (server.state, server.message):
        log(_logger, logging.INFO, "server", name=server.name, generation=moved.generation, state=moved.state, why=moved.message)
        inference.routes.touch()
    return Change(moved.to_document(), due_in_s)


async def reconcile_placement(inference: Inference, record: Record) -> Change:
    """Look at a placement: load it, prove it, or wait for its server."""
    placement = Placement.from_document(record.document)
    try:
        server = Server.from_document((await inference.database.get(SERVER_KIND, placement.server)).document)
        await inference.database.get(model.KIND, placement.model)
    except NotFound:  # one of the two was deleted
        await inference.database.delete(record)
        return Change(placement.to_document(), None)
    if server.state != "ACTIVE":  # one that has stopped has its placements proven again when it is asked for
        return Change(placement.to_document(), None if server.state == "STOPPED" else LOOK_AGAIN_S)
    if placement.generation != server.generation:
        placement = placement.load(server.generation)
    key = ("prove", placement.name, placement.generation)
    try:
        proof = await inference.background.result(key, lambda: _load_and_prove(inference, server, placement))
    except OverLimit as error:
        log(_logger, logging.WARNING, "unprovable", model=placement.model, why=error.message)
        inference.routes.touch()
        return Change(placement.settle("UNPROVABLE", error.message).to_document(), None)
    except InvalidInput as error:
        if not await inference.connect(server.url, server.api_key).is_up():
            return Change(placement.to_document(), LOOK_AGAIN_S)
        placement = replace(placement, refusals=placement.refusals + 1)
        if placement.refusals < MAX_REFUSALS:
            return Change(placement.to_document(), LOOK_AGAIN_S)
        return await _refuse(inference, placement, f"{error.reason}: {error.message}")
    if proof is None:
        return Change(placement.to_document(), 0.0)
    if not proof.is_proven:
        return await _refuse(inference, placement, f"{proof.reason}: {proof.message}", proof)
    await _note_proof(inference, placement, lambda m: replace(m, proof=_told(proof)))
    log(_logger, logging.INFO, "proven", model=placement.model, generation=placement.generation, why=proof.message)
    inference.routes.touch()
    return Change(placement.settle("PROVEN").to_document(), None)


async def _launch(inference: Inference, server: Server) -> tuple[Server, float | None]:
    """Bring the weights here, choose a port, and launch; where the record has moved on meanwhile, end it at once.

    A program that was frozen just before the launch may come to it after another has found nothing to stop.
    """
    if not server.port and (awaited := await make_room(inference, server)):
        return server.wait(awaited), LOOK_AGAIN_S
    try:
        folder = await inference.background.result(("fetch", server.digest), lambda: _fetch(inference, server.manifest_key))
    except (ArtifactNotFound, InvalidInput) as error:
        return server.fail(f"Its weights can't be fetched: {error.message}", inference.clock()), LOOK_AGAIN_S
    if folder is None:
        return server, 0.0
    if not server.port:
        return server.begin(await asyncio.to_thread(_free_port), secrets.token_urlsafe(32), inference.clock()), 0.0
    await inference.launcher.launch(inference.launcher.plan(inference.workload(server, folder)))
    try:
        found = Server.from_document((await inference.database.get(SERVER_KIND, server.name)).document)
    except NotFound:
        found = server.end()
    if found.key != server.key or not found.takes_memory:
        await inference.launcher.stop(server.key)
    return server, LOOK_AGAIN_S


async def _start(inference: Inference, server: Server) -> tuple[Server, float | None]:
    if not server.port or (seen := await inference.launcher.observe(server.key)).state == WorkloadState.GONE:
        return await _launch(inference, server)
    if seen.has_ended:
        words = await _last_words(inference, server)
        return server.fail(f"It ended while it started: {seen.message} {words}", inference.clock()), 0.0
    connection = inference.connect(server.url, server.api_key)
    if await connection.is_up():
        known = await connection.loaded()
        if known[:1] != [server.digest]:
            return server.fail(f"Something else answers at {server.url}.", inference.clock()), 0.0
        await _rearm(inference, server)
        return server.activate(inference.clock()), HEALTH_INTERVAL_S
    if server.state_age_s(inference.clock()) > START_LIMIT_S:
        return server.fail(f"It did not come up within {START_LIMIT_S:.0f} s.", inference.clock()), 0.0
    return server, LOOK_AGAIN_S


async def _watch(inference: Inference, server: Server) -> tuple[Server, float | None]:
    seen = await inference.launcher.observe(server.key)
    if seen.has_ended:
        return server.fail(f"It crashed: {seen.message} {await _last_words(inference, server)}", inference.clock()), 0.0
    connection = inference.connect(server.url, server.api_key)
    looked = server.look(await connection.is_up(), inference.clock())
    with contextlib.suppress(Unavailable):
        looked = looked.note(await connection.activity(), inference.clock())
    if looked.misses >= MAX_MISSES:
        return looked.fail(f"It did not answer {looked.misses} times in a row.", inference.clock()), 0.0
    return looked, HEALTH_INTERVAL_S


async def _restart(inference: Inference, server: Server) -> tuple[Server, float | None]:
    """Launch again only when nothing of the old generation runs: two would need twice the memory."""
    if not (await inference.launcher.observe(server.key)).has_ended:
        await inference.launcher.stop(server.key)
        return server, LOOK_AGAIN_S
    now, server = inference.clock(), server.end()
    if now < server.restart_time:
        return server, max(LOOK_AGAIN_S, (server.restart_time - now).total_seconds())
    return server.restart(now), 0.0


async def _stop(inference: Inference, server: Server) -> tuple[Server, float | None]:
    """Let a server end: once gateways have heard of it, and it has answered what it was asked.

    One that does not say whether it still answers is given all the time there is: it may be busy with just that.
    """
    if not server.port or (await inference.launcher.observe(server.key)).has_ended:
        return server.rest(inference.clock()), 0.0
    age_s = server.state_age_s(inference.clock())
    if age_s < LEAVE_AFTER_S:
        return server, LEAVE_AFTER_S - age_s
    if age_s < DRAIN_LIMIT_S:
        try:
            if (await inference.connect(server.url, server.api_key).activity()).running_count:
                return server, LOOK_AGAIN_S
        except Unavailable:
            return server, LOOK_AGAIN_S
    await inference.launcher.stop(server.key)
    return server, LOOK_AGAIN_S


async def _rest(inference: Inference, record: Record, server: Server) -> Change:
    """Keep a server that may be asked for again; forget one whose weights are gone, with what stood on it."""
    if not await is_used(inference.database, server.digest):
        for placed in await every(inference.database, PLACEMENT_KIND, f"placements/{last(server.name)}"):
            await inference.database.delete(placed)
        await inference.database.delete(record)
    return Change(record.document, None)


async def _rearm(inference: Inference, server: Server) -> None:
    """Have every placement proven on this generation; those that were refused stay so, as their models are quarantined."""
    for record in await every(inference.database, PLACEMENT_KIND, f"placements/{last(server.name)}"):
        placement = Placement.from_document(record.document)
        if placement.state != "REFUSED" and placement.generation != server.generation:
            edit = functools.partial(_loading, server)
            await change(inference.database, PLACEMENT_KIND, placement.name, edit, inference.clock())


def _loading(server: Server, document: Document) -> Document:
    return Placement.from_document(document).load(server.generation).to_document()


async def _load_and_prove(inference: Inference, server: Server, placement: Placement) -> Proof:
    chats = fit(await asyncio.to_thread(_golden, inference.store, placement), server.max_length)
    connection = inference.connect(server.url, server.api_key)
    await connection.load(placement.digest)
    return await prove(connection, placement.digest, chats)


def _golden(store: ObjectStore, placement: Placement) -> tuple[GoldenChat, ...]:
    """Read a model's references; full weights, which name no base, may have none."""
    manifest = Manifest.from_json(store.read(placement.manifest_key))
    if not placement.base_digest and not any(file.path == GOLDEN_FILE for file in manifest.files):
        return ()
    return parse_golden(store.read_artifact(manifest.file(GOLDEN_FILE)), placement.base_digest)


async def _fetch(inference: Inference, manifest_key: str) -> Path:
    """Bring whole weights to this machine. Raises: ArtifactNotFound, InvalidInput (not finite: they would poison all answers)."""

    def fetch() -> Path:
        manifest = Manifest.from_json(inference.store.read(manifest_key))
        folder = fetch_folder(inference.store, manifest, inference.cache)
        refuse("The weights can't be served", check_weights(folder))
        return folder

    return await asyncio.to_thread(fetch)


async def _refuse(inference: Inference, placement: Placement, reason: str, proof: Proof | None = None) -> Change:
    log(_logger, logging.ERROR, "quarantined", model=placement.model, why=reason)

    def edit(m: Model) -> Model:
        return replace(m.quarantine(reason), proof=_told(proof) if proof else m.proof)

    await _note_proof(inference, placement, edit)
    inference.routes.touch()
    return Change(placement.settle("REFUSED").to_document(), None)


async def _note_proof(inference: Inference, placement: Placement, edit: Callable[[Model], Model]) -> None:
    try:
        await change(
            inference.database,
            model.KIND,
            placement.model,
            lambda document: edit(Model.from_document(document)).to_document(),
            None,
        )
    except NotFound:
        log(_logger, logging.INFO, "the model was deleted meanwhile", model=placement.model)


def _told(proof: Proof) -> Document:
    return {**proof.to_json(), "prove_time": datetime.now(UTC).isoformat()}


async def _last_words(inference: Inference, server: Server) -> str:
    """Return the end of a server's output: what a person would look at first."""
    words, after = b"", 0
    while True:
        piece, after = await inference.launcher.logs(server.key, after)
        if not piece:
            break
        words = (words + piece)[-LAST_WORDS_BYTES:]
    text = words.decode(errors="replace").strip()
    return f"Its last words: {text}" if text else ""


def _free_port() -> int:
    """Return a port that nobody has now; if somebody takes it before the server does, the server ends and is launched anew."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
