"""TokenCountService: proto ↔ use case."""

from collections.abc import Sequence

import grpc
from afina.v1 import token_count_pb2 as pb
from afina.v1 import token_count_pb2_grpc

from services.common.ports.database import Record
from services.common.transport import wire
from services.trainer import token_counts
from services.trainer.token_count import PartCount, TokenCount
from services.trainer.use_cases import Trainer


class TokenCountRpc(token_count_pb2_grpc.TokenCountServiceServicer):
    """The counts' API."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    async def CreateTokenCount(self, request: pb.CreateTokenCountRequest, context: grpc.aio.ServicerContext) -> pb.TokenCount:
        """See the proto."""
        asked = request.token_count
        return message_of(await token_counts.create_count(self._trainer, request.parent, asked.dataset, asked.base_model))

    async def GetTokenCount(self, request: pb.GetTokenCountRequest, context: grpc.aio.ServicerContext) -> pb.TokenCount:
        """See the proto."""
        lengths = list(request.max_lengths)
        return message_of(await token_counts.get_count(self._trainer, request.name, lengths), lengths)

    async def ListTokenCounts(
        self, request: pb.ListTokenCountsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListTokenCountsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await token_counts.list_counts(self._trainer, request.parent, after, limit)
        counts = [message_of(record) for record in records]
        return pb.ListTokenCountsResponse(token_counts=counts, next_page_token=wire.next_page_token(records, limit))


def message_of(record: Record, max_lengths: Sequence[int] = ()) -> pb.TokenCount:
    """Return a count as it travels, with the cuts that were asked for."""
    count = TokenCount.from_document(record.document)
    cuts = count.cuts(max_lengths) if count.state == "SUCCEEDED" else []
    return pb.TokenCount(
        name=count.name,
        state=pb.TokenCount.State.Value(f"STATE_{count.state}"),
        dataset=count.dataset,
        base_model=count.base_model,
        dataset_digest=count.dataset_spec["digest"],
        base_digest=count.base["digest"],
        cuts=[pb.LengthCut(max_length=length, row_count=rows, token_count=tokens) for length, rows, tokens in cuts],
        error=wire.error_status(count.error),
        create_time=wire.timestamp(record.create_time),
        end_time=wire.timestamp(count.end_time),
        **{part: _part(told) for part, told in count.counts.items()},
    )


def _part(part: PartCount) -> pb.PartTokens:
    return pb.PartTokens(
        row_count=part.row_count,
        token_count=part.token_count,
        trained_token_count=part.trained_token_count,
        median_length=part.quantile(0.5),
        p90_length=part.quantile(0.9),
        p99_length=part.quantile(0.99),
        longest_length=part.longest,
        histogram=[pb.LengthBucket(max_length=length, row_count=rows) for length, rows in part.histogram()],
    )
