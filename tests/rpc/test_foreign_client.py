"""Every service driven by a client that is not ours: `buf curl`, which knows of the API what reflection tells it.

One table of calls, in the order in which a person would make them; real programs, of which none trains or serves. What is
served and has no call in the table fails the last test: add a line for it.
"""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2

from services.common.backends.object_store.local import LocalObjectStore
from services.common.ports.manifest import put_folder
from tests.builders import SERVICE_TOKEN, chat, jsonl
from tests.programs import Programs, running_programs
from tests.unit.inference import adapters

pytestmark = [pytest.mark.timeout(180)]
PARENT = "projects/default"
NAMES = ("dataset", "trainer", "evaluator", "inference", "gateway")
ROWS = jsonl(chat(f"Is {n} even?", "yes" if n % 2 == 0 else "no") for n in range(120))


@dataclass
class Told:
    """What a call was answered with: documents, or an error with its details."""

    documents: list[dict[str, Any]]
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """What ErrorInfo gives as the reason."""
        return str(self._detail(error_details_pb2.ErrorInfo()).reason)

    @property
    def fields(self) -> set[str]:
        """The fields of BadRequest's violations."""
        return {violation.field for violation in self._detail(error_details_pb2.BadRequest()).field_violations}

    def _detail(self, message: Any) -> Any:
        """Decode a detail, which the client hands on as it came."""
        for detail in self.error.get("details", []):
            if detail["type"] == message.DESCRIPTOR.full_name:
                message.ParseFromString(base64.b64decode(detail["value"] + "=="))
        return message


@dataclass(frozen=True)
class Asked:
    """One call. `{words}` in the documents are what earlier calls found; `finds` says which field of the answer is which word."""

    program: str
    method: str
    documents: tuple[Mapping[str, Any], ...] = ({},)
    finds: Mapping[str, str] = field(default_factory=dict)
    gives: Mapping[str, Any] = field(default_factory=dict)  # fields of the last document
    code: str = ""
    reason: str = ""
    fields: frozenset[str] = frozenset()


def metadata(name: str) -> dict[str, Any]:
    return {"metadata": {"parent": PARENT, "displayName": name, "purpose": "fine-tune"}}


def chunk(data: bytes) -> dict[str, Any]:
    return {"chunk": base64.b64encode(data).decode()}


