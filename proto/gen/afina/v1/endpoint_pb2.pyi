import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Gate(_message.Message):
    __slots__ = ("significance_level", "min_effect", "min_item_count", "suite")
    SIGNIFICANCE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    MIN_EFFECT_FIELD_NUMBER: _ClassVar[int]
    MIN_ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    significance_level: float
    min_effect: float
    min_item_count: int
    suite: str
    def __init__(self, significance_level: _Optional[float] = ..., min_effect: _Optional[float] = ..., min_item_count: _Optional[int] = ..., suite: _Optional[str] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("evaluation", "suite", "suite_digest", "champion", "champion_digest", "item_count", "candidate_only_count", "champion_only_count", "effect", "p_value")
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    SUITE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_ONLY_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_ONLY_COUNT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    evaluation: str
    suite: str
    suite_digest: str
    champion: str
    champion_digest: str
    item_count: int
    candidate_only_count: int
    champion_only_count: int
    effect: float
    p_value: float
    def __init__(self, evaluation: _Optional[str] = ..., suite: _Optional[str] = ..., suite_digest: _Optional[str] = ..., champion: _Optional[str] = ..., champion_digest: _Optional[str] = ..., item_count: _Optional[int] = ..., candidate_only_count: _Optional[int] = ..., champion_only_count: _Optional[int] = ..., effect: _Optional[float] = ..., p_value: _Optional[float] = ...) -> None: ...

class Promotion(_message.Message):
    __slots__ = ("model", "digest", "previous_model", "evaluation", "verdict", "create_time", "actor", "reason", "kind", "evidence", "number", "previous_digest")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Promotion.Kind]
        KIND_FIRST: _ClassVar[Promotion.Kind]
        KIND_PROMOTION: _ClassVar[Promotion.Kind]
        KIND_ROLLBACK: _ClassVar[Promotion.Kind]
        KIND_OVERRIDE: _ClassVar[Promotion.Kind]
    KIND_UNSPECIFIED: Promotion.Kind
    KIND_FIRST: Promotion.Kind
    KIND_PROMOTION: Promotion.Kind
    KIND_ROLLBACK: Promotion.Kind
    KIND_OVERRIDE: Promotion.Kind
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_MODEL_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    model: str
    digest: str
    previous_model: str
    evaluation: str
    verdict: str
    create_time: _timestamp_pb2.Timestamp
    actor: str
    reason: str
    kind: Promotion.Kind
    evidence: Evidence
    number: int
    previous_digest: str
    def __init__(self, model: _Optional[str] = ..., digest: _Optional[str] = ..., previous_model: _Optional[str] = ..., evaluation: _Optional[str] = ..., verdict: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., kind: _Optional[_Union[Promotion.Kind, str]] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ..., number: _Optional[int] = ..., previous_digest: _Optional[str] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("name", "gate", "model", "digest", "promotions", "create_time", "etag", "promotion_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROMOTIONS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    gate: Gate
    model: str
    digest: str
    promotions: _containers.RepeatedCompositeFieldContainer[Promotion]
    create_time: _timestamp_pb2.Timestamp
    etag: str
    promotion_count: int
    def __init__(self, name: _Optional[str] = ..., gate: _Optional[_Union[Gate, _Mapping]] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., promotions: _Optional[_Iterable[_Union[Promotion, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., promotion_count: _Optional[int] = ...) -> None: ...

class CreateEndpointRequest(_message.Message):
    __slots__ = ("parent", "endpoint_id", "endpoint")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    endpoint_id: str
    endpoint: Endpoint
    def __init__(self, parent: _Optional[str] = ..., endpoint_id: _Optional[str] = ..., endpoint: _Optional[_Union[Endpoint, _Mapping]] = ...) -> None: ...

class GetEndpointRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListEndpointsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEndpointsResponse(_message.Message):
    __slots__ = ("endpoints", "next_page_token")
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    next_page_token: str
    def __init__(self, endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PromoteEndpointRequest(_message.Message):
    __slots__ = ("name", "model", "evaluation", "etag", "override_reason", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    evaluation: str
    etag: str
    override_reason: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., evaluation: _Optional[str] = ..., etag: _Optional[str] = ..., override_reason: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackEndpointRequest(_message.Message):
    __slots__ = ("name", "model", "reason", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    reason: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class ListPromotionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPromotionsResponse(_message.Message):
    __slots__ = ("promotions", "next_page_token")
    PROMOTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    promotions: _containers.RepeatedCompositeFieldContainer[Promotion]
    next_page_token: str
    def __init__(self, promotions: _Optional[_Iterable[_Union[Promotion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
