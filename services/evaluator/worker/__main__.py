"""Runs one attempt at one evaluation: `python -m services.evaluator.worker`, with its spec and its secrets in the environment.

`--check` imports everything and leaves: it proves an image.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from services.common import settings, telemetry
from services.common.backends import choose
from services.common.errors import AfinaError, InvalidInput, Unauthenticated, Unavailable
from services.common.ports.manifest import Manifest
from services.common.ports.object_store import Artifact, ObjectStore
from services.common.transport.progress import ProgressReporter
from services.evaluator.sample import sample
from services.evaluator.worker.asking import PARALLEL, Gateway, open_client
from services.evaluator.worker.kept import Kept
from services.evaluator.worker.prompts import Row, labelled, read_rows
from services.evaluator.worker.publish import publish
from services.evaluator.worker.questions import Asked, Questions, Stopped
from services.evaluator.worker.spec import Base, Spec
from services.evaluator.worker.tokenizer import ChatTokenizer, fetch_tokenizer

DONE, CRASHED, INVALID, STOPPED = 0, 1, 64, 75
REPORT_INTERVAL_S = 0.5
TOLD_VIOLATIONS = 50  # what a status can carry

_logger = logging.getLogger("afina.evaluator.worker")


@dataclass(frozen=True)
class Settings:
    """What the launcher tells a worker."""

    spec: str = settings.setting("AFINA_SPEC", "key of the spec in the object store")
    token: str = settings.setting("AFINA_ATTEMPT_TOKEN", "secret of this attempt", secret=True)
    store: str = settings.setting("OBJECT_STORE", "URL of the object store")
    report_to: str = settings.setting("AFINA_REPORT_TO", "host:port of the evaluator")
    cache: str = settings.setting("AFINA_CACHE", "folder for what is fetched by digest")
    gateway_url: str = settings.setting("GATEWAY_URL", "root of the gateway's HTTP API")
    gateway_api_key: str = settings.setting("GATEWAY_API_KEY", "key for the gateway", secret=True)
    parallel: int = settings.setting("PARALLEL_QUESTIONS", "questions in flight at a time", default=PARALLEL)


class Progress:
    """Counts answers and tells the evaluator, not more often than it matters. Raises Stopped where it asks for that."""

    def __init__(self, reporter: ProgressReporter, total: int) -> None:
        self._reporter, self._total = reporter, total
        self._answered, self._told_s = 0, 0.0

    def answered(self, model: str, prompt: str) -> None:
        """Count one answer."""
        self._answered += 1
        now_s = time.monotonic()
        if self._answered == self._total or now_s - self._told_s >= REPORT_INTERVAL_S:
            self._told_s = now_s
            text = f"{self._answered} of {self._total} questions are answered."
            data = {"answered": self._answered, "total": self._total, "model": model, "prompt": prompt}
            self._reporter.event("ANSWERED", text, data)
        if self._reporter.stop_requested:
            raise Stopped("The evaluator asked to stop.")


async def evaluate(told: Settings, store: ObjectStore, spec: Spec, reporter: ProgressReporter) -> None:
    """Load, ask, score, publish. Raises: AfinaError."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    begin_s = time.monotonic()
    train = read_rows(_lines(store, spec.train), "train") if spec.train and spec.needs_training_rows else []
    items = _items(store, spec, spec.asked, spec.part)
    choosing = _items(store, spec, spec.choosing, "validation") if any(s.has_choice for s in spec.subjects) else []
    questions = Questions(spec, train, items, choosing, _tokenizers(told, store, spec))
    load_s = time.monotonic() - begin_s
    total = spec.question_count(len(items), len(choosing))
    reporter.event("LOADED", f"{total} questions are ready.", {"items": len(items), "total": total, "load_s": round(load_s, 3)})
    kept = Kept(store, spec)
    asked = await _ask(told, questions, kept, Progress(reporter, total))
    reporter.event("ASKED", "All questions are answered; the answers are scored.")
    phases = {"load_s": load_s, "ask_s": time.monotonic() - begin_s - load_s}
    first = publish(store, spec, asked, phases)
    text = "The scores are published." if first else "Another attempt has published already."
    reporter.event("PUBLISHED", text, {"manifest_key": spec.manifest_key})


async def _ask(told: Settings, questions: Questions, kept: Kept, progress: Progress) -> Asked:
    client = open_client(told.gateway_url, told.gateway_api_key)
    try:
        return await questions.ask_all(Gateway(client, parallel=max(1, told.parallel)), kept, progress.answered)
    finally:
        await client.close()


def _items(store: ObjectStore, spec: Spec, artifact: Artifact | None, part: str) -> list[Row]:
    if artifact is None:
        return []
    lines = _lines(store, artifact)
    asked = sample(len(lines), spec.max_items)
    kept = [line if place in asked else b"" for place, line in enumerate(lines)]  # so that the others keep their numbers
    return labelled(read_rows(kept, part), spec.labels, part)


def _lines(store: ObjectStore, artifact: Artifact) -> list[bytes]:
    return store.read_artifact(artifact).splitlines()


def _tokenizers(told: Settings, store: ObjectStore, spec: Spec) -> dict[Base, ChatTokenizer]:
    return {base: _tokenizer(store, base, Path(told.cache)) for base in spec.scored_bases}


def _tokenizer(store: ObjectStore, base: Base, cache: Path) -> ChatTokenizer:
    manifest = Manifest.from_json(store.read(base.manifest_key))
    return ChatTokenizer(fetch_tokenizer(store, manifest, cache), base.chat_template)


def _say_why(store: ObjectStore, spec: Spec, error: AfinaError) -> None:
    document = {
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": [asdict(violation) for violation in error.violations[:TOLD_VIOLATIONS]],
        "violation_count": error.violation_count,
    }
    with contextlib.suppress(Unauthenticated, Unavailable):  # nobody listens any more, or for now
        store.commit(spec.error_key, json.dumps(document).encode())
    telemetry.log(_logger, logging.ERROR, "gave up", reason=error.reason, error=error.message)


def main() -> int:
    """Run the attempt and return its exit code."""
    telemetry.configure("evaluator.worker")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells every request
    told = settings.parse(Settings)
    telemetry.log(_logger, logging.INFO, "begins", **settings.masked(told))
    store = choose.object_store(told.store)
    try:
        spec = Spec.from_json(store.read(told.spec))
    except AfinaError as error:  # without it nobody can be told but the log: the attempt is over, or the store is away
        telemetry.log(_logger, logging.ERROR, "gave up", reason=error.reason, error=error.message)
        return CRASHED
    reporter = ProgressReporter(told.report_to, spec.evaluation, spec.attempt, told.token)
    try:
        asyncio.run(evaluate(told, store, spec, reporter))
    except (Stopped, asyncio.CancelledError):
        return STOPPED
    except AfinaError as error:
        _say_why(store, spec, error)
        return INVALID if isinstance(error, InvalidInput) else CRASHED
    finally:
        reporter.close()
    return DONE


def check() -> int:
    """Import also what is imported only where it is wanted."""
    importlib.import_module("services.evaluator.scoring.rouge")
    return DONE


if __name__ == "__main__":
    sys.exit(check() if "--check" in sys.argv else main())
