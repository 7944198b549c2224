"""The result of an evaluation: scores and comparisons in a manifest, every answer in a file beside it, an object an item."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import ObjectStore
from services.evaluator.scoring.answers import Answer, Way
from services.evaluator.scoring.choice import Judged
from services.evaluator.scoring.measured import Measured
from services.evaluator.worker.prompts import Row
from services.evaluator.worker.questions import Asked
from services.evaluator.worker.spec import Spec

ANSWERS = "answers.jsonl"


def publish(store: ObjectStore, spec: Spec, asked: Asked, phases: dict[str, float]) -> bool:
    """Score all ways and commit the manifest last; False where another attempt has published already."""
    measured = [Measured(way, spec.criteria, spec.labels) for way in asked.ways]
    choosing = [Measured(way, spec.criteria, spec.labels) for way in asked.choosing_ways]
    judged = Judged(_by_name(measured), _by_name(choosing))
    with tempfile.TemporaryFile() as file:
        file.writelines(_lines("validation", asked.choosing_items, choosing))
        file.writelines(_lines(spec.part, asked.items, measured))
        file.seek(0)
        answers = store.put(spec.result_prefix, file)
    data = {
        "evaluation": spec.evaluation,
        "attempt": spec.attempt,
        "labels": list(spec.labels),
        "scores": [asdict(score) for score in judged.scores()],
        "comparisons": [asdict(comparison) for comparison in judged.comparisons()],
        "item_count": len(asked.items),
        "phases": phases,
    }
    manifest = Manifest("evaluation", (ManifestFile(ANSWERS, answers),), data)
    return store.commit(spec.manifest_key, manifest.to_json())


def _by_name(ways: Sequence[Measured]) -> dict[tuple[str, str], Measured]:
    return {(one.way.model, one.way.prompt): one for one in ways}


def _lines(part: str, rows: Sequence[Row], ways: Sequence[Measured]) -> Iterator[bytes]:
    for item, row in enumerate(rows):
        answers = [_told(one.way, one.way.answers[item], _scores(one, item)) for one in ways]
        line = {"part": part, "item": item, "question": row.question, "expected": row.reference, "answers": answers}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _scores(measured: Measured, item: int) -> dict[str, float]:
    """Return the item's own score in each metric that has one, 0..1; right or wrong is 1 or 0."""
    found = {name: float(rights[item]) for name, rights in measured.rights.items()}
    for graded in measured.graded:
        found.update({name: round(float(scores[item]), 6) for name, scores in graded.items.items()})
    return found


def _told(way: Way, answer: Answer, scores: dict[str, float]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "model": way.model,
        "prompt": way.prompt,
        "answer": answer.answer,
        "label": answer.label,
        "is_right": answer.is_right,
        "scores": scores,
        "finish_reason": answer.finish_reason or None,
    }
    return told if answer.logprobs is None else {**told, "logprobs": answer.logprobs}
