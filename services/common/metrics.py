"""What every program counts and times, for Prometheus: calls, looks of the reconcile loop, what its ports do.

Use cases know nothing of it: the gRPC server counts calls, the loop its looks, and `backends/measured.py` stands around
a port. Labels take few values, all of them ours: a method, a kind, a verb, a state, an error's reason – never a name, a
project or a message, since each new value is one more series for ever.
Source: https://prometheus.io/docs/practices/naming/
"""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from services.common.errors import AfinaError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OK = "ok"
PORTS = ("database", "object_store", "launcher")
CALL_SECONDS = (0.002, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
LAG_SECONDS = (0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0)


@dataclass(frozen=True)
class PortMetrics:
    """What one port does: operations by verb and outcome, and their time."""

    operations: Counter
    seconds: Histogram


class Metrics:
    """Every metric of one program, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.calls = Counter("afina_rpc_calls_total", "gRPC calls, ended.", ["method", "code"], registry=registry)
        self.call_seconds = Histogram(
            "afina_rpc_call_seconds", "Time of gRPC calls.", ["method"], buckets=CALL_SECONDS, registry=registry
        )
        self.calls_in_flight = Gauge("afina_rpc_calls_in_flight", "gRPC calls under way.", registry=registry)
        self.looks = Counter(
            "afina_reconcile_looks_total",
            "Looks at resources: moved, unchanged, failed, or overtaken by somebody else's write.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.look_seconds = Histogram(
            "afina_reconcile_look_seconds", "Time of looks.", ["kind"], buckets=CALL_SECONDS, registry=registry
        )
        self.lag_seconds = Histogram(
            "afina_reconcile_lag_seconds", "How late looks began.", ["kind"], buckets=LAG_SECONDS, registry=registry
        )
        self.due = Gauge("afina_reconcile_due", "Resources that are due now and wait for a look.", ["kind"], registry=registry)
        self.resources = Gauge("afina_resources", "Resources by state.", ["kind", "state"], registry=registry)
        self.bytes = Counter(
            "afina_object_store_bytes_total", "Bytes of objects, read and written.", ["direction"], registry=registry
        )
        self.queue_length = Gauge(
            "afina_launcher_queue_length", "Jobs that wait for a place: the position of the last.", registry=registry
        )
        self.is_reachable = Gauge(
            "afina_dependency_up", "Whether what the program needs answers.", ["dependency"], registry=registry
        )
        self.ports: Mapping[str, PortMetrics] = {
            port: PortMetrics(
                Counter(
                    f"afina_{port}_operations_total",
                    "Operations; the outcome is ok or an error's reason.",
                    ["operation", "outcome"],
                    registry=registry,
                ),
                Histogram(
                    f"afina_{port}_operation_seconds",
                    "Time of operations.",
                    ["operation"],
                    buckets=CALL_SECONDS,
                    registry=registry,
                ),
            )
            for port in PORTS
        }

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


def outcome_of(error: BaseException | None) -> str:
    """Return how an operation ended, as a label: ok, or the reason, of which there are as many as the code names."""
    if error is None:
        return OK
    return error.reason if isinstance(error, AfinaError) else type(error).__name__
