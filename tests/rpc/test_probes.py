"""What watches a program from outside: metrics of real calls and looks, liveness, and what the program waits for."""

import asyncio
import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from afina.v1 import dataset_pb2, dataset_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import NotFound, Unavailable
from services.common.metrics import Metrics
from services.common.ports.database import Record
from services.common.reconcile import Change, Reconciler
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import GrpcServer, registration
from services.common.transport.probes import Probes, Readiness


class Datasets(dataset_pb2_grpc.DatasetServiceServicer):
    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context: object) -> dataset_pb2.Dataset:
        if request.name == "absent":
            raise NotFound("There is none.")
        return dataset_pb2.Dataset(name=request.name)


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def ask(probes: Probes, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, probes.port, path)


async def samples(probes: Probes) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, as Prometheus itself reads them."""
    status, text = await ask(probes, "/metrics")
    assert status == 200
    families = text_string_to_metric_families(text)
    return {(s.name, *(s.labels[k] for k in sorted(s.labels))): s.value for family in families for s in family.samples}


async def nothing() -> None:
    return None


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def readiness(metrics: Metrics) -> Readiness:
    return Readiness(metrics, timeout_s=0.3)


@pytest.fixture
async def probes(metrics: Metrics, readiness: Readiness) -> AsyncIterator[Probes]:
    probes = Probes("127.0.0.1:0", metrics, readiness, nothing, timeout_s=1.0)
    probes.start()
    yield probes
    probes.stop()


async def test_calls_are_counted_by_method_and_code(probes: Probes, metrics: Metrics) -> None:
    server = GrpcServer("127.0.0.1:0", [registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", Datasets())], metrics)
    await server.start()
    client = Client(dataset_pb2_grpc.DatasetServiceStub, f"127.0.0.1:{server.port}")
    for name in ("a", "b", "absent"):
        with contextlib.suppress(NotFound):
            await client.GetDataset(dataset_pb2.GetDatasetRequest(name=name))
    await client.close()
    await server.stop(0.1)
    told, method = await samples(probes), "/afina.v1.DatasetService/GetDataset"
    assert (told["afina_rpc_calls_total", "OK", method], told["afina_rpc_calls_total", "NOT_FOUND", method]) == (2, 1)
    assert told["afina_rpc_call_seconds_count", method] == 3
    assert told["afina_rpc_calls_in_flight",] == 0
    assert told["process_cpu_seconds_total",] > 0


async def test_looks_are_counted_by_outcome_and_resources_by_state(
    metrics: Metrics, readiness: Readiness, tmp_path: Path
) -> None:
    database = SqlDatabase(f"sqlite:///{tmp_path}/p.db")
    now = datetime.now(UTC)
    for name in ("moves", "stays", "fails"):
        await database.create("job", name, {"state": "RUNNING"}, due_time=now - timedelta(seconds=30))
    await database.create("job", "later", {"state": "PENDING"}, due_time=now + timedelta(hours=1))
    await database.create("job", "waits", {"state": "PENDING"}, due_time=now)

    async def step(record: Record) -> Change:
        if record.name == "fails":
            raise Unavailable("away")
        return Change({"state": "DONE"} if record.name == "moves" else record.document, None)

    loop = Reconciler(database, "job", step, metrics=metrics)
    for _ in range(3):
        assert await loop.run_once()
    probes = Probes("127.0.0.1:0", metrics, readiness, loop.count)
    probes.start()
    told = await samples(probes)
    assert {outcome: told["afina_reconcile_looks_total", "job", outcome] for outcome in ("moved", "unchanged", "failed")} == {
        "moved": 1,
        "unchanged": 1,
        "failed": 1,
    }
    assert {state: told["afina_resources", "job", state] for state in ("RUNNING", "PENDING", "DONE")} == {
        "RUNNING": 2,
        "PENDING": 2,
        "DONE": 1,
    }
    assert told["afina_reconcile_due", "job"] == 1
    assert told["afina_reconcile_lag_seconds_sum", "job"] >= 90
    probes.stop()
    await database.close()


async def test_ready_is_what_needs_nothing_that_is_away_and_each_that_is_away_has_a_sentence(
    probes: Probes, readiness: Readiness
) -> None:
    assert await ask(probes, "/readyz") == (200, '{"status": "ok"}')
    is_away = True

    async def database() -> None:
        if is_away:
            raise Unavailable("The database does not answer: refused.")

    readiness.needs("database", database)
    readiness.needs("object store", nothing)
    status, text = await ask(probes, "/readyz")
    assert (status, json.loads(text)["missing"]) == (503, {"database": "The database does not answer: refused."})
    assert (await samples(probes))["afina_dependency_up", "database"] == 0
    assert (await ask(probes, "/healthz"))[0] == 200  # it lives, so nobody should start it again
    is_away = False
    assert (await ask(probes, "/readyz"))[0] == 200


async def test_what_hangs_is_told_in_bounded_time_and_asked_once(probes: Probes, readiness: Readiness) -> None:
    asked = 0

    async def frozen() -> None:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    readiness.needs("object store", frozen)
    began = time.monotonic()
    for _ in range(2):
        status, text = await ask(probes, "/readyz")
        assert status == 503
        assert "does not answer within" in text
    assert time.monotonic() - began < 10
    assert asked == 1


async def test_a_program_whose_loop_is_stuck_still_says_so(probes: Probes) -> None:
    with socket.create_connection(("127.0.0.1", probes.port)) as stuck:  # the loop is blocked by this very test
        stuck.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        stuck.settimeout(20)
        assert b"503" in stuck.recv(200)


async def test_other_paths_are_not_found_and_a_taken_port_is_said_in_words(probes: Probes, readiness: Readiness) -> None:
    assert (await ask(probes, "/v1/models"))[0] == 404
    with pytest.raises(Unavailable, match="stop the program that has it"):
        Probes(f"127.0.0.1:{probes.port}", Metrics(), readiness, nothing).start()
