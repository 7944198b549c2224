"""What is counted around a port: each verb by how it ended, bytes as they pass, and jobs that wait."""

import io
from pathlib import Path

import pytest

from services.common.backends.measured import measured
from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import ArtifactNotFound
from services.common.metrics import Metrics
from services.common.ports.launcher import Observation, Workload, WorkloadState
from services.common.ports.object_store import ObjectStore
from tests.fakes import ScriptedLauncher


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def store(tmp_path: Path, metrics: Metrics) -> ObjectStore:
    return measured(LocalObjectStore(tmp_path), "object_store", metrics)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_every_verb_is_counted_by_how_it_ended(store: ObjectStore, metrics: Metrics) -> None:
    store.put("files", io.BytesIO(b"abc"))
    for _ in range(2):
        with pytest.raises(ArtifactNotFound):
            store.head("files/absent")
    name = "afina_object_store_operations_total"
    assert value(metrics, name, operation="put", outcome="ok") == 1
    assert value(metrics, name, operation="head", outcome="ARTIFACT_NOT_FOUND") == 2
    assert value(metrics, "afina_object_store_operation_seconds_count", operation="head") == 2


def test_bytes_are_counted_as_they_are_read_and_written(store: ObjectStore, metrics: Metrics) -> None:
    key = store.put("files", io.BytesIO(b"x" * 1000)).key
    assert store.commit("a.json", document=b"y" * 10)
    assert not store.commit("a.json", b"z" * 10)  # it lost, so nothing was written
    with store.open(key) as stream:
        assert len(stream.read(600)) == 600
    assert len(store.read(key)) == 1000
    assert value(metrics, "afina_object_store_bytes_total", direction="written") == 1010
    assert value(metrics, "afina_object_store_bytes_total", direction="read") == 1600


def test_a_list_is_one_operation_at_its_end_and_what_is_no_verb_passes(
    store: ObjectStore, metrics: Metrics, tmp_path: Path
) -> None:
    store.commit("a/b", b"1")
    assert list(store.list("a/")) == ["a/b"]
    assert value(metrics, "afina_object_store_operations_total", operation="list", outcome="ok") == 1
    assert store.url == f"file://{tmp_path}"


async def test_the_queue_is_as_long_as_the_last_position_that_was_seen(metrics: Metrics) -> None:
    scripted = ScriptedLauncher()
    launcher = measured(scripted, "launcher", metrics)
    for n, key in enumerate(("a", "b", "c")):
        await launcher.launch(launcher.plan(Workload(key, "job", ("true",))))
        scripted.observations[key] = Observation(WorkloadState.PENDING, position=n + 1)
        await launcher.observe(key)
    assert value(metrics, "afina_launcher_queue_length") == 3
    await launcher.stop("c")
    assert value(metrics, "afina_launcher_queue_length") == 2
    for key in ("a", "b"):
        scripted.observations[key] = Observation(WorkloadState.RUNNING)
        await launcher.observe(key)
    assert value(metrics, "afina_launcher_queue_length") == 0
    assert value(metrics, "afina_launcher_operations_total", operation="launch", outcome="ok") == 3
