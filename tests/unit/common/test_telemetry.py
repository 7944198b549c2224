"""A trace goes on where a header is well formed, begins anew where it is not, and stands in every line of a log."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.common import telemetry

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # Source: W3C Trace Context, 3.2.4 Examples


@pytest.fixture(autouse=True)
def outside() -> Iterator[None]:
    token = telemetry.trace_id.set("")
    yield
    telemetry.trace_id.reset(token)


@pytest.mark.parametrize("header", [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what-comes-later"])
def test_a_well_formed_header_is_followed(header: str) -> None:
    assert telemetry.follow(header) == TRACE
    version, trace, span, flags = telemetry.traceparent().split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert len(span) == 16
    assert span != SPAN
    assert [*telemetry.carried()] == ["traceparent"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        TRACE,
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[:-1]}-{SPAN}-01",
    ],
)
def test_any_other_header_begins_a_trace(header: str) -> None:
    fresh = telemetry.follow(header)
    assert fresh not in ("", TRACE)
    assert telemetry.follow(telemetry.traceparent()) == fresh


def test_what_a_resource_kept_is_resumed_where_it_is_a_trace() -> None:
    assert telemetry.resume(TRACE) == TRACE
    assert telemetry.resume("req-of-old") not in ("", "req-of-old")


def test_outside_of_a_trace_nothing_is_carried() -> None:
    assert telemetry.carried() == {}


SCRIPT = """
import logging, threading
from services.common import telemetry
telemetry.configure("worker")
say = lambda: telemetry.log(logging.getLogger("x"), logging.INFO, "here", n=1)
say()
thread = threading.Thread(target=say); thread.start(); thread.join()
logging.getLogger("x").debug("quiet")
"""


@pytest.mark.parametrize(("level", "count"), [("", 2), ("debug", 3), ("error", 0), ("loud", 2)])
def test_a_workload_goes_on_in_the_trace_it_was_started_in_in_all_its_threads(level: str, count: int) -> None:
    environment = {**os.environ, "TRACEPARENT": f"00-{TRACE}-{SPAN}-01", "LOG_LEVEL": level}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["trace_id"] for line in lines] == [TRACE] * count
