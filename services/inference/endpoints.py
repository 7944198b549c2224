"""What can be asked of inference about endpoints, but changing them (`promotions.py`): one short function a verb."""

from collections.abc import Sequence

from services.common.errors import AlreadyExists, InvalidInput
from services.common.names import parse, project_of
from services.common.ports.database import Record
from services.inference import endpoint
from services.inference.endpoint import Endpoint, Promotion
from services.inference.gate import Gate
from services.inference.inference import Inference
from services.inference.public_ids import holder_of

PAGE = 1000
PROMOTED = "PROMOTED"  # the type of the events that are an endpoint's history


async def create_endpoint(inference: Inference, parent: str, endpoint_id: str, given: Gate) -> Record:
    """Create an endpoint that points to nothing yet. Raises: InvalidInput (all violations), AlreadyExists."""
    project = parse("projects/{project}", parent)["project"]
    rule = endpoint.complete(given)
    if violations := endpoint.check(project, endpoint_id, rule):
        told = " ".join(violation.description for violation in violations)
        raise InvalidInput(f"The endpoint can't be created: {told}", violations=violations)
    if (holder := await holder_of(inference, endpoint_id)) is not None:
        told = f"{endpoint_id} is a name of {holder.name}; choose another."
        raise AlreadyExists(told, metadata={"id": endpoint_id, "holder": holder.name})
    name = f"{parent}/endpoints/{endpoint_id}"
    return await inference.database.create(endpoint.KIND, name, Endpoint(name, rule).to_document())


async def get_endpoint(inference: Inference, name: str) -> Record:
    """Return an endpoint. Raises: NotFound."""
    parse(endpoint.NAME, name)
    return await inference.database.get(endpoint.KIND, name)


async def list_endpoints(inference: Inference, parent: str, after: int | None, limit: int) -> Sequence[Record]:
    """Return endpoints of a project, newest first."""
    project_of(parent)
    return await inference.database.list(endpoint.KIND, f"{parent}/endpoints", after=after, limit=limit)


async def list_promotions(inference: Inference, name: str, after: int, limit: int) -> Sequence[Promotion]:
    """Return the changes of an endpoint with a number above `after`, oldest first. Raises: NotFound."""
    record = await get_endpoint(inference, name)
    if not has_history(record):
        return [p for p in Endpoint.from_document(record.document).promotions if p.number > after][:limit]
    events = await inference.database.events(endpoint.KIND, name, after=after, limit=limit)
    return [Promotion(**event.data) for event in events]


async def history(inference: Inference, name: str) -> Sequence[Promotion]:
    """Return every change of an endpoint, oldest first. Raises: NotFound."""
    found: list[Promotion] = []
    while page := await list_promotions(inference, name, len(found), PAGE):
        found += page
    return found


def has_history(record: Record) -> bool:
    """Whether an endpoint's changes are events; those written before this was so have them all in the document."""
    return "promotion_count" in record.document
