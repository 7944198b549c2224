"""Two projects: whatever one has, the other's key is refused, in words that do not depend on whether the thing exists.

Real programs. What is tried is the table of `test_foreign_client.py`, which holds a call of every service, so a method that is
added there is tried here too; and every route of HTTP.
"""

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import afina.v1
import aiohttp
import grpc
import pytest
import pytest_asyncio
from afina.v1 import api_key_pb2, api_key_pb2_grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2

from services.common import scopes
from services.common.backends.object_store.local import LocalObjectStore
from services.common.transport.grpc_client import Client
from tests.builders import SERVICE_TOKEN
from tests.programs import Programs, running_programs
from tests.rpc import test_foreign_client as foreign
from tests.rpc.test_foreign_client import CALLS, Asked

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
OURS, THEIRS = "projects/default", "projects/theirs"
REFUSED = {"PERMISSION_DENIED", "NOT_FOUND", "UNAUTHENTICATED"}
for module in pkgutil.iter_modules(afina.v1.__path__):  # so that every method is in the pool
    importlib.import_module(f"afina.v1.{module.name}")
CREATING = tuple(asked for asked in CALLS if asked.finds and not asked.code)
LISTS = tuple(asked for asked in CALLS if "/List" in asked.method and asked.documents == foreign.IN_PROJECT)


@dataclass
class World:
    """The programs, what `default` has, by word, and a key of the other project."""

    programs: Programs
    found: dict[str, str]
    theirs: str
    secrets: list[str] = field(default_factory=list)

    async def key(self, parent: str, *asked: str) -> str:
        """Issue a key."""
        keys = Client(api_key_pb2_grpc.ApiKeyServiceStub, self.programs.address("gateway"))
        made = await keys.CreateApiKey(api_key_pb2.CreateApiKeyRequest(parent=parent, scopes=asked))
        await keys.close()
        self.secrets.append(made.secret)
        return str(made.secret)

    async def call(self, asked: Asked, documents: Sequence[Any], secret: str) -> Any:
        """Make a call with a secret, and return its last answer as a document. Raises: grpc.aio.AioRpcError."""
        return await call(self.programs.address(asked.program), asked.method, documents, secret)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("projects")
    async with running_programs(folder, *foreign.NAMES, environ={"LOG_LEVEL": "DEBUG"}) as programs:
        store = LocalObjectStore(programs.home.path / "objects")
        made = World(programs, {"manifest": foreign._put_base(store, folder / "base")}, "")
        made.theirs = await made.key(THEIRS)
        await _create(made, made.found, OURS, SERVICE_TOKEN)
        yield made


async def test_no_call_reaches_what_another_project_has_nor_tells_whether_it_exists(world: World) -> None:
    before = await _everything(world)
    reached: list[Any] = []
    told_apart: list[Any] = []
    tried: set[str] = set()
    absent = {word: re.sub(r"[^/]+$", "absent", name) for word, name in world.found.items()}
    for asked in CALLS:
        if OURS not in str(foreign._filled(asked.documents, world.found)):
            continue
        said = [await _refusal(world, asked, foreign._filled(asked.documents, names)) for names in (world.found, absent)]
        if said[0][0] not in REFUSED:
            reached.append((asked.method, said[0]))
        if _without_names(said[0], world.found) != _without_names(said[1], absent):
            told_apart.append((asked.method, said))
        tried.add(asked.method)
    assert len(tried) > 45
    assert reached == []
    assert told_apart == []
    assert await _everything(world) >= before  # a job that goes on makes more


async def test_what_another_project_has_can_not_be_named_in_ones_own_requests(world: World) -> None:
    tried: set[str] = set()
    for asked in CALLS:
        own = [{**foreign._filled(document, world.found), "parent": THEIRS} for document in asked.documents]
        if "parent" in asked.documents[0] and OURS in str(own):
            assert (await _refusal(world, asked, own))[0] in REFUSED, asked.method
            tried.add(asked.method.partition("/")[2])
    assert tried >= {"CreateFineTuningJob", "CreateSweep", "CreateSuite", "CreateEvaluation", "CreateTokenCount"}


async def test_a_list_without_a_parent_is_of_the_keys_own_project(world: World) -> None:
    for asked in LISTS:
        if scopes.OF_METHOD[f"/afina.v1.{asked.method}"] != scopes.OPERATOR:
            assert OURS not in str(await world.call(asked, [{}], world.theirs)), asked.method
    assert len(LISTS) > 7


async def test_a_project_makes_its_own_under_request_ids_and_digests_that_another_has_used(world: World) -> None:
    found = {"base": world.found["base"]}
    await _create(world, found, THEIRS, world.theirs)
    assert {name for name in found.values() if name.startswith(f"{OURS}/")} == set()
    assert len([name for name in found.values() if name.startswith(f"{THEIRS}/")]) >= 8


async def test_over_http_what_another_project_has_is_as_absent_as_what_nobody_has(world: World) -> None:
    ids = {word: world.found[word].rpartition("/")[2] for word in ("file", "job", "upload")}
    names = {"file_id": ids["file"], "job_id": ids["job"], "upload_id": ids["upload"], "model:path": "ft:tiny:default::none"}
    tried = 0
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.theirs}"}) as session:
        for route in scopes.OF_ROUTE:
            method, _, path = route.partition(" ")
            word = next((word for word in names if f"{{{word}}}" in path), None)
            if word is None:
                continue
            said = [await _http(session, world, method, path, word, id) for id in (names[word], f"{names[word]}x")]
            assert said[0] == said[1], route
            assert said[0][0] in (400, 404), route  # 400: what it asks for is not there to be named
            tried += 1
        for path in ("/v1/files", "/v1/fine_tuning/jobs"):
            async with session.get(f"{world.programs.home.gateway_url}{path}") as response:
                assert OURS not in (text := await response.text())
                assert not any(id in text for id in ids.values())
    assert tried >= 14


