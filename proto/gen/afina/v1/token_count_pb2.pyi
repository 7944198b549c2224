import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PartTokens(_message.Message):
    __slots__ = ("row_count", "token_count", "trained_token_count", "median_length", "p90_length", "p99_length", "longest_length", "histogram")
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TRAINED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    P90_LENGTH_FIELD_NUMBER: _ClassVar[int]
    P99_LENGTH_FIELD_NUMBER: _ClassVar[int]
    LONGEST_LENGTH_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    row_count: int
    token_count: int
    trained_token_count: int
    median_length: int
    p90_length: int
    p99_length: int
    longest_length: int
    histogram: _containers.RepeatedCompositeFieldContainer[LengthBucket]
    def __init__(self, row_count: _Optional[int] = ..., token_count: _Optional[int] = ..., trained_token_count: _Optional[int] = ..., median_length: _Optional[int] = ..., p90_length: _Optional[int] = ..., p99_length: _Optional[int] = ..., longest_length: _Optional[int] = ..., histogram: _Optional[_Iterable[_Union[LengthBucket, _Mapping]]] = ...) -> None: ...

class LengthBucket(_message.Message):
    __slots__ = ("max_length", "row_count")
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    max_length: int
    row_count: int
    def __init__(self, max_length: _Optional[int] = ..., row_count: _Optional[int] = ...) -> None: ...

class LengthCut(_message.Message):
    __slots__ = ("max_length", "row_count", "token_count")
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    max_length: int
    row_count: int
    token_count: int
    def __init__(self, max_length: _Optional[int] = ..., row_count: _Optional[int] = ..., token_count: _Optional[int] = ...) -> None: ...

class TokenCount(_message.Message):
    __slots__ = ("name", "state", "dataset", "base_model", "dataset_digest", "base_digest", "train", "validation", "cuts", "error", "create_time", "end_time")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[TokenCount.State]
        STATE_PENDING: _ClassVar[TokenCount.State]
        STATE_RUNNING: _ClassVar[TokenCount.State]
        STATE_SUCCEEDED: _ClassVar[TokenCount.State]
        STATE_FAILED: _ClassVar[TokenCount.State]
    STATE_UNSPECIFIED: TokenCount.State
    STATE_PENDING: TokenCount.State
    STATE_RUNNING: TokenCount.State
    STATE_SUCCEEDED: TokenCount.State
    STATE_FAILED: TokenCount.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: TokenCount.State
    dataset: str
    base_model: str
    dataset_digest: str
    base_digest: str
    train: PartTokens
    validation: PartTokens
    cuts: _containers.RepeatedCompositeFieldContainer[LengthCut]
    error: _status_pb2.Status
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[TokenCount.State, str]] = ..., dataset: _Optional[str] = ..., base_model: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., base_digest: _Optional[str] = ..., train: _Optional[_Union[PartTokens, _Mapping]] = ..., validation: _Optional[_Union[PartTokens, _Mapping]] = ..., cuts: _Optional[_Iterable[_Union[LengthCut, _Mapping]]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateTokenCountRequest(_message.Message):
    __slots__ = ("parent", "token_count")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    token_count: TokenCount
    def __init__(self, parent: _Optional[str] = ..., token_count: _Optional[_Union[TokenCount, _Mapping]] = ...) -> None: ...

class GetTokenCountRequest(_message.Message):
    __slots__ = ("name", "max_lengths")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_lengths: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., max_lengths: _Optional[_Iterable[int]] = ...) -> None: ...

class ListTokenCountsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTokenCountsResponse(_message.Message):
    __slots__ = ("token_counts", "next_page_token")
    TOKEN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    token_counts: _containers.RepeatedCompositeFieldContainer[TokenCount]
    next_page_token: str
    def __init__(self, token_counts: _Optional[_Iterable[_Union[TokenCount, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
