"""Scopes: what a key may do, and the one table that says which of them each gRPC method and each HTTP route asks for.

A scope is a noun that users know and what is done to it, as in OpenAI's restricted keys. Writing includes reading, and asking
models includes seeing which there are. What has no line here is refused, and a test compares the table with what the programs
serve; so whoever adds a method or a route decides who may call it.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

OPERATOR = "operator"  # whoever has the installation's service token; no key can be given it
ATTEMPT = "attempt"  # a worker: the method itself looks at its attempt token
OVERRIDE = "endpoints.override"  # asked for by a promotion that overrides its gate, beside what the method asks for

_GRPC: Mapping[str, Mapping[str, str]] = {
    "FileService": {"files.read": "GetFile ListFiles ReadFile", "files.write": "CreateFile DeleteFile FinalizeFile"},
    "UploadService": {
        "files.read": "GetUpload",
        "files.write": "CreateUpload AddUploadPart CompleteUpload CancelUpload",
    },
    "DatasetService": {"files.read": "GetDataset ListDatasets CompareDatasets"},
    "FineTuningJobService": {
        "jobs.read": "GetFineTuningJob ListFineTuningJobs ListFineTuningJobEvents WatchFineTuningJob",
        "jobs.write": "CreateFineTuningJob CancelFineTuningJob PauseFineTuningJob ResumeFineTuningJob",
    },
    "SweepService": {"jobs.read": "GetSweep ListSweeps WatchSweep", "jobs.write": "CreateSweep CancelSweep"},
    "TokenCountService": {"jobs.read": "GetTokenCount ListTokenCounts", "jobs.write": "CreateTokenCount"},
    "SuiteService": {"evaluations.read": "GetSuite ListSuites", "evaluations.write": "CreateSuite EnsureDefaultSuite"},
    "EvaluationService": {
        "evaluations.read": "GetEvaluation ListEvaluations WatchEvaluation",
        "evaluations.write": "CreateEvaluation CancelEvaluation",
    },
    "ModelService": {
        "models.read": "GetModel ListModels",
        "models.write": "DeleteModel ProveModel JudgeModel",
        # CreateModel reads the store by key; the others tell the keys of model servers, or are a gateway's.
        OPERATOR: "CreateModel EnsureServed WatchRoutes AcknowledgeRoutes ForgetRoutes",
    },
    "CatalogueService": {
        "models.read": "GetCatalogueEntry ListCatalogueEntries",
        OPERATOR: "CreateCatalogueEntry UpdateCatalogueEntry DeleteCatalogueEntry",
    },
    "EndpointService": {
        "endpoints.read": "GetEndpoint ListEndpoints ListPromotions",
        "endpoints.write": "CreateEndpoint",
        "endpoints.promote": "PromoteEndpoint RollbackEndpoint",
    },
    "ApiKeyService": {OPERATOR: "CreateApiKey ListApiKeys DeleteApiKey VerifyApiKey"},
    "GenerationService": {"inference": "Generate StreamGenerate"},
    "WorkerService": {ATTEMPT: "ReportProgress"},
    "StoreAccessService": {ATTEMPT: "SignStoreRequest"},
}

_HTTP: Mapping[str, tuple[str, ...]] = {
    "inference": (
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/responses",
        "POST /v1/responses/input_tokens",
        "POST /v1/responses/compact",
        "GET /v1/responses/{response_id}",
        "GET /v1/responses/{response_id}/input_items",
        "POST /v1/responses/{response_id}/cancel",
        "DELETE /v1/responses/{response_id}",
    ),
    "files.read": ("GET /v1/files", "GET /v1/files/{file_id}", "GET /v1/files/{file_id}/content"),
    "files.write": (
        "POST /v1/files",
        "DELETE /v1/files/{file_id}",
        "POST /v1/uploads",
        "POST /v1/uploads/{upload_id}/parts",
        "POST /v1/uploads/{upload_id}/complete",
        "POST /v1/uploads/{upload_id}/cancel",
    ),
    "jobs.read": (
        "GET /v1/fine_tuning/jobs",
        "GET /v1/fine_tuning/jobs/{job_id}",
        "GET /v1/fine_tuning/jobs/{job_id}/events",
        "GET /v1/fine_tuning/jobs/{job_id}/checkpoints",
    ),
    "jobs.write": (
        "POST /v1/fine_tuning/jobs",
        "POST /v1/fine_tuning/jobs/{job_id}/cancel",
        "POST /v1/fine_tuning/jobs/{job_id}/pause",
        "POST /v1/fine_tuning/jobs/{job_id}/resume",
    ),
    "models.read": ("GET /v1/models", "GET /v1/models/{model:path}"),
    "models.write": ("DELETE /v1/models/{model:path}",),
}

OF_METHOD: Mapping[str, str] = MappingProxyType(
    {
        f"/afina.v1.{service}/{method}": scope
        for service, asked in _GRPC.items()
        for scope, methods in asked.items()
        for method in methods.split()
    }
)
OF_ROUTE: Mapping[str, str] = MappingProxyType({route: scope for scope, routes in _HTTP.items() for route in routes})
SCOPES = tuple(dict.fromkeys(scope for scope in ("inference", *OF_METHOD.values(), OVERRIDE) if scope not in (OPERATOR, ATTEMPT)))
READ_ONLY = tuple(scope for scope in SCOPES if scope.endswith(".read"))
_INCLUDES = {scope: (f"{scope.partition('.')[0]}.read",) for scope in SCOPES} | {
    "inference": ("models.read",),
    OVERRIDE: ("endpoints.read", "endpoints.promote"),
}


def whole(asked: Iterable[str]) -> tuple[str, ...]:
    """Return scopes with those that they include, each once, in the table's order; what is no scope is left out."""
    given = set(asked) & set(SCOPES)
    given |= {included for scope in given for included in _INCLUDES[scope]}
    return tuple(scope for scope in SCOPES if scope in given)
