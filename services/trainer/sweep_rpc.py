"""SweepService: proto ↔ use case."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from afina.v1 import fine_tuning_job_pb2, sweep_pb2_grpc
from afina.v1 import sweep_pb2 as pb
from google.protobuf import json_format

from services.common.ports.database import Record
from services.common.transport import wire
from services.trainer import sweeps, use_cases
from services.trainer.job import Job
from services.trainer.rpc import asked_of, evaluation_settings, recipe_message
from services.trainer.sweep import Sweep
from services.trainer.use_cases import Trainer


class SweepRpc(sweep_pb2_grpc.SweepServiceServicer):
    """The sweeps' API."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    async def CreateSweep(self, request: pb.CreateSweepRequest, context: grpc.aio.ServicerContext) -> pb.Sweep:
        """See the proto."""
        given = request.sweep
        asked = Sweep(
            name="",
            base_model=given.base_model,
            dataset=given.dataset,
            recipes=[asked_of(recipe) for recipe in given.recipes],
            suffix=given.suffix,
            metadata=dict(given.metadata),
            evaluation_settings=evaluation_settings(given.evaluation_settings),
        )
        return await self._message(await sweeps.create_sweep(self._trainer, request.parent, asked, request.request_id))

    async def GetSweep(self, request: pb.GetSweepRequest, context: grpc.aio.ServicerContext) -> pb.Sweep:
        """See the proto."""
        return await self._message(await sweeps.get_sweep(self._trainer, request.name))

    async def ListSweeps(self, request: pb.ListSweepsRequest, context: grpc.aio.ServicerContext) -> pb.ListSweepsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await sweeps.list_sweeps(self._trainer, request.parent, after, limit)
        messages = [await self._message(record) for record in records]
        return pb.ListSweepsResponse(sweeps=messages, next_page_token=wire.next_page_token(records, limit))

    async def CancelSweep(self, request: pb.CancelSweepRequest, context: grpc.aio.ServicerContext) -> pb.Sweep:
        """See the proto."""
        return await self._message(await sweeps.cancel_sweep(self._trainer, request.name))

    async def WatchSweep(
        self, request: pb.WatchSweepRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchSweepResponse]:
        """See the proto."""
        changes = wire.watch(
            lambda: sweeps.get_sweep(self._trainer, request.name),
            lambda after: sweeps.list_events(self._trainer, request.name, after, wire.WATCH_PAGE),
            lambda record: Sweep.from_document(record.document).has_ended,
            request.after_sequence,
        )
        async for record, events in changes:
            yield pb.WatchSweepResponse(sweep=await self._message(record), events=[wire.event(event) for event in events])

    async def _message(self, record: Record) -> pb.Sweep:
        sweep = Sweep.from_document(record.document)
        current = await sweeps.current_job(self._trainer, sweep)
        progress = await use_cases.progress_of(self._trainer, current.name) if current else {}
        return message_of(record, current, progress)


def message_of(record: Record, current: Record | None, progress: Any) -> pb.Sweep:
    """Return a sweep as it travels, with the job whose turn it is."""
    sweep = Sweep.from_document(record.document)
    won = sweep.ended[sweep.winner] if sweep.winner is not None and sweep.state == "SUCCEEDED" else {}
    members = [_member(sweep, at) for at in range(len(sweep.recipes))]
    if current is not None:
        _show_current(members[sweep.begun_count - 1], Job.from_document(current.document), progress)
    return pb.Sweep(
        name=sweep.name,
        state=pb.Sweep.State.Value(f"STATE_{sweep.state}"),
        base_model=sweep.base_model,
        dataset=sweep.dataset,
        recipes=[recipe_message(asked) or fine_tuning_job_pb2.Recipe() for asked in sweep.recipes],
        suffix=sweep.suffix,
        metadata=sweep.metadata,
        evaluation_settings=fine_tuning_job_pb2.JobEvaluation(**sweep.evaluation_settings) if sweep.evaluation_settings else None,
        members=members,
        winner=sweep.job_name(sweep.winner) if sweep.winner is not None else "",
        model=won.get("model", ""),
        fine_tuned_model=won.get("fine_tuned_model", ""),
        error=wire.error_status(sweep.error),
        create_time=wire.timestamp(record.create_time),
        end_time=wire.timestamp(sweep.end_time),
        etag=str(record.version),
    )


def _member(sweep: Sweep, at: int) -> pb.SweepMember:
    member = pb.SweepMember(recipe=recipe_message(sweep.recipes[at]), job=sweep.job_name(at) if at < sweep.begun_count else "")
    if at < len(sweep.ended):
        told = sweep.ended[at]
        ranking = sweep.ranking
        member.MergeFrom(
            pb.SweepMember(
                state=fine_tuning_job_pb2.FineTuningJob.State.Value(f"STATE_{told['state']}"),
                effective_recipe=recipe_message(told["recipe"]),
                validation_loss=told["validation_loss"],
                rank=ranking.index(at) + 1 if at in ranking else 0,
                fine_tuned_model=told["fine_tuned_model"],
                error=wire.error_status(told["error"]),
            )
        )
    return member


def _show_current(member: pb.SweepMember, job: Job, progress: Any) -> None:
    member.state = fine_tuning_job_pb2.FineTuningJob.State.Value(f"STATE_{job.state}")
    effective = recipe_message(job.recipe)
    if effective is not None:
        member.effective_recipe.CopyFrom(effective)
    if progress:
        json_format.ParseDict(dict(progress), member.progress, ignore_unknown_fields=True)
