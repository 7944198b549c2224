"""Room: how many model servers may run at once on a machine, and which one goes when another is wanted.

Each server holds whole weights and a cache for its prompts, so a machine has memory for a few. When all places are taken,
the server that was asked least recently goes, if nobody has asked it for a minute; otherwise the new one waits and says so.
Two programs that look at the same moment may start one too many, which the next look does not undo: the bound is soft.
"""

import logging

from services.common.telemetry import log
from services.inference.inference import Inference
from services.inference.records import change, every
from services.inference.servers import IDLE_AFTER_S, SERVER_KIND, Server

_logger = logging.getLogger("afina.inference")


async def make_room(inference: Inference, server: Server) -> str:
    """Return "" where a server may be launched now, or in words what it waits for. Idempotent."""
    known = [Server.from_document(record.document) for record in await every(inference.database, SERVER_KIND)]
    others = [other for other in known if other.name != server.name and other.takes_memory]
    if len(others) < inference.max_servers:
        return ""
    if leaving := [other.digest[:12] for other in others if other.state == "STOPPING"]:
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
