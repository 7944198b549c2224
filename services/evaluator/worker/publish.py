"""The result of an evaluation: scores and comparisons in a manifest, every answer in a file beside it."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import ObjectStore
from services.evaluator.scoring.score import Way, compare_all, score
from services.evaluator.worker.spec import Spec

ANSWERS = "answers.jsonl"


def publish(store: ObjectStore, spec: Spec, ways: Sequence[Way], phases: dict[str, float]) -> bool:
    """Score all ways and commit the manifest last; False where another attempt has published already."""
    answers = store.put(spec.result_prefix, io.BytesIO(_lines(ways)))
    data = {
        "evaluation": spec.evaluation,
        "attempt": spec.attempt,
        "labels": list(spec.labels),
        "scores": [asdict(score(way, spec.labels)) for way in ways],
        "comparisons": [asdict(comparison) for comparison in compare_all(ways)],
        "item_count": len(ways[0].answers) if ways else 0,
        "phases": phases,
    }
    manifest = Manifest("evaluation", (ManifestFile(ANSWERS, answers),), data)
    return store.commit(spec.manifest_key, manifest.to_json())


def _lines(ways: Sequence[Way]) -> bytes:
    lines = []
    for way in ways:
        for answer in way.answers:
            line: dict[str, Any] = {"model": way.model, "prompt": way.prompt, **asdict(answer)}
            if answer.logprobs is None:
                del line["logprobs"]
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode()
