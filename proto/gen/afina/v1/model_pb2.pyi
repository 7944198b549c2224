import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(_message.Message):
    __slots__ = ("answer", "sentence", "evaluation", "item_count", "effect", "p_value", "items_needed", "champion", "create_time")
    class Answer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ANSWER_UNSPECIFIED: _ClassVar[Verdict.Answer]
        ANSWER_BETTER: _ClassVar[Verdict.Answer]
        ANSWER_NOT_BETTER: _ClassVar[Verdict.Answer]
        ANSWER_INSUFFICIENT_EVIDENCE: _ClassVar[Verdict.Answer]
    ANSWER_UNSPECIFIED: Verdict.Answer
    ANSWER_BETTER: Verdict.Answer
    ANSWER_NOT_BETTER: Verdict.Answer
    ANSWER_INSUFFICIENT_EVIDENCE: Verdict.Answer
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_NEEDED_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    answer: Verdict.Answer
    sentence: str
    evaluation: str
    item_count: int
    effect: float
    p_value: float
    items_needed: int
    champion: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, answer: _Optional[_Union[Verdict.Answer, str]] = ..., sentence: _Optional[str] = ..., evaluation: _Optional[str] = ..., item_count: _Optional[int] = ..., effect: _Optional[float] = ..., p_value: _Optional[float] = ..., items_needed: _Optional[int] = ..., champion: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "kind", "state", "digest", "public_id", "base", "manifest_key", "size_bytes", "provenance", "quarantine_reason", "proof", "create_time", "serving", "serving_message", "chat_template", "is_distinguishable", "verdict")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Model.Kind]
        KIND_BASE: _ClassVar[Model.Kind]
        KIND_ADAPTER: _ClassVar[Model.Kind]
        KIND_FULL: _ClassVar[Model.Kind]
    KIND_UNSPECIFIED: Model.Kind
    KIND_BASE: Model.Kind
    KIND_ADAPTER: Model.Kind
    KIND_FULL: Model.Kind
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Model.State]
        STATE_ACTIVE: _ClassVar[Model.State]
        STATE_QUARANTINED: _ClassVar[Model.State]
    STATE_UNSPECIFIED: Model.State
    STATE_ACTIVE: Model.State
    STATE_QUARANTINED: Model.State
    class Serving(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SERVING_UNSPECIFIED: _ClassVar[Model.Serving]
        SERVING_IDLE: _ClassVar[Model.Serving]
        SERVING_STARTING: _ClassVar[Model.Serving]
        SERVING_ACTIVE: _ClassVar[Model.Serving]
        SERVING_FAILED: _ClassVar[Model.Serving]
        SERVING_REFUSED: _ClassVar[Model.Serving]
    SERVING_UNSPECIFIED: Model.Serving
    SERVING_IDLE: Model.Serving
    SERVING_STARTING: Model.Serving
    SERVING_ACTIVE: Model.Serving
    SERVING_FAILED: Model.Serving
    SERVING_REFUSED: Model.Serving
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_REASON_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    SERVING_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    IS_DISTINGUISHABLE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: Model.Kind
    state: Model.State
    digest: str
    public_id: str
    base: str
    manifest_key: str
    size_bytes: int
    provenance: _struct_pb2.Struct
    quarantine_reason: str
    proof: _struct_pb2.Struct
    create_time: _timestamp_pb2.Timestamp
    serving: Model.Serving
    serving_message: str
    chat_template: str
    is_distinguishable: bool
    verdict: Verdict
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[Model.Kind, str]] = ..., state: _Optional[_Union[Model.State, str]] = ..., digest: _Optional[str] = ..., public_id: _Optional[str] = ..., base: _Optional[str] = ..., manifest_key: _Optional[str] = ..., size_bytes: _Optional[int] = ..., provenance: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., quarantine_reason: _Optional[str] = ..., proof: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., serving: _Optional[_Union[Model.Serving, str]] = ..., serving_message: _Optional[str] = ..., chat_template: _Optional[str] = ..., is_distinguishable: _Optional[bool] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ...) -> None: ...

class CreateModelRequest(_message.Message):
    __slots__ = ("parent", "manifest_key", "suffix", "step", "max_length")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_KEY_FIELD_NUMBER: _ClassVar[int]
    SUFFIX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    parent: str
    manifest_key: str
    suffix: str
    step: int
    max_length: int
    def __init__(self, parent: _Optional[str] = ..., manifest_key: _Optional[str] = ..., suffix: _Optional[str] = ..., step: _Optional[int] = ..., max_length: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name", "parent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    parent: str
    def __init__(self, name: _Optional[str] = ..., parent: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class JudgeModelRequest(_message.Message):
    __slots__ = ("name", "evaluation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    evaluation: str
    def __init__(self, name: _Optional[str] = ..., evaluation: _Optional[str] = ...) -> None: ...

class EnsureServedRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ProveModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class EnsureServedResponse(_message.Message):
    __slots__ = ("model", "replicas")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    model: Model
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("url", "served_name", "api_key")
    URL_FIELD_NUMBER: _ClassVar[int]
    SERVED_NAME_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    url: str
    served_name: str
    api_key: str
    def __init__(self, url: _Optional[str] = ..., served_name: _Optional[str] = ..., api_key: _Optional[str] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("public_id", "project", "model", "digest", "replicas", "kind", "create_time")
    PUBLIC_ID_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    public_id: str
    project: str
    model: str
    digest: str
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    kind: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, public_id: _Optional[str] = ..., project: _Optional[str] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., kind: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WatchRoutesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRoutesResponse(_message.Message):
    __slots__ = ("routes", "revision")
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    revision: int
    def __init__(self, routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class AcknowledgeRoutesRequest(_message.Message):
    __slots__ = ("watcher", "revision", "title")
    WATCHER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    watcher: str
    revision: int
    title: str
    def __init__(self, watcher: _Optional[str] = ..., revision: _Optional[int] = ..., title: _Optional[str] = ...) -> None: ...

class AcknowledgeRoutesResponse(_message.Message):
    __slots__ = ("believed_s", "table")
    BELIEVED_S_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    believed_s: float
    table: WatchRoutesResponse
    def __init__(self, believed_s: _Optional[float] = ..., table: _Optional[_Union[WatchRoutesResponse, _Mapping]] = ...) -> None: ...

class ForgetRoutesRequest(_message.Message):
    __slots__ = ("watcher",)
    WATCHER_FIELD_NUMBER: _ClassVar[int]
    watcher: str
    def __init__(self, watcher: _Optional[str] = ...) -> None: ...
