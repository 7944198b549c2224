import datetime

from afina.v1 import resources_pb2 as _resources_pb2
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

class Subject(_message.Message):
    __slots__ = ("model", "prompts", "digest")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompts: _containers.RepeatedScalarFieldContainer[str]
    digest: str
    def __init__(self, model: _Optional[str] = ..., prompts: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "label", "value", "low", "high", "interval")
    class Interval(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INTERVAL_UNSPECIFIED: _ClassVar[Metric.Interval]
        INTERVAL_WILSON: _ClassVar[Metric.Interval]
        INTERVAL_BOOTSTRAP: _ClassVar[Metric.Interval]
        INTERVAL_NEWCOMBE: _ClassVar[Metric.Interval]
        INTERVAL_T: _ClassVar[Metric.Interval]
    INTERVAL_UNSPECIFIED: Metric.Interval
    INTERVAL_WILSON: Metric.Interval
    INTERVAL_BOOTSTRAP: Metric.Interval
    INTERVAL_NEWCOMBE: Metric.Interval
    INTERVAL_T: Metric.Interval
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    value: float
    low: float
    high: float
    interval: Metric.Interval
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., interval: _Optional[_Union[Metric.Interval, str]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("model", "prompt", "accuracy", "accuracy_low", "accuracy_high", "exact_match", "macro_f1", "item_count", "confusion", "metrics", "validation", "is_chosen")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_LOW_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_HIGH_FIELD_NUMBER: _ClassVar[int]
    EXACT_MATCH_FIELD_NUMBER: _ClassVar[int]
    MACRO_F1_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONFUSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    IS_CHOSEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    exact_match: float
    macro_f1: float
    item_count: int
    confusion: _containers.RepeatedScalarFieldContainer[int]
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    validation: Metric
    is_chosen: bool
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[str] = ..., accuracy: _Optional[float] = ..., accuracy_low: _Optional[float] = ..., accuracy_high: _Optional[float] = ..., exact_match: _Optional[float] = ..., macro_f1: _Optional[float] = ..., item_count: _Optional[int] = ..., confusion: _Optional[_Iterable[int]] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., validation: _Optional[_Union[Metric, _Mapping]] = ..., is_chosen: _Optional[bool] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("effect", "champion_value", "candidate_value", "p_value", "test")
    class Test(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TEST_UNSPECIFIED: _ClassVar[Difference.Test]
        TEST_MCNEMAR: _ClassVar[Difference.Test]
        TEST_PAIRED_T: _ClassVar[Difference.Test]
        TEST_PAIRED_BOOTSTRAP: _ClassVar[Difference.Test]
    TEST_UNSPECIFIED: Difference.Test
    TEST_MCNEMAR: Difference.Test
    TEST_PAIRED_T: Difference.Test
    TEST_PAIRED_BOOTSTRAP: Difference.Test
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_VALUE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VALUE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    effect: Metric
    champion_value: float
    candidate_value: float
    p_value: float
    test: Difference.Test
    def __init__(self, effect: _Optional[_Union[Metric, _Mapping]] = ..., champion_value: _Optional[float] = ..., candidate_value: _Optional[float] = ..., p_value: _Optional[float] = ..., test: _Optional[_Union[Difference.Test, str]] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("champion", "champion_prompt", "candidate", "candidate_prompt", "item_count", "candidate_only_count", "champion_only_count", "effect", "effect_low", "effect_high", "p_value", "differences")
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_ONLY_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_ONLY_COUNT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_LOW_FIELD_NUMBER: _ClassVar[int]
    EFFECT_HIGH_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    champion: str
    champion_prompt: str
    candidate: str
    candidate_prompt: str
    item_count: int
    candidate_only_count: int
    champion_only_count: int
    effect: float
    effect_low: float
    effect_high: float
    p_value: float
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    def __init__(self, champion: _Optional[str] = ..., champion_prompt: _Optional[str] = ..., candidate: _Optional[str] = ..., candidate_prompt: _Optional[str] = ..., item_count: _Optional[int] = ..., candidate_only_count: _Optional[int] = ..., champion_only_count: _Optional[int] = ..., effect: _Optional[float] = ..., effect_low: _Optional[float] = ..., effect_high: _Optional[float] = ..., p_value: _Optional[float] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ...) -> None: ...

class HeldOut(_message.Message):
    __slots__ = ("model", "finding", "datasets", "row_count", "overlap_count", "rows", "message")
    class Finding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FINDING_UNSPECIFIED: _ClassVar[HeldOut.Finding]
        FINDING_SAME_SPLIT: _ClassVar[HeldOut.Finding]
        FINDING_DISJOINT: _ClassVar[HeldOut.Finding]
        FINDING_OVERLAPS: _ClassVar[HeldOut.Finding]
        FINDING_UNKNOWN: _ClassVar[HeldOut.Finding]
    FINDING_UNSPECIFIED: HeldOut.Finding
    FINDING_SAME_SPLIT: HeldOut.Finding
    FINDING_DISJOINT: HeldOut.Finding
    FINDING_OVERLAPS: HeldOut.Finding
    FINDING_UNKNOWN: HeldOut.Finding
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_COUNT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    finding: HeldOut.Finding
    datasets: _containers.RepeatedScalarFieldContainer[str]
    row_count: int
    overlap_count: int
    rows: _containers.RepeatedScalarFieldContainer[int]
    message: str
    def __init__(self, model: _Optional[str] = ..., finding: _Optional[_Union[HeldOut.Finding, str]] = ..., datasets: _Optional[_Iterable[str]] = ..., row_count: _Optional[int] = ..., overlap_count: _Optional[int] = ..., rows: _Optional[_Iterable[int]] = ..., message: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("name", "state", "suite", "suite_digest", "subjects", "labels", "scores", "comparisons", "answers", "answered_count", "question_count", "error", "create_time", "end_time", "etag", "deciding_metric", "choice", "held_out")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Evaluation.State]
        STATE_PENDING: _ClassVar[Evaluation.State]
        STATE_RUNNING: _ClassVar[Evaluation.State]
        STATE_SUCCEEDED: _ClassVar[Evaluation.State]
        STATE_FAILED: _ClassVar[Evaluation.State]
        STATE_CANCELLING: _ClassVar[Evaluation.State]
        STATE_CANCELLED: _ClassVar[Evaluation.State]
    STATE_UNSPECIFIED: Evaluation.State
    STATE_PENDING: Evaluation.State
    STATE_RUNNING: Evaluation.State
    STATE_SUCCEEDED: Evaluation.State
    STATE_FAILED: Evaluation.State
    STATE_CANCELLING: Evaluation.State
    STATE_CANCELLED: Evaluation.State
    class Choice(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CHOICE_UNSPECIFIED: _ClassVar[Evaluation.Choice]
        CHOICE_VALIDATION: _ClassVar[Evaluation.Choice]
        CHOICE_CLOSEST: _ClassVar[Evaluation.Choice]
    CHOICE_UNSPECIFIED: Evaluation.Choice
    CHOICE_VALIDATION: Evaluation.Choice
    CHOICE_CLOSEST: Evaluation.Choice
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    SUITE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUESTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    DECIDING_METRIC_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Evaluation.State
    suite: str
    suite_digest: str
    subjects: _containers.RepeatedCompositeFieldContainer[Subject]
    labels: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    comparisons: _containers.RepeatedCompositeFieldContainer[Comparison]
    answers: _resources_pb2.Artifact
    answered_count: int
    question_count: int
    error: _status_pb2.Status
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    etag: str
    deciding_metric: str
    choice: Evaluation.Choice
    held_out: _containers.RepeatedCompositeFieldContainer[HeldOut]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Evaluation.State, str]] = ..., suite: _Optional[str] = ..., suite_digest: _Optional[str] = ..., subjects: _Optional[_Iterable[_Union[Subject, _Mapping]]] = ..., labels: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., comparisons: _Optional[_Iterable[_Union[Comparison, _Mapping]]] = ..., answers: _Optional[_Union[_resources_pb2.Artifact, _Mapping]] = ..., answered_count: _Optional[int] = ..., question_count: _Optional[int] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., deciding_metric: _Optional[str] = ..., choice: _Optional[_Union[Evaluation.Choice, str]] = ..., held_out: _Optional[_Iterable[_Union[HeldOut, _Mapping]]] = ...) -> None: ...

class CreateEvaluationRequest(_message.Message):
    __slots__ = ("parent", "evaluation", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    evaluation: Evaluation
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetEvaluationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListEvaluationsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations", "next_page_token")
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    next_page_token: str
    def __init__(self, evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelEvaluationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchEvaluationRequest(_message.Message):
    __slots__ = ("name", "after_sequence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchEvaluationResponse(_message.Message):
    __slots__ = ("evaluation", "events")
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    evaluation: Evaluation
    events: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Event]
    def __init__(self, evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_resources_pb2.Event, _Mapping]]] = ...) -> None: ...
