"""What use cases ask of the loops, as records: that a server runs, that it runs otherwise, or that it ends."""

import contextlib
import secrets
from collections.abc import Callable

from services.common.errors import AlreadyExists, NotFound
from services.common.ports.database import Document
from services.inference import model
from services.inference.catalogue import Entry
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.public_ids import entry_of
from services.inference.records import change
from services.inference.servers import ENGINE_RANKS, PLACEMENT_KIND, SERVER_KIND, Placement, Server, placement_name, server_name


async def want(inference: Inference, wanted: Model) -> None:
    """Have the server of a model's whole weights, and its place there. Idempotent. Raises: NotFound (its base is gone)."""
    weights = wanted
    if wanted.kind == "ADAPTER":
        weights = Model.from_document((await inference.database.get(model.KIND, wanted.base)).document)
    entry = await _entry_for(inference, weights)
    template, parser = _template(weights, entry), entry.tool_call_parser if entry else ""
    server = Server(
        name=server_name(weights.digest),
        base=model.base_name(weights.digest),
        digest=weights.digest,
        manifest_key=weights.manifest_key,
        max_length=weights.max_length,
        max_rank=0 if wanted.kind == "FULL" else ENGINE_RANKS[0],
        chat_template=template,
        tool_call_parser=parser,
        birth=secrets.token_hex(3),
        since=inference.clock().isoformat(),
    )

    def edit(running: Server) -> Server:
        grown = running.grow(max(wanted.rank, server.max_rank), inference.clock())
        fitting = grown.fit(weights.max_length, template, parser, inference.clock())
        return fitting.restart(inference.clock()) if fitting.state == "STOPPED" else fitting

    with contextlib.suppress(AlreadyExists):
        first = server.grow(wanted.rank, inference.clock())
        await inference.database.create(SERVER_KIND, server.name, first.to_document(), due_time=inference.clock())
    await _edit(inference, server.name, edit)
    if wanted.kind == "BASE":
        return
    placement = Placement(
        name=placement_name(server.name, wanted.name),
        server=server.name,
        model=wanted.name,
        digest=wanted.digest,
        base_digest=wanted.base_digest if wanted.kind == "ADAPTER" else "",
        manifest_key=wanted.manifest_key,
    )
    with contextlib.suppress(AlreadyExists):
        await inference.database.create(PLACEMENT_KIND, placement.name, placement.to_document(), due_time=inference.clock())


async def relaunch(inference: Inference, weights: Model, entry: Entry) -> None:
    """Have a server that runs launched again with what a catalogue entry says now; the absent is success."""
    with contextlib.suppress(NotFound):
        await _edit(
            inference,
            server_name(weights.digest),
            lambda server: server.fit(weights.max_length, entry.chat_template, entry.tool_call_parser, inference.clock()),
        )


async def retire(inference: Inference, digest: str, message: str) -> None:
    """Have a server end, once it has answered what it was asked, and be forgotten where its weights are gone.

    The absent is success.
    """
    now = inference.clock()

    def write(document: Document) -> Document:
        return Server.from_document(document).retire(message, now).to_document()

    with contextlib.suppress(NotFound):
        await change(inference.database, SERVER_KIND, server_name(digest), write, now)
    inference.routes.touch()


async def prove_again(inference: Inference, known: Model) -> None:
    """Have a model proven again where it is placed, whatever came of it before; the absent is success. Idempotent.

    One that is proven keeps its requests meanwhile.
    """

    def write(document: Document) -> Document:
        placement = Placement.from_document(document)
        return (placement if placement.state == "PROVEN" else placement.load(placement.generation)).to_document()

    with contextlib.suppress(NotFound):
        name = placement_name(server_name(known.served_digest), known.name)
        await change(inference.database, PLACEMENT_KIND, name, write, inference.clock())


async def template_of(inference: Inference, weights: Model) -> str:
    """Return the chat template that the catalogue declares for whole weights or for the base that they came from."""
    return _template(weights, await _entry_for(inference, weights))


async def _entry_for(inference: Inference, weights: Model) -> Entry | None:
    """Return the catalogue's entry of whole weights or of the base that they came from."""
    return await entry_of(inference, weights.name if weights.kind == "BASE" else weights.base)


def _template(weights: Model, entry: Entry | None) -> str:
    return entry.chat_template if entry and not weights.has_chat_template else ""


async def _edit(inference: Inference, name: str, edit: Callable[[Server], Server]) -> None:
    """Change a server's record where there is something to change, and have the loop look at it."""
    current = Server.from_document((await inference.database.get(SERVER_KIND, name)).document)
    if edit(current) == current:
        return

    def write(document: Document) -> Document:
        return edit(Server.from_document(document)).to_document()

    await change(inference.database, SERVER_KIND, name, write, inference.clock())
    inference.routes.touch()
