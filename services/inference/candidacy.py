"""Candidacy: why no endpoint ever points to a model that is deleted or quarantined, though these are two records.

Before a promotion writes its pointer, it writes the model's record, over a version that is active: which endpoint is about to
point to it, and the version that the endpoint's record has. So whoever deletes or quarantines the model either was first, and
the candidacy is refused; or finds it there. Deleting writes that endpoint's record over, as it is, so that the pointer of a
promotion under way is refused as stale; only then it looks where endpoints point to, and only then takes the model out of use,
over the version that it began with: a candidacy that came in between makes it look again.

A promotion that died leaves a candidacy behind; it stops nobody, since its endpoint's record is just written over. Quarantining
needs no more than the order: afterwards no candidacy is taken, and an endpoint that points there already has no replica.

When changing it: a promotion reads its endpoint before the model, stands, and writes its endpoint over the version that it read;
deleting ends candidacies before it reads the endpoints. Every other order has a gap.
"""

import contextlib
from dataclasses import replace

from services.common.errors import Conflict, NotFound
from services.common.ports.database import Document, Record
from services.inference import endpoint, model
from services.inference.inference import Inference
from services.inference.model import Model
from services.inference.records import change


async def stand(inference: Inference, candidate: str, pointing: Record) -> None:
    """Have a model stand for an endpoint, by the record on which the promotion was decided. Raises: NotFound, WrongState."""

    def write(document: Document) -> Document:
        standing = Model.from_document(document)
        standing.require_active()
        return replace(standing, candidacies={**standing.candidacies, pointing.name: pointing.version}).to_document()

    await change(inference.database, model.KIND, candidate, write, None)


async def end_candidacies(inference: Inference, candidate: Model) -> None:
    """Make stale every promotion of a model that is under way; where it was pointed to already, that stays."""
    for name, version in candidate.candidacies.items():
        with contextlib.suppress(NotFound, Conflict):  # changed meanwhile: the candidacy is over, one way or the other
            record = await inference.database.get(endpoint.KIND, name)
            if record.version == version:
                await inference.database.update(record, record.document)
