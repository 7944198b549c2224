"""The HTTP application: which path leads where. The order of what stands around it is: door, key, route."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as HttpRoute

from services.common.transport.grpc_client import Client
from services.common.transport.http_server import App, Door, Receive, Scope, Send
from services.gateway.generation import CHAT, COMPLETIONS, Generation, Slots
from services.gateway.keys import KIND
from services.gateway.openai import files, fine_tuning, models, responses, schema, uploads
from services.gateway.openai.callers import Authentication
from services.gateway.openai.chat import GenerationPath
from services.gateway.openai.errors import on_http_exception, on_validation_error, present
from services.gateway.openai.parameters import check_chat, check_completion
from services.gateway.routing import Routes
from services.gateway.upstream import Upstream
from services.gateway.usage import Usage
from services.gateway.use_cases import Keys


@dataclass(frozen=True)
class Limits:
    """What one gateway takes."""

    max_body_bytes: int = 10 << 20
    max_file_bytes: int = 1 << 30
    max_generations: int = 512
    body_timeout_s: float = 60.0


@dataclass(frozen=True)
class Gateway:
    """What the application works with. The clients speak to dataset (files, uploads), trainer (jobs) and inference (models)."""

    keys: Keys
    routes: Routes
    upstream: Upstream
    files: Client
    jobs: Client
    models: Client
    uploads: Client
    limits: Limits = Limits()
    usage: Usage = field(default_factory=Usage)

    @cached_property
    def generation(self) -> Generation:
        """What answers are made with, over HTTP and gRPC: the places for answers under way are the same."""
        limit = self.limits.max_generations
        return Generation(self.routes, self.upstream, self.usage, Slots(limit, self.usage.in_flight), Slots(limit))


class Shortcut:
    """ASGI middleware: the way to the two inference paths past what the framework does for all the others."""

    def __init__(self, app: App, *, paths: Mapping[tuple[str, str], App]) -> None:
        self._app, self._paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        app = self._paths.get((scope["method"], scope["path"]), self._app) if scope["type"] == "http" else self._app
        await app(scope, receive, send)


def make_app(gateway: Gateway) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="Afina", docs_url=None, redoc_url=None, redirect_slashes=False)
    limits = gateway.limits
    paths = {
        path: GenerationPath(path, check, gateway.generation, limits.max_body_bytes, limits.body_timeout_s)
        for path, check in ((CHAT, check_chat), (COMPLETIONS, check_completion))
    }
    app.add_middleware(Shortcut, paths={("POST", path): answering for path, answering in paths.items()})
    app.add_middleware(Authentication, keys=gateway.keys, routes=lambda: app.router.routes)
    app.add_middleware(Door, present=present, observe=gateway.usage.requested)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    answering = responses.Responses(paths[CHAT], limits.max_body_bytes, limits.body_timeout_s)
    known: dict[str, App] = {**paths, "/v1/responses": answering}
    for path, application in known.items():  # the framework knows all of them, for other methods
        app.router.routes.append(HttpRoute(path, application, methods=["POST"], name=path))
    app.include_router(responses.router())
    app.include_router(files.router(gateway.files, limits.max_file_bytes, limits.body_timeout_s))
    app.include_router(uploads.router(gateway.uploads, gateway.files, limits.max_body_bytes, limits.body_timeout_s))
    app.include_router(fine_tuning.router(gateway.jobs, limits.max_body_bytes, limits.body_timeout_s))
    app.include_router(models.router(gateway.routes, gateway.models))
    _add_probes(app, gateway)
    schema.describe(app)
    return app


def _add_probes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        """Say whether a chat could be answered: keys can be looked up, and the routes have come."""
        await gateway.keys.database.list(KIND, "", limit=1)
        is_ready = gateway.routes.are_known
        return JSONResponse({"status": "ok" if is_ready else "the routes have not come yet"}, 200 if is_ready else 503)
