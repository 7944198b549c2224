"""The application's OpenAPI document: what each path takes and gives.

The framework knows paths and queries; bodies are read by hand here, because what is wrong with one is said in OpenAI's
words, so their schemas stand in `schema_bodies.py` and `schema_objects.py` and are put in at this one place. The document
promises that whatever is refused has OpenAI's shape; the fuzzer in `tests/rpc/test_gateway_fuzz.py` holds it to that.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.gateway.openai.schema_bodies import FORMS, JSON_BODIES
from services.gateway.openai.schema_objects import ANSWERS, STREAMED, ref, schemas

Document = dict[str, Any]
OCTETS = "/v1/files/{file_id}/content"
# Served as plain ASGI, which the framework does not describe.
_PLAIN = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


def describe(app: FastAPI) -> None:
    """Let an application give its whole OpenAPI document."""

    def openapi() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> Document:
    document = get_openapi(title="Afina", version="1", routes=app.routes)
    for path in _PLAIN:
        document["paths"].setdefault(path, {})["post"] = {"operationId": f"create{path.replace('/', '_')}"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, path)
    document["components"] = {
        "schemas": schemas(),
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: afina-…"}},
    }
    document["security"] = [{"key": []}]
    return document


def _complete(operation: Document, method: str, path: str) -> None:
    if method == "post" and path in JSON_BODIES:
        content = {"application/json": {"schema": JSON_BODIES[path]}}
        operation["requestBody"] = {"required": True, "content": content}
    if method == "post" and path in FORMS:
        content = {"multipart/form-data": {"schema": FORMS[path]}}
        operation["requestBody"] = {"required": True, "content": content}
    refused = {"description": "Refused, in words.", "content": {"application/json": {"schema": ref("Error")}}}
    operation["responses"] = {"default": refused}
    if path == OCTETS:
        bytes_of_it = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["responses"]["200"] = {"description": "The bytes, unchanged.", "content": bytes_of_it}
    elif answer := ANSWERS.get((method, path)):
        given: Document = {"application/json": {"schema": ref(answer)}}
        if path in STREAMED:
            given["text/event-stream"] = {"schema": {"type": "string"}}
        operation["responses"]["200"] = {"description": "Done.", "content": given}
