import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CatalogueEntry(_message.Message):
    __slots__ = ("name", "model", "digest", "manifest_key", "aliases", "max_length", "create_time", "chat_template", "etag", "tool_call_parser")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_KEY_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_PARSER_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    digest: str
    manifest_key: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    max_length: int
    create_time: _timestamp_pb2.Timestamp
    chat_template: str
    etag: str
    tool_call_parser: str
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., manifest_key: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., max_length: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., chat_template: _Optional[str] = ..., etag: _Optional[str] = ..., tool_call_parser: _Optional[str] = ...) -> None: ...

class CreateCatalogueEntryRequest(_message.Message):
    __slots__ = ("catalogue_entry_id", "catalogue_entry")
    CATALOGUE_ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_ENTRY_FIELD_NUMBER: _ClassVar[int]
    catalogue_entry_id: str
    catalogue_entry: CatalogueEntry
    def __init__(self, catalogue_entry_id: _Optional[str] = ..., catalogue_entry: _Optional[_Union[CatalogueEntry, _Mapping]] = ...) -> None: ...

class GetCatalogueEntryRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListCatalogueEntriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCatalogueEntriesResponse(_message.Message):
    __slots__ = ("catalogue_entries", "next_page_token")
    CATALOGUE_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    catalogue_entries: _containers.RepeatedCompositeFieldContainer[CatalogueEntry]
    next_page_token: str
    def __init__(self, catalogue_entries: _Optional[_Iterable[_Union[CatalogueEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateCatalogueEntryRequest(_message.Message):
    __slots__ = ("catalogue_entry", "update_mask")
    CATALOGUE_ENTRY_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    catalogue_entry: CatalogueEntry
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, catalogue_entry: _Optional[_Union[CatalogueEntry, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class DeleteCatalogueEntryRequest(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...