IN_PROJECT = ({"parent": PARENT},)
JOB = {"baseModel": "tiny", "dataset": "{dataset}", "suffix": "foreign"}
SUITE = {"dataset": "{dataset}", "labels": ["yes", "no"], "prompts": [{"id": "plain", "method": "METHOD_GENERATE"}]}
EVALUATION = {"suite": "{suite}", "subjects": [{"model": "{base}"}]}
UPLOAD = {"displayName": "b.jsonl", "purpose": "fine-tune", "sizeBytes": str(len(ROWS))}
SWEEP = {"dataset": "{dataset}", "baseModel": "tiny", "recipes": [{"rank": 8}, {"rank": 16}]}
QUESTION = {"model": "tiny", "messages": [{"role": "ROLE_USER", "content": [{"text": "Is 3 even?"}]}]}
JOB_MISTAKES = frozenset({"fine_tuning_job.base_model", "fine_tuning_job.training_file", "fine_tuning_job.suffix"})
SPEC = {"verb": "VERB_GET", "key": "jobs/x/spec-1.json"}
CALLS = (
    # dataset: client streaming, server streaming, unary
    Asked("dataset", "FileService/CreateFile", (metadata("a.jsonl"), chunk(ROWS[:3000]), chunk(ROWS[3000:])), {"file": "name"},
          {"sizeBytes": str(len(ROWS))}),
    Asked("dataset", "FileService/CreateFile", (chunk(b"x"),), code="invalid_argument", reason="METADATA_MISSING"),
    Asked("dataset", "FileService/GetFile", ({"name": "{file}"},), gives={"displayName": "a.jsonl"}),
    Asked("dataset", "FileService/ReadFile", ({"name": "{file}"},), gives=chunk(ROWS)),
    Asked("dataset", "FileService/FinalizeFile", ({"name": "{file}"},), {"dataset": "name"}, {"rowCount": "120"}),
    Asked("dataset", "FileService/ListFiles", IN_PROJECT),
    Asked("dataset", "FileService/GetFile", ({"name": "{file}-absent"},), code="not_found", reason="NOT_FOUND"),
    Asked("dataset", "DatasetService/GetDataset", ({"name": "{dataset}"},), gives={"rowCount": "120"}),
    Asked("dataset", "DatasetService/ListDatasets", IN_PROJECT),
    Asked("dataset", "DatasetService/ListDatasets", ({"parent": PARENT, "pageSize": 5000},), code="invalid_argument",
          reason="PAGE_SIZE_INVALID"),
    Asked("dataset", "UploadService/CreateUpload", ({"parent": PARENT, "upload": UPLOAD},), {"upload": "name"}),
    Asked("dataset", "UploadService/AddUploadPart", ({"name": "{upload}"}, chunk(ROWS[:5000]), chunk(ROWS[5000:])),
          {"part": "name"}, {"sizeBytes": str(len(ROWS))}),
    Asked("dataset", "UploadService/CompleteUpload", ({"name": "{upload}", "partIds": ["none"]},), code="invalid_argument"),
    Asked("dataset", "UploadService/GetUpload", ({"name": "{upload}"},), gives={"state": "STATE_PENDING"}),
    Asked("dataset", "UploadService/CancelUpload", ({"name": "{upload}"},), gives={"state": "STATE_CANCELLED"}),
    # inference
    Asked("inference", "CatalogueService/CreateCatalogueEntry",
          ({"catalogueEntryId": "tiny", "catalogueEntry": {"manifestKey": "{manifest}", "aliases": ["gpt-4"]}},),
          {"base": "model"}),
    Asked("inference", "CatalogueService/GetCatalogueEntry", ({"name": "catalogueEntries/gpt-4"},), gives={"model": "{base}"}),
    Asked("inference", "CatalogueService/ListCatalogueEntries"),
    Asked("inference", "ModelService/GetModel", ({"name": "{base}"},), gives={"kind": "KIND_BASE", "state": "STATE_ACTIVE"}),
    Asked("inference", "ModelService/ListModels", IN_PROJECT),
    Asked("inference", "ModelService/CreateModel", ({"parent": PARENT, "manifestKey": "jobs/none/manifest.json"},),
          code="not_found", reason="ARTIFACT_NOT_FOUND"),
    Asked("inference", "ModelService/ProveModel", ({"name": f"{PARENT}/models/none"},), code="not_found", reason="NOT_FOUND"),
    Asked("inference", "ModelService/EnsureServed", ({"name": f"{PARENT}/models/none"},), code="not_found", reason="NOT_FOUND"),
    Asked("inference", "ModelService/DeleteModel", ({"name": f"{PARENT}/models/none"},), code="not_found", reason="NOT_FOUND"),
    Asked("inference", "EndpointService/CreateEndpoint", ({"parent": PARENT, "endpointId": "support", "endpoint": {}},),
          {"endpoint": "name"}),
    Asked("inference", "EndpointService/GetEndpoint", ({"name": "{endpoint}"},)),
    Asked("inference", "EndpointService/ListEndpoints", IN_PROJECT),
    Asked("inference", "EndpointService/ListPromotions", ({"parent": "{endpoint}"},)),
    Asked("inference", "EndpointService/RollbackEndpoint", ({"name": "{endpoint}", "reason": "rude"},),
          code="failed_precondition", reason="NOTHING_BEFORE"),
    Asked("inference", "EndpointService/RollbackEndpoint", ({"name": "{endpoint}"},), code="invalid_argument",
          fields=frozenset({"reason"})),
    Asked("inference", "ModelService/AcknowledgeRoutes", ({"watcher": "foreign", "revision": 0},), gives={"believedS": 60}),
    Asked("inference", "ModelService/AcknowledgeRoutes", ({"watcher": "a/b"},), code="invalid_argument",
          reason="WATCHER_INVALID"),
    Asked("inference", "ModelService/ForgetRoutes", ({"watcher": "foreign"},)),
    # trainer
    Asked("trainer", "FineTuningJobService/CreateFineTuningJob", ({"parent": PARENT, "fineTuningJob": JOB},), {"job": "name"}),
    Asked("trainer", "FineTuningJobService/CreateFineTuningJob", ({"parent": PARENT, "fineTuningJob": {"suffix": "No No"}},),
          code="invalid_argument", reason="INVALID_INPUT", fields=JOB_MISTAKES),
    Asked("trainer", "FineTuningJobService/GetFineTuningJob", ({"name": "{job}"},), gives={"baseModel": "tiny"}),
    Asked("trainer", "FineTuningJobService/ListFineTuningJobs", IN_PROJECT),
    Asked("trainer", "FineTuningJobService/PauseFineTuningJob", ({"name": "{job}"},)),
    Asked("trainer", "FineTuningJobService/ResumeFineTuningJob", ({"name": "{job}"},)),
    Asked("trainer", "FineTuningJobService/CancelFineTuningJob", ({"name": "{job}"},), gives={"state": "STATE_CANCELLING"}),
    Asked("trainer", "FineTuningJobService/WatchFineTuningJob", ({"name": "{job}"},)),
    Asked("trainer", "FineTuningJobService/CancelFineTuningJob", ({"name": "{job}"},), code="failed_precondition",
          reason="WRONG_STATE"),
    Asked("trainer", "FineTuningJobService/ListFineTuningJobEvents", ({"name": "{job}"},)),
    Asked("trainer", "TokenCountService/CreateTokenCount",
          ({"parent": PARENT, "tokenCount": {"dataset": "{dataset}", "baseModel": "tiny"}},), {"count": "name"}),
    Asked("trainer", "TokenCountService/GetTokenCount", ({"name": "{count}"},), gives={"dataset": "{dataset}"}),
    Asked("trainer", "TokenCountService/ListTokenCounts", IN_PROJECT),
    Asked("trainer", "SweepService/CreateSweep", ({"parent": PARENT, "sweep": SWEEP},), {"sweep": "name"}),
    Asked("trainer", "SweepService/CreateSweep", ({"parent": PARENT, "sweep": {"dataset": "{dataset}", "baseModel": "tiny"}},),
          code="invalid_argument", fields=frozenset({"sweep.recipes"})),
    Asked("trainer", "SweepService/GetSweep", ({"name": "{sweep}"},), gives={"baseModel": "tiny"}),
    Asked("trainer", "SweepService/ListSweeps", IN_PROJECT),
    Asked("trainer", "SweepService/CancelSweep", ({"name": "{sweep}"},), gives={"state": "STATE_CANCELLING"}),
    Asked("trainer", "SweepService/WatchSweep", ({"name": "{sweep}"},)),
    Asked("trainer", "WorkerService/ReportProgress", ({"name": "{job}", "attempt": 1},), code="unauthenticated"),
    Asked("trainer", "StoreAccessService/SignStoreRequest", ({"name": "{job}", "attempt": 1, "request": SPEC},),
          code="unauthenticated"),
    # evaluator
    Asked("evaluator", "SuiteService/CreateSuite", ({"parent": PARENT, "suiteId": "parity", "suite": SUITE},), {"suite": "name"}),
    Asked("evaluator", "SuiteService/GetSuite", ({"name": "{suite}"},), gives={"dataset": "{dataset}"}),
    Asked("evaluator", "SuiteService/ListSuites", IN_PROJECT),
    Asked("evaluator", "EvaluationService/CreateEvaluation", ({"parent": PARENT, "evaluation": EVALUATION},),
          {"evaluation": "name"}),
    Asked("evaluator", "EvaluationService/GetEvaluation", ({"name": "{evaluation}"},), gives={"suite": "{suite}"}),
    Asked("evaluator", "EvaluationService/ListEvaluations", IN_PROJECT),
    Asked("evaluator", "EvaluationService/CancelEvaluation", ({"name": "{evaluation}"},), gives={"state": "STATE_CANCELLING"}),
    Asked("evaluator", "EvaluationService/WatchEvaluation", ({"name": "{evaluation}"},)),
    Asked("evaluator", "WorkerService/ReportProgress", ({"name": "{evaluation}", "attempt": 9},), code="unauthenticated",
          reason="ATTEMPT_UNKNOWN"),
    Asked("evaluator", "StoreAccessService/SignStoreRequest", ({"name": "{evaluation}", "attempt": 9, "request": SPEC},),
          code="unauthenticated", reason="ATTEMPT_UNKNOWN"),
    Asked("inference", "StoreAccessService/SignStoreRequest", ({"name": "servers/none", "attempt": 1, "request": SPEC},),
          code="unauthenticated"),
    Asked("inference", "EndpointService/PromoteEndpoint",
          ({"name": "{endpoint}", "model": f"{PARENT}/models/none", "evaluation": "{evaluation}"},), code="not_found"),
    # gateway; an answer of a model is asked for in test_generation.py
    Asked("gateway", "GenerationService/Generate", (QUESTION,), code="permission_denied", reason="PROJECT_UNKNOWN"),
    Asked("gateway", "GenerationService/StreamGenerate", (QUESTION,), code="permission_denied", reason="PROJECT_UNKNOWN"),
    Asked("gateway", "ApiKeyService/CreateApiKey", ({"parent": PARENT, "displayName": "foreign", "ttl": "3600s"},),
          {"key": "apiKey"}),
    Asked("gateway", "ApiKeyService/ListApiKeys", IN_PROJECT),
    Asked("gateway", "ApiKeyService/VerifyApiKey", ({"secretSha256": "0" * 64},), code="not_found"),
    Asked("gateway", "ApiKeyService/DeleteApiKey", ({"name": "{key}"},)),
    Asked("gateway", "ApiKeyService/DeleteApiKey", ({"name": "{key}"},), code="not_found", reason="NOT_FOUND"),
)  # fmt: skip


