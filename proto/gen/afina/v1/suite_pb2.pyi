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

class Prompt(_message.Message):
    __slots__ = ("id", "method", "shots", "seed", "instruction", "template")
    class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        METHOD_UNSPECIFIED: _ClassVar[Prompt.Method]
        METHOD_GENERATE: _ClassVar[Prompt.Method]
        METHOD_SCORE_LABELS: _ClassVar[Prompt.Method]
    METHOD_UNSPECIFIED: Prompt.Method
    METHOD_GENERATE: Prompt.Method
    METHOD_SCORE_LABELS: Prompt.Method
    ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SHOTS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    method: Prompt.Method
    shots: int
    seed: int
    instruction: str
    template: str
    def __init__(self, id: _Optional[str] = ..., method: _Optional[_Union[Prompt.Method, str]] = ..., shots: _Optional[int] = ..., seed: _Optional[int] = ..., instruction: _Optional[str] = ..., template: _Optional[str] = ...) -> None: ...

class ExactMatch(_message.Message):
    __slots__ = ("keep_case", "keep_space", "keep_final_punctuation", "drop_punctuation", "drop_articles")
    KEEP_CASE_FIELD_NUMBER: _ClassVar[int]
    KEEP_SPACE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FINAL_PUNCTUATION_FIELD_NUMBER: _ClassVar[int]
    DROP_PUNCTUATION_FIELD_NUMBER: _ClassVar[int]
    DROP_ARTICLES_FIELD_NUMBER: _ClassVar[int]
    keep_case: bool
    keep_space: bool
    keep_final_punctuation: bool
    drop_punctuation: bool
    drop_articles: bool
    def __init__(self, keep_case: _Optional[bool] = ..., keep_space: _Optional[bool] = ..., keep_final_punctuation: _Optional[bool] = ..., drop_punctuation: _Optional[bool] = ..., drop_articles: _Optional[bool] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Bleu(_message.Message):
    __slots__ = ("tokenizer", "lowercase")
    class Tokenizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TOKENIZER_UNSPECIFIED: _ClassVar[Bleu.Tokenizer]
        TOKENIZER_13A: _ClassVar[Bleu.Tokenizer]
        TOKENIZER_INTL: _ClassVar[Bleu.Tokenizer]
        TOKENIZER_ZH: _ClassVar[Bleu.Tokenizer]
        TOKENIZER_CHAR: _ClassVar[Bleu.Tokenizer]
        TOKENIZER_NONE: _ClassVar[Bleu.Tokenizer]
    TOKENIZER_UNSPECIFIED: Bleu.Tokenizer
    TOKENIZER_13A: Bleu.Tokenizer
    TOKENIZER_INTL: Bleu.Tokenizer
    TOKENIZER_ZH: Bleu.Tokenizer
    TOKENIZER_CHAR: Bleu.Tokenizer
    TOKENIZER_NONE: Bleu.Tokenizer
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    LOWERCASE_FIELD_NUMBER: _ClassVar[int]
    tokenizer: Bleu.Tokenizer
    lowercase: bool
    def __init__(self, tokenizer: _Optional[_Union[Bleu.Tokenizer, str]] = ..., lowercase: _Optional[bool] = ...) -> None: ...

class Chrf(_message.Message):
    __slots__ = ("words", "lowercase")
    WORDS_FIELD_NUMBER: _ClassVar[int]
    LOWERCASE_FIELD_NUMBER: _ClassVar[int]
    words: bool
    lowercase: bool
    def __init__(self, words: _Optional[bool] = ..., lowercase: _Optional[bool] = ...) -> None: ...

class Rouge(_message.Message):
    __slots__ = ("stemmer", "unicode")
    STEMMER_FIELD_NUMBER: _ClassVar[int]
    UNICODE_FIELD_NUMBER: _ClassVar[int]
    stemmer: bool
    unicode: bool
    def __init__(self, stemmer: _Optional[bool] = ..., unicode: _Optional[bool] = ...) -> None: ...

class Criterion(_message.Message):
    __slots__ = ("exact_match", "classification", "bleu", "chrf", "rouge")
    EXACT_MATCH_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    BLEU_FIELD_NUMBER: _ClassVar[int]
    CHRF_FIELD_NUMBER: _ClassVar[int]
    ROUGE_FIELD_NUMBER: _ClassVar[int]
    exact_match: ExactMatch
    classification: Classification
    bleu: Bleu
    chrf: Chrf
    rouge: Rouge
    def __init__(self, exact_match: _Optional[_Union[ExactMatch, _Mapping]] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ..., bleu: _Optional[_Union[Bleu, _Mapping]] = ..., chrf: _Optional[_Union[Chrf, _Mapping]] = ..., rouge: _Optional[_Union[Rouge, _Mapping]] = ...) -> None: ...

class Suite(_message.Message):
    __slots__ = ("name", "dataset", "prompts", "labels", "max_tokens", "digest", "create_time", "criteria", "part", "max_items", "dataset_digest")
    class Part(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PART_UNSPECIFIED: _ClassVar[Suite.Part]
        PART_TEST: _ClassVar[Suite.Part]
        PART_VALIDATION: _ClassVar[Suite.Part]
    PART_UNSPECIFIED: Suite.Part
    PART_TEST: Suite.Part
    PART_VALIDATION: Suite.Part
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CRITERIA_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset: str
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    labels: _containers.RepeatedScalarFieldContainer[str]
    max_tokens: int
    digest: str
    create_time: _timestamp_pb2.Timestamp
    criteria: _containers.RepeatedCompositeFieldContainer[Criterion]
    part: Suite.Part
    max_items: int
    dataset_digest: str
    def __init__(self, name: _Optional[str] = ..., dataset: _Optional[str] = ..., prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., labels: _Optional[_Iterable[str]] = ..., max_tokens: _Optional[int] = ..., digest: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., criteria: _Optional[_Iterable[_Union[Criterion, _Mapping]]] = ..., part: _Optional[_Union[Suite.Part, str]] = ..., max_items: _Optional[int] = ..., dataset_digest: _Optional[str] = ...) -> None: ...

class CreateSuiteRequest(_message.Message):
    __slots__ = ("parent", "suite", "suite_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    SUITE_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    suite: Suite
    suite_id: str
    def __init__(self, parent: _Optional[str] = ..., suite: _Optional[_Union[Suite, _Mapping]] = ..., suite_id: _Optional[str] = ...) -> None: ...

class EnsureDefaultSuiteRequest(_message.Message):
    __slots__ = ("parent", "dataset")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    parent: str
    dataset: str
    def __init__(self, parent: _Optional[str] = ..., dataset: _Optional[str] = ...) -> None: ...

class GetSuiteRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListSuitesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSuitesResponse(_message.Message):
    __slots__ = ("suites", "next_page_token")
    SUITES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    suites: _containers.RepeatedCompositeFieldContainer[Suite]
    next_page_token: str
    def __init__(self, suites: _Optional[_Iterable[_Union[Suite, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
