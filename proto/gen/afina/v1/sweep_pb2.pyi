import datetime

from afina.v1 import fine_tuning_job_pb2 as _fine_tuning_job_pb2
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

class SweepMember(_message.Message):
    __slots__ = ("recipe", "job", "state", "effective_recipe", "validation_loss", "rank", "progress", "fine_tuned_model", "error")
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_RECIPE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FINE_TUNED_MODEL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    recipe: _fine_tuning_job_pb2.Recipe
    job: str
    state: _fine_tuning_job_pb2.FineTuningJob.State
    effective_recipe: _fine_tuning_job_pb2.Recipe
    validation_loss: float
    rank: int
    progress: _fine_tuning_job_pb2.Progress
    fine_tuned_model: str
    error: _status_pb2.Status
    def __init__(self, recipe: _Optional[_Union[_fine_tuning_job_pb2.Recipe, _Mapping]] = ..., job: _Optional[str] = ..., state: _Optional[_Union[_fine_tuning_job_pb2.FineTuningJob.State, str]] = ..., effective_recipe: _Optional[_Union[_fine_tuning_job_pb2.Recipe, _Mapping]] = ..., validation_loss: _Optional[float] = ..., rank: _Optional[int] = ..., progress: _Optional[_Union[_fine_tuning_job_pb2.Progress, _Mapping]] = ..., fine_tuned_model: _Optional[str] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Sweep(_message.Message):
    __slots__ = ("name", "state", "base_model", "dataset", "recipes", "suffix", "metadata", "members", "winner", "model", "fine_tuned_model", "error", "create_time", "end_time", "etag", "evaluation_settings")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Sweep.State]
        STATE_RUNNING: _ClassVar[Sweep.State]
        STATE_PROVING: _ClassVar[Sweep.State]
        STATE_SUCCEEDED: _ClassVar[Sweep.State]
        STATE_FAILED: _ClassVar[Sweep.State]
        STATE_CANCELLING: _ClassVar[Sweep.State]
        STATE_CANCELLED: _ClassVar[Sweep.State]
    STATE_UNSPECIFIED: Sweep.State
    STATE_RUNNING: Sweep.State
    STATE_PROVING: Sweep.State
    STATE_SUCCEEDED: Sweep.State
    STATE_FAILED: Sweep.State
    STATE_CANCELLING: Sweep.State
    STATE_CANCELLED: Sweep.State
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    RECIPES_FIELD_NUMBER: _ClassVar[int]
    SUFFIX_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINE_TUNED_MODEL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Sweep.State
    base_model: str
    dataset: str
    recipes: _containers.RepeatedCompositeFieldContainer[_fine_tuning_job_pb2.Recipe]
    suffix: str
    metadata: _containers.ScalarMap[str, str]
    members: _containers.RepeatedCompositeFieldContainer[SweepMember]
    winner: str
    model: str
    fine_tuned_model: str
    error: _status_pb2.Status
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    etag: str
    evaluation_settings: _fine_tuning_job_pb2.JobEvaluation
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Sweep.State, str]] = ..., base_model: _Optional[str] = ..., dataset: _Optional[str] = ..., recipes: _Optional[_Iterable[_Union[_fine_tuning_job_pb2.Recipe, _Mapping]]] = ..., suffix: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., members: _Optional[_Iterable[_Union[SweepMember, _Mapping]]] = ..., winner: _Optional[str] = ..., model: _Optional[str] = ..., fine_tuned_model: _Optional[str] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., evaluation_settings: _Optional[_Union[_fine_tuning_job_pb2.JobEvaluation, _Mapping]] = ...) -> None: ...

class CreateSweepRequest(_message.Message):
    __slots__ = ("parent", "sweep", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SWEEP_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    sweep: Sweep
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., sweep: _Optional[_Union[Sweep, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetSweepRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListSweepsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSweepsResponse(_message.Message):
    __slots__ = ("sweeps", "next_page_token")
    SWEEPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sweeps: _containers.RepeatedCompositeFieldContainer[Sweep]
    next_page_token: str
    def __init__(self, sweeps: _Optional[_Iterable[_Union[Sweep, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelSweepRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchSweepRequest(_message.Message):
    __slots__ = ("name", "after_sequence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchSweepResponse(_message.Message):
    __slots__ = ("sweep", "events")
    SWEEP_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    sweep: Sweep
    events: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Event]
    def __init__(self, sweep: _Optional[_Union[Sweep, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_resources_pb2.Event, _Mapping]]] = ...) -> None: ...