async def test_a_key_without_a_scope_is_refused_by_its_name_on_every_method_and_route(world: World) -> None:
    lacking = {}
    for scope in scopes.SCOPES:
        others = [other for other in scopes.SCOPES if scope not in scopes.whole([other])]
        lacking[scope] = await world.key(OURS, *others)
    lacking[scopes.OPERATOR] = await world.key(OURS)
    for asked in CALLS:
        scope = scopes.OF_METHOD[f"/afina.v1.{asked.method}"]
        if scope != scopes.ATTEMPT:
            documents = foreign._filled(asked.documents, world.found)
            said = await _refusal(world, asked, documents, lacking[scope])
            assert said == ("PERMISSION_DENIED", "INSUFFICIENT_PERMISSIONS", scope), asked.method
    async with aiohttp.ClientSession() as session:
        for route, scope in scopes.OF_ROUTE.items():
            method, _, path = route.partition(" ")
            url = world.programs.home.gateway_url + re.sub(r"\{[^}]+\}", "x", path)
            shown = {"Authorization": f"Bearer {lacking[scope]}"}
            async with session.request(method, url, headers=shown) as response:
                assert (response.status, scope in await response.text()) == (403, True), route


async def test_no_secret_that_a_program_was_given_or_shown_stands_in_a_log(world: World) -> None:
    wrong = f"afina-{'w' * 43}"
    for asked in CALLS[:3]:
        assert (await _refusal(world, asked, foreign._filled(asked.documents, world.found), wrong))[0] == "UNAUTHENTICATED"
    first = world.programs.home.api_key.read_text().strip()
    logs = {name: (world.programs.home.logs / f"{name}.log").read_text() for name in foreign.NAMES}
    assert all("call refused" in log for log in logs.values())
    for secret in (SERVICE_TOKEN, first, wrong, *world.secrets):
        assert [name for name, log in logs.items() if secret in log] == []


async def call(address: str, method: str, documents: Sequence[Any], secret: str) -> Any:
    service, _, name = method.partition("/")
    found = descriptor_pool.Default().FindMethodByName(f"afina.v1.{service}.{name}")
    request_class, response_class = (message_factory.GetMessageClass(kind) for kind in (found.input_type, found.output_type))
    requests = [json_format.ParseDict(document, request_class()) for document in documents]
    shape = f"{'stream' if found.client_streaming else 'unary'}_{'stream' if found.server_streaming else 'unary'}"
    async with grpc.aio.insecure_channel(address) as channel:
        made = getattr(channel, shape)(f"/afina.v1.{method}", request_class.SerializeToString, response_class.FromString)
        asked: Any = iter(requests) if found.client_streaming else requests[0]
        answer = made(asked, metadata=(("authorization", f"Bearer {secret}"),), timeout=20)
        message = await answer.read() if found.server_streaming else await answer
        answer.cancel()
    return json_format.MessageToDict(message) if isinstance(message, response_class) else {}


async def _refusal(world: World, asked: Asked, documents: Sequence[Any], secret: str = "") -> tuple[str, str, str]:
    """Return code, reason and scope or message of a call that is refused; what it was answered with where it is not."""
    try:
        return ("OK", "", str(await world.call(asked, documents, secret or world.theirs)))
    except grpc.aio.AioRpcError as error:
        info = error_details_pb2.ErrorInfo()
        status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
        assert status.details[0].Unpack(info)
        return (error.code().name, info.reason, info.metadata.get("scope") or status.message)


def _without_names(said: Sequence[str], names: Mapping[str, str]) -> str:
    text = " ".join(said)
    for name in sorted(names.values(), key=len, reverse=True):
        text = text.replace(name, "NAME")
    return text


async def _create(world: World, found: dict[str, str], parent: str, secret: str) -> None:
    """Make one of everything in a project, each under the same request_id, and note its name."""
    for asked in CREATING:
        if scopes.OF_METHOD[f"/afina.v1.{asked.method}"] == scopes.OPERATOR and secret != SERVICE_TOKEN:
            continue
        text = [_in_project(foreign._filled(document, found), parent) for document in asked.documents]
        if "CreateFile" in asked.method or "CreateFineTuningJob" in asked.method or "CreateSweep" in asked.method:
            text[0] = _once(text[0])
        answer = await world.call(asked, text, secret)
        found |= {word: foreign._name(answer[name]) for word, name in asked.finds.items()}


def _in_project(value: Any, parent: str) -> Any:
    if isinstance(value, Mapping):
        return {key: parent if key == "parent" else _in_project(item, parent) for key, item in value.items()}
    return value


def _once(document: Mapping[str, Any]) -> dict[str, Any]:
    if "metadata" in document:
        return {**document, "metadata": {**document["metadata"], "requestId": "the same"}}
    return {**document, "requestId": "the same"} if "parent" in document else dict(document)


async def _everything(world: World) -> set[str]:
    """Names of what `default` has, as its operator sees it. Fails where somebody has asked one of them to stop."""
    told = "".join([str(await world.call(asked, asked.documents, SERVICE_TOKEN)) for asked in LISTS])
    assert not re.search("CANCEL|PAUS", told), told
    return set(re.findall(rf"{OURS}/\w+/[\w-]+", told))


async def _http(session: aiohttp.ClientSession, world: World, method: str, path: str, word: str, id: str) -> tuple[int, str]:
    url = world.programs.home.gateway_url + path.replace(f"{{{word}}}", id)
    body = {"part_ids": ["none"]} if path.endswith("/complete") else None
    async with session.request(method, url, json=body) as response:
        return response.status, (await response.text()).replace(id, "ID")
