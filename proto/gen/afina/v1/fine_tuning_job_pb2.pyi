import datetime

from afina.v1 import dataset_pb2 as _dataset_pb2
from afina.v1 import model_pb2 as _model_pb2
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

class Recipe(_message.Message):
    __slots__ = ("learning_rate", "epochs", "batch_size", "rank", "alpha", "dropout", "target_modules", "warmup_fraction", "schedule", "weight_decay", "max_gradient_norm", "max_length", "validation_interval_steps", "seed", "learning_rate_multiplier", "early_stopping_patience", "published_checkpoint_count")
    class Schedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCHEDULE_UNSPECIFIED: _ClassVar[Recipe.Schedule]
        SCHEDULE_COSINE: _ClassVar[Recipe.Schedule]
        SCHEDULE_LINEAR: _ClassVar[Recipe.Schedule]
        SCHEDULE_CONSTANT: _ClassVar[Recipe.Schedule]
    SCHEDULE_UNSPECIFIED: Recipe.Schedule
    SCHEDULE_COSINE: Recipe.Schedule
    SCHEDULE_LINEAR: Recipe.Schedule
    SCHEDULE_CONSTANT: Recipe.Schedule
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    WARMUP_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    MAX_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_INTERVAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_PATIENCE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_CHECKPOINT_COUNT_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    epochs: int
    batch_size: int
    rank: int
    alpha: float
    dropout: float
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    warmup_fraction: float
    schedule: Recipe.Schedule
    weight_decay: float
    max_gradient_norm: float
    max_length: int
    validation_interval_steps: int
    seed: int
    learning_rate_multiplier: float
    early_stopping_patience: int
    published_checkpoint_count: int
    def __init__(self, learning_rate: _Optional[float] = ..., epochs: _Optional[int] = ..., batch_size: _Optional[int] = ..., rank: _Optional[int] = ..., alpha: _Optional[float] = ..., dropout: _Optional[float] = ..., target_modules: _Optional[_Iterable[str]] = ..., warmup_fraction: _Optional[float] = ..., schedule: _Optional[_Union[Recipe.Schedule, str]] = ..., weight_decay: _Optional[float] = ..., max_gradient_norm: _Optional[float] = ..., max_length: _Optional[int] = ..., validation_interval_steps: _Optional[int] = ..., seed: _Optional[int] = ..., learning_rate_multiplier: _Optional[float] = ..., early_stopping_patience: _Optional[int] = ..., published_checkpoint_count: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("step", "total_steps", "epoch", "train_loss", "validation_loss", "tokens_per_s", "eta_s", "trained_tokens", "learning_rate", "gradient_norm", "train_accuracy", "validation_accuracy")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    TRAINED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    step: int
    total_steps: int
    epoch: float
    train_loss: float
    validation_loss: float
    tokens_per_s: float
    eta_s: float
    trained_tokens: int
    learning_rate: float
    gradient_norm: float
    train_accuracy: float
    validation_accuracy: float
    def __init__(self, step: _Optional[int] = ..., total_steps: _Optional[int] = ..., epoch: _Optional[float] = ..., train_loss: _Optional[float] = ..., validation_loss: _Optional[float] = ..., tokens_per_s: _Optional[float] = ..., eta_s: _Optional[float] = ..., trained_tokens: _Optional[int] = ..., learning_rate: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., train_accuracy: _Optional[float] = ..., validation_accuracy: _Optional[float] = ...) -> None: ...

class PublishedCheckpoint(_message.Message):
    __slots__ = ("step", "model", "public_id", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "create_time")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_ID_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    step: int
    model: str
    public_id: str
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, step: _Optional[int] = ..., model: _Optional[str] = ..., public_id: _Optional[str] = ..., train_loss: _Optional[float] = ..., train_accuracy: _Optional[float] = ..., validation_loss: _Optional[float] = ..., validation_accuracy: _Optional[float] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class JobEvaluation(_message.Message):
    __slots__ = ("is_disabled", "suite", "candidate_prompts")
    IS_DISABLED_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    is_disabled: bool
    suite: str
    candidate_prompts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, is_disabled: _Optional[bool] = ..., suite: _Optional[str] = ..., candidate_prompts: _Optional[_Iterable[str]] = ...) -> None: ...

