from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StoreRequest(_message.Message):
    __slots__ = ("verb", "key", "upload_id", "part_number", "sha256", "crc32", "mark", "after")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[StoreRequest.Verb]
        VERB_GET: _ClassVar[StoreRequest.Verb]
        VERB_HEAD: _ClassVar[StoreRequest.Verb]
        VERB_PUT: _ClassVar[StoreRequest.Verb]
        VERB_LIST: _ClassVar[StoreRequest.Verb]
        VERB_DELETE: _ClassVar[StoreRequest.Verb]
        VERB_BEGIN_UPLOAD: _ClassVar[StoreRequest.Verb]
        VERB_PUT_PART: _ClassVar[StoreRequest.Verb]
        VERB_END_UPLOAD: _ClassVar[StoreRequest.Verb]
        VERB_DROP_UPLOAD: _ClassVar[StoreRequest.Verb]
    VERB_UNSPECIFIED: StoreRequest.Verb
    VERB_GET: StoreRequest.Verb
    VERB_HEAD: StoreRequest.Verb
    VERB_PUT: StoreRequest.Verb
    VERB_LIST: StoreRequest.Verb
    VERB_DELETE: StoreRequest.Verb
    VERB_BEGIN_UPLOAD: StoreRequest.Verb
    VERB_PUT_PART: StoreRequest.Verb
    VERB_END_UPLOAD: StoreRequest.Verb
    VERB_DROP_UPLOAD: StoreRequest.Verb
    VERB_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    PART_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    verb: StoreRequest.Verb
    key: str
    upload_id: str
    part_number: int
    sha256: str
    crc32: str
    mark: str
    after: str
    def __init__(self, verb: _Optional[_Union[StoreRequest.Verb, str]] = ..., key: _Optional[str] = ..., upload_id: _Optional[str] = ..., part_number: _Optional[int] = ..., sha256: _Optional[str] = ..., crc32: _Optional[str] = ..., mark: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class SignStoreRequestRequest(_message.Message):
    __slots__ = ("name", "attempt", "request")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    attempt: int
    request: StoreRequest
    def __init__(self, name: _Optional[str] = ..., attempt: _Optional[int] = ..., request: _Optional[_Union[StoreRequest, _Mapping]] = ...) -> None: ...

class SignStoreRequestResponse(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...
