"""One trace id from a client's request, over HTTP and gRPC, through the loop and a real worker, back to its report."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import fine_tuning_job_pb2_grpc

from services.common import telemetry
from tests.builders import channel_to, eventually
from tests.rpc.jobs_world import jobs_world
from tests.rpc.trainer_world import FILE, trainer_world

TRACE = "a1" * 16
HEADER = f"00-{TRACE}-{'b2' * 8}-01"


class Lines(logging.Handler):
    """Keeps the messages that were logged within a trace."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.told: list[tuple[str, dict[str, object]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if telemetry.trace_id.get() == TRACE:
            self.told.append((record.getMessage(), getattr(record, "fields", {})))

    def calls(self) -> set[object]:
        return {fields["method"] for message, fields in self.told if message == "call"}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    lines, logger = Lines(), logging.getLogger("afina.grpc")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger._cache.clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(logger, "handlers", [lines])
    return lines


async def test_from_a_jobs_creation_to_its_workers_lines_and_the_report_that_it_sends(tmp_path: Path, lines: Lines) -> None:
    async with trainer_world(tmp_path) as world:
        job = pb.FineTuningJob(base_model="tiny", training_file=FILE)
        request = pb.CreateFineTuningJobRequest(parent="projects/default", fine_tuning_job=job)
        created = await world.jobs.CreateFineTuningJob(request, metadata=(("traceparent", HEADER),))
        await world.move(created.name, "RUNNING")
        environment = world.launcher.environment(f"{created.name.rpartition('/')[2]}-1")
        assert telemetry.follow(environment["TRACEPARENT"]) == TRACE
        environment |= {"AFINA_REPORT_TO": world.workers.address, "AFINA_CACHE": str(tmp_path / "cache")}
        worker = subprocess.Popen(
            [sys.executable, "-m", "services.trainer.worker"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            await eventually(lambda: "/afina.v1.WorkerService/ReportProgress" in lines.calls(), timeout_s=60)
        finally:
            _, said = worker.communicate(timeout=60)  # its base has no weights: it gives up by itself
    assert "/afina.v1.FineTuningJobService/CreateFineTuningJob" in lines.calls()
    logged = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {line["message"] for line in logged} >= {"begins"}
    assert {line["trace_id"] for line in logged} == {TRACE}


async def test_a_clients_trace_goes_to_the_model_server_and_comes_back(tmp_path: Path, lines: Lines) -> None:
    async with jobs_world(tmp_path) as world:
        await world.serve("tuned", "projects/default/models/m")
        asked = world.client.chat.completions.with_raw_response
        message = {"role": "user", "content": "hello"}
        for given, is_followed in ((HEADER, True), ("nonsense", False), ("", False)):
            raw = await asked.create(model="tuned", messages=[message], extra_headers={"traceparent": given})  # type: ignore[list-item]
            sent, back = world.upstream.headers[-1]["traceparent"], raw.headers["traceresponse"]
            assert sent.split("-")[1] == back.split("-")[1]
            assert (back.split("-")[1] == TRACE) is is_followed
        await world.client.with_options(default_headers={"traceparent": HEADER}).files.list()
    assert "/afina.v1.FileService/ListFiles" in lines.calls()


async def test_a_call_without_a_trace_gets_one_and_is_told_it_also_where_it_fails(tmp_path: Path) -> None:
    import grpc

    async with trainer_world(tmp_path) as world:
        async with channel_to(world.jobs.address) as channel:
            stub = fine_tuning_job_pb2_grpc.FineTuningJobServiceStub(channel)
            call = stub.ListFineTuningJobs(pb.ListFineTuningJobsRequest(parent="projects/default"))
            await call
            answered = dict(await call.trailing_metadata())["traceresponse"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetFineTuningJob(pb.GetFineTuningJobRequest(name="nonsense"))
            refused = dict(caught.value.trailing_metadata())["traceresponse"]
    assert telemetry.follow(answered) != telemetry.follow(refused)
    assert telemetry.follow(answered) == answered.split("-")[1]