class FineTuningJob(_message.Message):
    __slots__ = ("name", "state", "base_model", "training_file", "dataset", "split", "recipe", "effective_recipe", "suffix", "metadata", "progress", "attempt", "model", "fine_tuned_model", "error", "create_time", "start_time", "end_time", "etag", "checkpoints", "result_files", "validation_file", "token_count", "sweep", "validation_loss", "evaluation_settings", "evaluation", "verdict", "awaits_verdict")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[FineTuningJob.State]
        STATE_VALIDATING: _ClassVar[FineTuningJob.State]
        STATE_PENDING: _ClassVar[FineTuningJob.State]
        STATE_RUNNING: _ClassVar[FineTuningJob.State]
        STATE_PROVING: _ClassVar[FineTuningJob.State]
        STATE_SUCCEEDED: _ClassVar[FineTuningJob.State]
        STATE_FAILED: _ClassVar[FineTuningJob.State]
        STATE_CANCELLING: _ClassVar[FineTuningJob.State]
        STATE_CANCELLED: _ClassVar[FineTuningJob.State]
        STATE_PAUSING: _ClassVar[FineTuningJob.State]
        STATE_PAUSED: _ClassVar[FineTuningJob.State]
    STATE_UNSPECIFIED: FineTuningJob.State
    STATE_VALIDATING: FineTuningJob.State
    STATE_PENDING: FineTuningJob.State
    STATE_RUNNING: FineTuningJob.State
    STATE_PROVING: FineTuningJob.State
    STATE_SUCCEEDED: FineTuningJob.State
    STATE_FAILED: FineTuningJob.State
    STATE_CANCELLING: FineTuningJob.State
    STATE_CANCELLED: FineTuningJob.State
    STATE_PAUSING: FineTuningJob.State
    STATE_PAUSED: FineTuningJob.State
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
    TRAINING_FILE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_RECIPE_FIELD_NUMBER: _ClassVar[int]
    SUFFIX_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINE_TUNED_MODEL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FILES_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FILE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SWEEP_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    AWAITS_VERDICT_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: FineTuningJob.State
    base_model: str
    training_file: str
    dataset: str
    split: _dataset_pb2.Split
    recipe: Recipe
    effective_recipe: Recipe
    suffix: str
    metadata: _containers.ScalarMap[str, str]
    progress: Progress
    attempt: int
    model: str
    fine_tuned_model: str
    error: _status_pb2.Status
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    etag: str
    checkpoints: _containers.RepeatedCompositeFieldContainer[PublishedCheckpoint]
    result_files: _containers.RepeatedScalarFieldContainer[str]
    validation_file: str
    token_count: str
    sweep: str
    validation_loss: float
    evaluation_settings: JobEvaluation
    evaluation: str
    verdict: _model_pb2.Verdict
    awaits_verdict: bool
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[FineTuningJob.State, str]] = ..., base_model: _Optional[str] = ..., training_file: _Optional[str] = ..., dataset: _Optional[str] = ..., split: _Optional[_Union[_dataset_pb2.Split, _Mapping]] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., effective_recipe: _Optional[_Union[Recipe, _Mapping]] = ..., suffix: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., attempt: _Optional[int] = ..., model: _Optional[str] = ..., fine_tuned_model: _Optional[str] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., checkpoints: _Optional[_Iterable[_Union[PublishedCheckpoint, _Mapping]]] = ..., result_files: _Optional[_Iterable[str]] = ..., validation_file: _Optional[str] = ..., token_count: _Optional[str] = ..., sweep: _Optional[str] = ..., validation_loss: _Optional[float] = ..., evaluation_settings: _Optional[_Union[JobEvaluation, _Mapping]] = ..., evaluation: _Optional[str] = ..., verdict: _Optional[_Union[_model_pb2.Verdict, _Mapping]] = ..., awaits_verdict: _Optional[bool] = ...) -> None: ...

class CreateFineTuningJobRequest(_message.Message):
    __slots__ = ("parent", "fine_tuning_job", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FINE_TUNING_JOB_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    fine_tuning_job: FineTuningJob
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., fine_tuning_job: _Optional[_Union[FineTuningJob, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetFineTuningJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListFineTuningJobsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFineTuningJobsResponse(_message.Message):
    __slots__ = ("fine_tuning_jobs", "next_page_token")
    FINE_TUNING_JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    fine_tuning_jobs: _containers.RepeatedCompositeFieldContainer[FineTuningJob]
    next_page_token: str
    def __init__(self, fine_tuning_jobs: _Optional[_Iterable[_Union[FineTuningJob, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelFineTuningJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PauseFineTuningJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ResumeFineTuningJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListFineTuningJobEventsRequest(_message.Message):
    __slots__ = ("name", "after_sequence", "page_size", "newest_first")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    page_size: int
    newest_first: bool
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ..., page_size: _Optional[int] = ..., newest_first: _Optional[bool] = ...) -> None: ...

class ListFineTuningJobEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Event]
    def __init__(self, events: _Optional[_Iterable[_Union[_resources_pb2.Event, _Mapping]]] = ...) -> None: ...

class WatchFineTuningJobRequest(_message.Message):
    __slots__ = ("name", "after_sequence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchFineTuningJobResponse(_message.Message):
    __slots__ = ("fine_tuning_job", "events")
    FINE_TUNING_JOB_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    fine_tuning_job: FineTuningJob
    events: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Event]
    def __init__(self, fine_tuning_job: _Optional[_Union[FineTuningJob, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_resources_pb2.Event, _Mapping]]] = ...) -> None: ...
