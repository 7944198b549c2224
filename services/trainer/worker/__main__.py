"""Runs one attempt at one fine-tuning job: `python -m services.trainer.worker`, with its spec and its token in the environment.

`--check` imports everything and leaves: it proves an image.
"""

import contextlib
import json
import logging
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from services.common import settings, telemetry
from services.common.backends import choose
from services.common.errors import AfinaError, InvalidInput, Unauthenticated, Unavailable
from services.common.ports.object_store import ObjectStore
from services.common.transport.progress import ProgressReporter
from services.trainer.worker import attempt
from services.trainer.worker.loop import Stopped
from services.trainer.worker.spec import Spec

DONE, CRASHED, INVALID, STOPPED = 0, 1, 64, 75
TOLD_VIOLATIONS = 50  # as many as a status carries; the count is told in full

_logger = logging.getLogger("afina.trainer.worker")


@dataclass(frozen=True)
class Settings:
    """What the launcher tells a worker."""

    spec: str = settings.setting("AFINA_SPEC", "key of the spec in the object store")
    token: str = settings.setting("AFINA_ATTEMPT_TOKEN", "secret of this attempt", secret=True)
    store: str = settings.setting("OBJECT_STORE", "URL of the object store")
    report_to: str = settings.setting("AFINA_REPORT_TO", "host:port of the trainer")
    cache: str = settings.setting("AFINA_CACHE", "folder for bases, fetched by digest")
    checkpoint_interval_s: float = settings.setting(
        "AFINA_CHECKPOINT_INTERVAL_S", "seconds of training between two checkpoints", default=30.0
    )


def main() -> int:
    """Run the attempt and return its exit code."""
    telemetry.configure("trainer.worker")
    disable_progress_bar()
    told = settings.parse(Settings)
    telemetry.log(_logger, logging.INFO, "begins", **settings.masked(told))
    is_terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_terminated.set())
    return run(told, choose.object_store(told.store), is_terminated)


def run(told: Settings, store: ObjectStore, is_terminated: threading.Event) -> int:
    """Work, and return the exit code.

    Who is cut off from the store, for longer than it waits, leaves as one that was told to, and is no crash: whoever
    launches the next one needs the same store, so that is not before it is back. A full disk waits for nobody.
    """
    try:
        return _work(told, store, is_terminated)
    except Unavailable as error:
        telemetry.log(_logger, logging.ERROR, "cut off", reason=error.reason, error=error.message)
        return CRASHED if error.reason == "DISK_FULL" else STOPPED


def _work(told: Settings, store: ObjectStore, is_terminated: threading.Event) -> int:
    """Return the exit code. Raises: Unavailable (the store stays away)."""
    try:
        spec = Spec.from_json(store.read(told.spec))
    except Unavailable:
        raise
    except AfinaError as error:  # without it nobody can be told but the log: most likely the attempt is over
        telemetry.log(_logger, logging.ERROR, "gave up", reason=error.reason, error=error.message)
        return CRASHED
    reporter = ProgressReporter(told.report_to, spec.job, spec.attempt, told.token)
    try:
        attempt.run(
            spec,
            store,
            Path(told.cache),
            reporter.event,
            lambda: is_terminated.is_set() or reporter.stop_requested,
            told.checkpoint_interval_s,
        )
    except Stopped:
        return STOPPED
    except Unavailable:
        raise
    except AfinaError as error:
        _say_why(store, spec, error)
        return INVALID if isinstance(error, InvalidInput) else CRASHED
    finally:
        reporter.close()
    return DONE


def _say_why(store: ObjectStore, spec: Spec, error: AfinaError) -> None:
    document = {
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": [asdict(violation) for violation in error.violations[:TOLD_VIOLATIONS]],
        "violation_count": error.violation_count,
    }
    if isinstance(error, InvalidInput):
        with contextlib.suppress(Unauthenticated, Unavailable):  # nobody listens any more, or for now
            store.commit(spec.error_key, json.dumps(document).encode())
    telemetry.log(_logger, logging.ERROR, "gave up", reason=error.reason, error=error.message)


if __name__ == "__main__":
    sys.exit(0 if "--check" in sys.argv else main())