def curl(*arguments: str, token: str = SERVICE_TOKEN) -> list[str]:
    """The client's command."""
    program = Path(sys.executable).with_name("buf")
    if not program.exists():
        pytest.skip("needs buf: pip install buf-bin")
    return [
        str(program),
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        "-H",
        f"authorization: Bearer {token}",
        *arguments,
    ]


def buf(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(curl(*arguments), input=stdin, capture_output=True, text=True, timeout=60, check=False)


async def call(programs: Programs, program: str, method: str, *documents: Mapping[str, Any]) -> Told:
    """Make one call, and return what the client printed."""
    url = f"http://{programs.address(program)}/afina.v1.{method}"
    sent = "\n".join(json.dumps(document) for document in documents)
    done = await asyncio.to_thread(buf, "-d", "@-", url, stdin=sent)
    return Told(_documents(done.stdout), json.loads(done.stderr) if done.returncode else {})


async def services(programs: Programs) -> set[tuple[str, str]]:
    """Program and service, of everything that reflection tells of."""
    listings = [await asyncio.to_thread(buf, "--list-services", f"http://{programs.address(name)}") for name in NAMES]
    found = {(name, line) for name, done in zip(NAMES, listings, strict=True) for line in done.stdout.split()}
    return {(name, line.removeprefix("afina.v1.")) for name, line in found if line.startswith("afina.v1.")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def programs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Programs]:
    async with running_programs(tmp_path_factory.mktemp("foreign"), *NAMES) as programs:
        yield programs


@pytest.mark.asyncio(loop_scope="module")
async def test_every_call_of_the_table_is_answered_as_it_says(programs: Programs, tmp_path: Path) -> None:
    found = {"manifest": _put_base(LocalObjectStore(programs.home.path / "objects"), tmp_path / "base")}
    for asked in CALLS:
        told = await call(programs, asked.program, asked.method, *_filled(asked.documents, found))
        what = f"{asked.method}: {told}"
        assert told.error.get("code", "") == asked.code, what
        assert not asked.reason or told.reason == asked.reason, what
        assert told.fields >= asked.fields, what
        if not asked.code:
            assert told.documents, what
            last = told.documents[-1]
            given = _filled(asked.gives, found)
            assert {name: last.get(name) for name in given} == given, what
            found |= {word: _name(last[name]) for word, name in asked.finds.items()}
        if "Watch" in asked.method:  # the stream has ended, because what it watched has
            watched = [value for document in told.documents for value in document.values() if isinstance(value, dict)]
            assert watched[-1]["state"] == "STATE_CANCELLED", what
    endless = f"http://{programs.address('inference')}/afina.v1.ModelService/WatchRoutes"
    first = await asyncio.to_thread(_first_document, endless)
    assert [route["publicId"] for route in first["routes"]] == ["tiny", "gpt-4"]


@pytest.mark.asyncio(loop_scope="module")
async def test_every_service_that_is_served_has_a_call_in_the_table(programs: Programs) -> None:
    called = {(asked.program, asked.method.partition("/")[0]) for asked in CALLS}
    assert await services(programs) == called


def _first_document(url: str) -> dict[str, Any]:
    """Read what a stream tells at once, then end the client."""
    with subprocess.Popen(curl(url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as client:
        assert client.stdout is not None
        text = ""
        for line in client.stdout:
            text += line
            if line.rstrip() in ("}", "{}"):
                break
        client.kill()
    document: dict[str, Any] = json.loads(text)
    return document


def _documents(text: str) -> list[dict[str, Any]]:
    """Read JSON documents that stand one after another."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def _filled(value: Any, found: Mapping[str, str]) -> Any:
    """Put what was found where `{words}` stand."""
    if isinstance(value, str):
        for word, meant in found.items():
            value = value.replace(f"{{{word}}}", meant)
        return value
    if isinstance(value, Mapping):
        return {key: _filled(item, found) for key, item in value.items()}
    return type(value)(_filled(item, found) for item in value) if isinstance(value, list | tuple) else value


def _name(value: Any) -> str:
    return str(value["name"] if isinstance(value, dict) else value)


def _put_base(store: LocalObjectStore, folder: Path) -> str:
    """Put the smallest base that the catalogue takes into the store, and return the key of its manifest."""
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": adapters.WIDTH, "max_position_embeddings": 512}
    for name, document in (("config", config), ("tokenizer", {}), ("tokenizer_config", {"chat_template": "x"})):
        (folder / f"{name}.json").write_text(json.dumps(document))
    weights = {f"{module}.weight": ("F32", np.zeros(shape, np.float32)) for module, shape in adapters.MODULES.items()}
    (folder / "model.safetensors").write_bytes(adapters.safetensors(weights))
    manifest = put_folder(store, "bases", folder, "base", {})
    key = f"manifests/bases/{manifest.digest}.json"
    store.commit(key, manifest.to_json())
    return key
