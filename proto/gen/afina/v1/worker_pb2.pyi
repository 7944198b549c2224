from afina.v1 import resources_pb2 as _resources_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReportProgressRequest(_message.Message):
    __slots__ = ("name", "attempt", "first_number", "events")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FIRST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    attempt: int
    first_number: int
    events: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Event]
    def __init__(self, name: _Optional[str] = ..., attempt: _Optional[int] = ..., first_number: _Optional[int] = ..., events: _Optional[_Iterable[_Union[_resources_pb2.Event, _Mapping]]] = ...) -> None: ...

class ReportProgressResponse(_message.Message):
    __slots__ = ("stop_requested",)
    STOP_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    stop_requested: bool
    def __init__(self, stop_requested: _Optional[bool] = ...) -> None: ...
