"""Serving: seeing to it that a model is proven on a server, proving it again, and saying in words why one is not."""

import asyncio
from dataclasses import dataclass

from services.common.errors import InvalidInput, NotFound, Unavailable, WrongState
from services.common.ports.database import Document, Record
from services.inference import model, use_cases
from services.inference.demand import prove_again, template_of, want
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.records import change
from services.inference.routes import Replica, replicas_of
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Placement, Server, placement_name, server_name

WAIT_LOOK_S = 1.0


@dataclass(frozen=True)
class Status:
    """Whether a model is served now (as Model.Serving), why not in words, and what template the catalogue declares for it."""

    serving: str
    message: str
    chat_template: str


async def ensure_served(inference: Inference, name: str, timeout_s: float) -> tuple[Record, tuple[Replica, ...]]:
    """See to it that a model is proven somewhere, and wait.

    Raises: NotFound, WrongState (quarantined, or its server takes too few tokens to prove it), Unavailable.
    """
    wanted = Model.from_document((await use_cases.get_model(inference, name)).document)
    wanted.require_active()
    return await _await_proof(inference, wanted, timeout_s)


async def prove_model(inference: Inference, name: str, timeout_s: float) -> Record:
    """Prove a model anew, quarantined or not, and wait. The one way out of quarantine, and back into it where it fails.

    Raises: NotFound, InvalidInput (a base), WrongState (the proof failed), Unavailable (not yet; ask again).
    """
    known = Model.from_document((await use_cases.get_model(inference, name)).document)
    if known.kind == "BASE":
        raise InvalidInput(f"{known.name} is a base, which nothing has to be told from; serve it instead.", reason="IS_A_BASE")
    await change(inference.database, model.KIND, known.name, _released, None)
    await prove_again(inference, known)
    record, _ = await _await_proof(inference, known, timeout_s, but_not=str(known.proof.get("prove_time", "")))
    return record


def _released(document: Document) -> Document:
    return Model.from_document(document).release().to_document()


async def _await_proof(
    inference: Inference, wanted: Model, timeout_s: float, but_not: str | None = None
) -> tuple[Record, tuple[Replica, ...]]:
    """Wait until a model is proven, by another proof than the one of a time. Raises: WrongState, Unavailable."""
    end = asyncio.get_running_loop().time() + timeout_s
    while True:
        await want(inference, wanted)  # each time: its server may have been about to stop
        replicas = await replicas_of(inference.database, wanted.name)
        record = await inference.database.get(model.KIND, wanted.name)  # after: a proof is written before its replica is
        found = Model.from_document(record.document)
        found.require_active()
        if replicas and (but_not is None or str(found.proof.get("prove_time", "")) != but_not):
            return record, replicas
        await _require_provable(inference, wanted)
        left_s = end - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise await _not_yet(inference, wanted)
        await inference.routes.wait(min(WAIT_LOOK_S, left_s))


async def _require_provable(inference: Inference, wanted: Model) -> None:
    """Raises: WrongState (the server that has it takes too few tokens to prove it; waiting does not help)."""
    name = server_name(wanted.served_digest)
    try:
        server = Server.from_document((await inference.database.get(SERVER_KIND, name)).document)
        record = await inference.database.get(PLACEMENT_KIND, placement_name(name, wanted.name))
    except NotFound:
        return
    placement = Placement.from_document(record.document)
    if (placement.state, placement.generation, server.state) == ("UNPROVABLE", server.generation, "ACTIVE"):
        raise WrongState(
            f"{wanted.name} can't be proven: {placement.message}",
            reason="MAX_LENGTH_TOO_SHORT",
            metadata={"model": wanted.name, "max_length": str(server.max_length)},
        )


async def status(inference: Inference, known: Model) -> Status:
    """Say how a model stands."""
    serving, message = await _serving(inference, known)
    weights = known
    if known.kind == "ADAPTER":
        try:
            weights = Model.from_document((await inference.database.get(model.KIND, known.base)).document)
        except NotFound:
            return Status(serving, message, "")
    return Status(serving, message, await template_of(inference, weights))


async def _serving(inference: Inference, known: Model) -> tuple[str, str]:
    if known.state == "QUARANTINED":
        return "REFUSED", known.quarantine_reason
    if await replicas_of(inference.database, known.name):
        return "ACTIVE", ""
    name = server_name(known.served_digest)
    try:
        server = Server.from_document((await inference.database.get(SERVER_KIND, name)).document)
    except NotFound:
        return "IDLE", "Nobody has asked for it yet; asking, or `afina models serve`, starts a server."
    if server.state in ("STOPPING", "STOPPED"):
        return "IDLE", f"{server.message} Asking for it starts a server again."
    if server.state == "FAILED":
        return "FAILED", f"{server.message} It is launched again by itself."
    if server.state == "STARTING":
        return "STARTING", f"Its server starts (launch {server.generation}). {server.message}".strip()
    try:
        record = await inference.database.get(PLACEMENT_KIND, placement_name(name, known.name))
    except NotFound:
        return "IDLE", "Its server runs; nobody has asked for this model there yet."
    placement = Placement.from_document(record.document)
    if placement.state == "UNPROVABLE":
        return "FAILED", placement.message
    tried = f" The engine has refused it {placement.refusals} times." if placement.refusals else ""
    return "STARTING", f"It is being loaded and proven.{tried}"


async def _not_yet(inference: Inference, wanted: Model) -> Unavailable:
    server = Server.from_document((await inference.database.get(SERVER_KIND, server_name(wanted.served_digest))).document)
    # Not what the server last said before it failed: this goes to whoever may ask a model, that to whoever may look at it.
    told = f" {server.message}" if server.awaits_room else ""
    return Unavailable(
        f"{wanted.name} is not proven on a server yet (its server is {server.state}); ask again.{told}",
        reason="NO_ROOM" if server.awaits_room else "MODEL_NOT_READY",
        metadata={"model": wanted.name, "server_state": server.state, "retry_after_s": "5"},
    )
