"""Room: how many model servers may run at once on a machine, and which one goes when another is wanted.

Each server holds whole weights and a cache for its prompts, so a machine has memory for a few. When all places are taken,
the server that was asked least recently goes, if nobody has asked it for a minute; otherwise the new one waits and says so.

Who has a place stands in one record, written over the version that was read: of two programs that look at the same moment
one writes, and the other looks again. A place is taken before a port is chosen and given back when the server's own record
says that nothing of it runs, so a program that ends in between leaves a place taken by a server that will use it. It is
taken for one launch: a server that is launched again asks again.
"""

import logging
from collections.abc import Sequence

from services.common.errors import AlreadyExists, Conflict, NotFound
from services.common.ports.database import Record
from services.common.telemetry import log
from services.inference.inference import Inference
from services.inference.records import change, every
from services.inference.servers import IDLE_AFTER_S, SERVER_KIND, Server

ROOM_KIND = "room"
ROOM_NAME = "rooms/machine"
_logger = logging.getLogger("afina.inference")


async def make_room(inference: Inference, server: Server) -> str:
    """Take a place and return "" where a server may be launched now, or say in words what it waits for. Idempotent."""
    room = await _room(inference)
    placed = [
        other
        for other in map(_read, await every(inference.database, SERVER_KIND))
        if other.takes_memory or (other.state == "STARTING" and other.key in room.document["launches"])
    ]
    if server.name in {other.name for other in placed}:
        return ""
    if len(placed) >= inference.max_servers:
        return await _await_place(inference, server, placed)
    try:
        await inference.database.update(room, {"launches": [*(other.key for other in placed), server.key]})
    except Conflict:
        return "It looks for a place, as another does at this moment."
    return ""


async def _await_place(inference: Inference, server: Server, others: Sequence[Server]) -> str:
    if leaving := [other.digest[:12] for other in others if other.state == "STOPPING" and not other.comes_back]:
        return f"It waits until the server of {leaving[0]} has ended."
    now = inference.clock()
    idle = [other for other in others if other.state == "ACTIVE" and other.idle_s(now) >= IDLE_AFTER_S]
    if not idle:
        return (
            f"It waits for a place: {len(others)} servers run, MAX_SERVERS allows {inference.max_servers}, and each is starting "
            f"or was asked in the last {IDLE_AFTER_S:.0f} s. Raise MAX_SERVERS where there is memory."
        )
    victim = max(idle, key=lambda other: other.idle_s(now))
    why = f"It was stopped to make room for {server.digest[:12]}: nobody had asked it for {victim.idle_s(now):.0f} s."
    log(_logger, logging.INFO, "server makes room", name=victim.name, for_server=server.name, idle_s=victim.idle_s(now))
    await change(
        inference.database,
        SERVER_KIND,
        victim.name,
        lambda document: Server.from_document(document).retire(why, now).to_document(),
        now,
    )
    inference.routes.touch()
    return f"It waits until the server of {victim.digest[:12]} has ended, which nobody had asked lately."


async def _room(inference: Inference) -> Record:
    try:
        return await inference.database.get(ROOM_KIND, ROOM_NAME)
    except NotFound:
        pass
    try:
        return await inference.database.create(ROOM_KIND, ROOM_NAME, {"launches": []})
    except AlreadyExists:  # another program was first
        return await inference.database.get(ROOM_KIND, ROOM_NAME)


def _read(record: Record) -> Server:
    return Server.from_document(record.document)
