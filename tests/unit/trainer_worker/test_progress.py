"""How a worker reports: in order, once, through absences, and until it is told to stop."""

import subprocess
import sys
import threading
from typing import Any

import grpc
import pytest
from afina.v1 import worker_pb2

from services.common.errors import Unauthenticated
from services.common.transport.progress import BATCH_EVENTS, ProgressReporter


class Refusal(grpc.RpcError):
    """An answer that is an error."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


class ScriptedService:
    """Answers with what it was given, then with success; remembers what it was asked."""

    def __init__(self, *answers: Any, forever: Any = None) -> None:
        self._answers = list(answers)
        self._forever = forever
        self.requests: list[worker_pb2.ReportProgressRequest] = []
        self.metadata: list[Any] = []
        self.was_asked = threading.Event()

    def ReportProgress(self, request: Any, *, timeout: float, metadata: Any) -> worker_pb2.ReportProgressResponse:
        copy = worker_pb2.ReportProgressRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        self.metadata.append(metadata)
        self.was_asked.set()
        answer = self._answers.pop(0) if self._answers else self._forever
        if isinstance(answer, Exception):
            raise answer
        return answer or worker_pb2.ReportProgressResponse()


def reporter(service: ScriptedService) -> ProgressReporter:
    return ProgressReporter("unused", "projects/default/fineTuningJobs/ftjob-1", 3, "secret", stub=service)


def arrived(service: ScriptedService) -> dict[int, str]:
    """What a service knows that tells repeated events by their number."""
    return {request.first_number + at: event.type for request in service.requests for at, event in enumerate(request.events)}


def test_events_arrive_in_order_with_their_data_and_the_attempts_token() -> None:
    service = ScriptedService()
    told = reporter(service)
    told.event("LOADED", "The base is loaded.", {"rows": 800, "dtype": "bfloat16"})
    told.event("STEP", "Step 1.", {"train_loss": 0.5}, level="WARNING")
    told.close()
    events = [event for request in service.requests for event in request.events]
    assert [event.type for event in events] == ["LOADED", "STEP"]
    assert dict(events[0].data) == {"rows": 800.0, "dtype": "bfloat16"}
    assert events[1].level == 2
    assert (service.requests[0].name, service.requests[0].attempt) == ("projects/default/fineTuningJobs/ftjob-1", 3)
    assert service.metadata[0] == (("afina-attempt-token", "secret"),)


def test_what_was_said_while_the_service_was_away_is_said_again_under_the_same_numbers() -> None:
    service = ScriptedService(Refusal(grpc.StatusCode.UNAVAILABLE), Refusal(grpc.StatusCode.DEADLINE_EXCEEDED))
    told = reporter(service)
    for at in range(5):
        told.event(f"EVENT_{at}", "Something.")
    told.close()
    assert arrived(service) == {at: f"EVENT_{at}" for at in range(5)}


def test_a_thousand_events_at_once_are_a_few_calls() -> None:
    service = ScriptedService()
    told = reporter(service)
    for at in range(5 * BATCH_EVENTS):
        told.event(f"EVENT_{at}", "Something.")
    told.close()
    assert arrived(service) == {at: f"EVENT_{at}" for at in range(5 * BATCH_EVENTS)}
    assert len(service.requests) <= 10


def test_the_service_can_ask_it_to_stop_though_it_has_nothing_to_say() -> None:
    service = ScriptedService(forever=worker_pb2.ReportProgressResponse(stop_requested=True))
    told = reporter(service)
    assert service.was_asked.wait(5)
    told.close()
    assert told.stop_requested


def test_a_revoked_attempt_stops_at_once() -> None:
    service = ScriptedService(forever=Refusal(grpc.StatusCode.UNAUTHENTICATED))
    told = reporter(service)
    told.event("STEP", "Step 1.")
    told.close()
    with pytest.raises(Unauthenticated, match="replaced by a later one"):
        _ = told.stop_requested
    assert len(service.requests) == 1


def test_closing_does_not_wait_for_a_service_that_stays_away() -> None:
    service = ScriptedService(forever=Refusal(grpc.StatusCode.UNAVAILABLE))
    told = reporter(service)
    told.event("STEP", "Step 1.")
    told.close(timeout_s=0.1)
    assert service.requests


def test_a_number_that_json_does_not_know_is_left_out() -> None:
    service = ScriptedService()
    told = reporter(service)
    told.event("STEP", "Step 1.", {"step": 1, "train_loss": float("nan"), "eta_s": float("inf")})
    told.close()
    assert dict(next(event for request in service.requests for event in request.events).data) == {"step": 1}


def test_the_recommended_environment_is_known_without_torch() -> None:
    code = (
        "import sys; from services.trainer.worker_environment import RECOMMENDED; "
        "assert 'torch' not in sys.modules; assert all(isinstance(v, str) for v in RECOMMENDED.values())"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
