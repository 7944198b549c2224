"""Turns what the demo got from the services into its report; all numbers are theirs."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from afina.v1 import dataset_pb2, endpoint_pb2, evaluation_pb2, fine_tuning_job_pb2

from services.cli.call import last
from services.cli.output import document, size
from services.cli.report import MAJORITY, Comparison, Example, Report, ScoredPrompt
from services.cli.stage import Stage
from services.cli.verdicts import verdict_of
from services.common.backends import choose
from services.common.ports.manifest import Manifest


@dataclass(frozen=True)
class Outcome:
    """What the demo's phases gave."""

    dataset: dataset_pb2.Dataset
    job: fine_tuning_job_pb2.FineTuningJob
    evaluation: evaluation_pb2.Evaluation
    endpoint: endpoint_pb2.Endpoint
    verdict: str
    examples: list[Example]
    memory_bytes: dict[str, int]


def build(stage: Stage, outcome: Outcome, base: str, endpoint: str, prompt: str) -> Report:
    """Return the report. Raises: ArtifactNotFound (the job's manifest is gone)."""
    job, evaluation = outcome.job, outcome.evaluation
    store = choose.object_store(stage.home.object_store)
    manifest = Manifest.from_json(store.read(f"jobs/{last(job.name)}/manifest.json"))
    return Report(
        base=base,
        model=job.fine_tuned_model,
        endpoint=endpoint,
        is_promoted=outcome.endpoint.model == job.model,
        verdict=outcome.verdict,
        gateway_url=stage.home.gateway_url,
        api_key_file=str(stage.home.api_key),
        create_time=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        labels=tuple(evaluation.labels),
        scores=tuple(_score(score, job.model) for score in evaluation.scores if _is_shown(score, evaluation, job.model)),
        comparison=_comparison(evaluation, job.model),
        metrics=tuple(manifest.data.get("metrics", ())),
        validation=tuple(manifest.data.get("validation", ())),
        phases=tuple(stage.phases),
        memory_bytes=_with_worker(outcome.memory_bytes, manifest),
        examples=tuple(outcome.examples),
        prompt=prompt,
        facts=_facts(stage, outcome, manifest),
        is_chosen_on_validation=evaluation.choice == evaluation_pb2.Evaluation.CHOICE_VALIDATION,
    )


def job_times(job: fine_tuning_job_pb2.FineTuningJob, events: list[Any]) -> tuple[float, float]:
    """Return the seconds from a job's creation to its proving, and from there to its end."""
    proving = [e.create_time for e in events if e.type == "STATE_CHANGED" and dict(e.data).get("state") == "PROVING"]
    turn = proving[0] if proving else job.end_time
    return seconds_between(job.create_time, turn), seconds_between(turn, job.end_time)


def seconds_between(begin: Any, end: Any) -> float:
    """Return the seconds from one protobuf time to another."""
    return float((end.ToDatetime() - begin.ToDatetime()).total_seconds())


def _is_shown(score: evaluation_pb2.Score, evaluation: evaluation_pb2.Evaluation, tuned: str) -> bool:
    """Leave out a champion other than base and tuned model: it is between it and the gate."""
    return score.model in ("", evaluation.subjects[0].model, tuned)


def _score(score: evaluation_pb2.Score, tuned: str) -> ScoredPrompt:
    role = MAJORITY if not score.model or score.prompt == MAJORITY else "tuned" if score.model == tuned else "base"
    return ScoredPrompt(
        role=role,
        model=score.model,
        prompt=score.prompt,
        accuracy=score.accuracy,
        low=score.accuracy_low,
        high=score.accuracy_high,
        exact_match=score.exact_match,
        macro_f1=score.macro_f1,
        item_count=score.item_count,
        confusion=tuple(score.confusion),
    )


def _comparison(evaluation: evaluation_pb2.Evaluation, tuned: str) -> Comparison | None:
    base = evaluation.subjects[0].model
    for pair in evaluation.comparisons:
        if pair.candidate == tuned and pair.champion == base:
            return Comparison(
                champion=pair.champion_prompt,
                candidate=pair.candidate_prompt,
                item_count=pair.item_count,
                candidate_only_count=pair.candidate_only_count,
                champion_only_count=pair.champion_only_count,
                effect=pair.effect,
                low=pair.effect_low,
                high=pair.effect_high,
                p_value=pair.p_value,
            )
    return None


def _with_worker(memory_bytes: dict[str, int], manifest: Manifest) -> dict[str, int]:
    """Add what the training worker says of itself: it may have run before this demo began to look."""
    worker = max(memory_bytes.get("trainer.worker", 0), int(manifest.data.get("peak_memory_bytes") or 0))
    return {**memory_bytes, "trainer.worker": worker} if worker else memory_bytes


def _facts(stage: Stage, outcome: Outcome, manifest: Manifest) -> dict[str, str]:
    """Return provenance: what, by digest, came of what, where, with which versions."""
    dataset, job, data = outcome.dataset, outcome.job, manifest.data
    labels = ", ".join(f"{count} {label}" for label, count in sorted(dataset.label_counts.items()))
    rows = f"{dataset.train.row_count} train, {dataset.validation.row_count} validation, {dataset.test.row_count} held out"
    speeds = [metric["tokens_per_s"] for metric in data.get("metrics", ()) if metric.get("tokens_per_s")]
    learned = f"{data.get('steps')} steps, {data.get('trained_tokens')} tokens, best checkpoint at step {data.get('best_step')}"
    if speeds:
        learned += f", {sorted(speeds)[len(speeds) // 2]:.0f} tokens/s (median)"
    recipe = {k: v for k, v in document(job.effective_recipe).items() if v != "UNSPECIFIED"}
    return {
        "model": f"{job.fine_tuned_model} · digest {manifest.digest} · {size(manifest.size_bytes)}",
        "base": f"{job.base_model} · digest {data.get('base', {}).get('digest', '')}",
        "dataset": f"{dataset.name} · digest {dataset.digest} · {rows} · {labels}",
        "recipe": ", ".join(f"{key} {_plain(value)}" for key, value in recipe.items()),
        "training": learned,
        "training phases": ", ".join(f"{key.removesuffix('_s')} {value:.1f} s" for key, value in data.get("phases", {}).items()),
        "verdict": verdict_of(job) or "none",
        "evaluation": f"{outcome.evaluation.name} · {outcome.evaluation.suite}",
        "environment": ", ".join(f"{key} {value}" for key, value in data.get("environment", {}).items()),
        "machine": f"{os.cpu_count()} CPU cores",
    }


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"').lower()
