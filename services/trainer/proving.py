"""What follows training: the Model is registered, then what else the job leaves behind, and the Model is proven.

What follows success is in `verdicts`.

A member of a sweep is not proven here: its sweep has the winner proven.

One thing a look, each safe to repeat: registering by digest and keeping a file by its request id make nothing twice.
"""

import asyncio
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.common import errors
from services.common.names import project_of
from services.common.ports.database import NewEvent
from services.common.ports.manifest import Manifest
from services.common.reconcile import Change
from services.trainer.job import Job, now
from services.trainer.use_cases import Trainer

PROVE_LOOKS = 90  # of up to 20 s each; looks, not time: a machine that was off for a night has not looked
METRICS_NAME = "step_metrics.csv"
# Source: the columns of OpenAI's own result files, as their fine-tuning guide shows them.
METRICS_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "valid_loss": "validation_loss",
    "valid_mean_token_accuracy": "validation_accuracy",
}


async def prove(trainer: Trainer, job: Job) -> Change:
    """Take the next step towards a proven model. Raises: InvalidInput, NotFound, WrongState (the job fails)."""
    if not job.model:
        return await _register(trainer, job)
    manifest = Manifest.from_json(await asyncio.to_thread(trainer.store.read, job.manifest_key))
    if not job.result_file:
        return await _keep_metrics(trainer, replace(job, validation_loss=_validation_loss(manifest)), manifest)
    published = manifest.data.get("published_checkpoints", [])
    if len(job.checkpoints) < len(published):
        return await _register_checkpoint(trainer, job, published[len(job.checkpoints)])
    if job.sweep:
        return _succeeded(job, f"The job has succeeded: {job.fine_tuned_model}, to be proven if it wins or is asked for.")
    return await _await_proof(trainer, job)


def metrics_csv(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the metrics of each step as OpenAI's result files give them; what was not measured is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(METRICS_COLUMNS)
    writer.writerows([metric.get(name, "") for name in METRICS_COLUMNS.values()] for metric in metrics)
    return text.getvalue().encode()


def state_event(job: Job, message: str, level: str = "INFO") -> NewEvent:
    """Return the event of a job that has come into its state."""
    return NewEvent("STATE_CHANGED", message, level, {"state": job.state})


async def _register(trainer: Trainer, job: Job) -> Change:
    model, public_id = await trainer.peers.register(project_of(job.name), job.manifest_key, job.suffix)
    event = NewEvent("MODEL_REGISTERED", f"The model is registered as {public_id}.", data={"model": model})
    return _changed(job, event, model=model, fine_tuned_model=public_id)


def _validation_loss(manifest: Manifest) -> float | None:
    """Return the loss over the validation rows of the weights that are published; None where nothing was measured."""
    measured = {told["step"]: told["loss"] for told in manifest.data.get("validation", [])}
    return measured.get(manifest.data.get("best_step"))


async def _keep_metrics(trainer: Trainer, job: Job, manifest: Manifest) -> Change:
    project, content = project_of(job.name), metrics_csv(manifest.data.get("metrics", []))
    file = await trainer.peers.keep_results(project, METRICS_NAME, content, f"{job.id}/{METRICS_NAME}")
    return _changed(
        job, NewEvent("RESULTS_KEPT", f"The metrics of each step are in {file}.", data={"file": file}), result_file=file
    )


async def _register_checkpoint(trainer: Trainer, job: Job, told: Mapping[str, Any]) -> Change:
    """Register an adapter that was published in the middle; one that can't be served costs a warning, not the job."""
    step = told["step"]
    try:
        model, public_id = await trainer.peers.register(project_of(job.name), told["manifest_key"], job.suffix, step)
    except errors.InvalidInput as error:
        model, public_id = "", ""
        event = NewEvent("WARNING", f"The adapter of step {step} can't be served: {error.message}", "WARNING", {"step": step})
    else:
        data = {"step": step, "model": model, "public_id": public_id}
        event = NewEvent("CHECKPOINT_REGISTERED", f"The adapter of step {step} is registered as {public_id}.", data=data)
    kept = {"step": step, "model": model, "public_id": public_id, "metrics": told["metrics"], "create_time": now()}
    return _changed(job, event, checkpoints=[*job.checkpoints, kept])


async def _await_proof(trainer: Trainer, job: Job) -> Change:
    """Wait, look by look, until the model is proven on a server."""
    proof, look_count = await look(trainer, job.model, job.prove_look_count)
    if proof is None:
        return Change(replace(job, prove_look_count=look_count).to_document(), 1.0)
    proven = NewEvent("MODEL_PROVEN", "The server's answers are the model's.", data=proof)
    return _succeeded(job, f"The job has succeeded: {job.fine_tuned_model}.", [proven])


def _succeeded(job: Job, message: str, told: Sequence[NewEvent] = ()) -> Change:
    succeeded = job.succeed()
    events = [*told, state_event(succeeded, message), *_unjudged(job)]
    return Change(succeeded.to_document(), 0.0 if succeeded.awaits_verdict else None, events)


def _unjudged(job: Job) -> list[NewEvent]:
    """Say why there will be no verdict, where somebody may wait for one."""
    if job.is_to_be_judged or job.sweep or job.evaluation_settings.get("is_disabled"):
        return []
    told = (
        "No rows were held out, so the model is not compared with its base; under 50 rows none are, unless a split asks for it."
    )
    return [NewEvent("NOT_EVALUATED", told)]


async def look(trainer: Trainer, model: str, look_count: int) -> tuple[dict[str, Any] | None, int]:
    """Ask a server once to prove a model. Returns: the proof, None where there is none yet; and how many have looked.

    Raises: WrongState (no server can, in so many looks; or the proof failed), NotFound, InvalidInput.
    """
    try:
        return await trainer.peers.prove(model), look_count
    except errors.Unavailable as error:
        if error.reason in ("UNREACHABLE", "NO_ROOM"):  # nobody looked
            return None, look_count
        if look_count >= PROVE_LOOKS:
            raise errors.WrongState(
                f"No server could load {model} in {look_count} looks: {error.message}", reason="NOT_SERVED"
            ) from error
        return None, look_count + 1


def _changed(job: Job, event: NewEvent, **changes: Any) -> Change:
    return Change(replace(job, **changes).to_document(), 0.0, [event])
