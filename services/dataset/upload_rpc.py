"""UploadService: proto ↔ use case."""

from collections.abc import AsyncIterator
from datetime import datetime

import grpc
from afina.v1 import upload_pb2 as pb
from afina.v1 import upload_pb2_grpc

from services.common.errors import InvalidInput
from services.common.ports.database import Record
from services.common.transport import wire
from services.dataset import uploading
from services.dataset.rpc import chunks_of, drain
from services.dataset.upload import Upload
from services.dataset.uploading import Uploads


class UploadRpc(upload_pb2_grpc.UploadServiceServicer):
    """The uploads' API."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: grpc.aio.ServicerContext) -> pb.Upload:
        """See the proto."""
        asked = request.upload
        record = await uploading.create_upload(
            self._uploads, request.parent, asked.display_name, asked.purpose, asked.mime_type, asked.size_bytes
        )
        return upload_message(record)

    async def GetUpload(self, request: pb.GetUploadRequest, context: grpc.aio.ServicerContext) -> pb.Upload:
        """See the proto."""
        return upload_message(await uploading.get_upload(self._uploads, request.name))

    async def AddUploadPart(
        self, request_iterator: AsyncIterator[pb.AddUploadPartRequest], context: grpc.aio.ServicerContext
    ) -> pb.UploadPart:
        """See the proto."""
        messages = aiter(request_iterator)
        try:
            first = await anext(messages, pb.AddUploadPartRequest())
            if first.WhichOneof("part") != "name":
                raise InvalidInput("The first message has no name; send it, then the bytes.", reason="METADATA_MISSING")
            record = await uploading.add_part(self._uploads, first.name, chunks_of(messages))
        finally:
            await drain(messages)
        size_bytes = record.document["size_bytes"]
        return pb.UploadPart(name=record.name, size_bytes=size_bytes, create_time=wire.timestamp(record.create_time))

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, context: grpc.aio.ServicerContext) -> pb.Upload:
        """See the proto."""
        record = await uploading.complete_upload(self._uploads, request.name, list(request.part_ids), request.md5)
        return upload_message(record)

    async def CancelUpload(self, request: pb.CancelUploadRequest, context: grpc.aio.ServicerContext) -> pb.Upload:
        """See the proto."""
        return upload_message(await uploading.cancel_upload(self._uploads, request.name))


def upload_message(record: Record) -> pb.Upload:
    """Return an upload as it travels."""
    asked = Upload.from_document(record.document)
    return pb.Upload(
        name=record.name,
        display_name=asked.display_name,
        purpose=asked.purpose,
        mime_type=asked.mime_type,
        size_bytes=asked.size_bytes,
        state=pb.Upload.State.Value(f"STATE_{asked.state}"),
        file=asked.file,
        create_time=wire.timestamp(record.create_time),
        expire_time=wire.timestamp(datetime.fromisoformat(asked.expire_time)),
    )
