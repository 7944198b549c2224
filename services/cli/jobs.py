"""`afina jobs`: start a fine-tuning, watch it, stop it."""

import uuid
from typing import Any

import click
from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import fine_tuning_job_pb2_grpc

from services.cli.call import Call, every, last, verb
from services.cli.output import age, document, print_json, short
from services.cli.verdicts import answer_of, verdict_of
from services.cli.watching import state_of, watch_job
from services.common.transport.grpc_client import Client

EVENT_PAGE = 1000
FAILED = 1
# Options of `create`: the recipe's fields by their own names.
RECIPE_OPTIONS: dict[str, tuple[type, str]] = {
    "learning_rate": (float, "Peak learning rate, (0, 1]; usual 1e-5 to 1e-3."),
    "learning_rate_multiplier": (float, "Times the automatic learning rate, instead of learning-rate."),
    "epochs": (int, "Passes over the training rows, 1 to 50."),
    "batch_size": (int, "Rows per step, 1 to 1024."),
    "rank": (int, "LoRA rank, 1 to 256."),
    "alpha": (float, "LoRA scaling numerator."),
    "dropout": (float, "LoRA dropout, [0, 1)."),
    "warmup_fraction": (float, "Share of the steps in which the rate rises."),
    "weight_decay": (float, "AdamW weight decay."),
    "max_gradient_norm": (float, "Gradients are scaled down to this norm."),
    "max_length": (int, "Longest row in tokens; a longer one fails the job, and is never cut."),
    "validation_interval_steps": (int, "Steps between two validations."),
    "seed": (int, "Seed of order, initialisation and dropout."),
    "early_stopping_patience": (int, "Stop after so many validations without a lower loss."),
    "published_checkpoint_count": (int, "Publish the adapters of so many last epochs, too; 0 to 10."),
}


@click.group("jobs")
def group() -> None:
    """Fine-tuning jobs: dataset + base model + recipe become a model."""


def _recipe_options(function: Any) -> Any:
    for name, (kind, meaning) in reversed(RECIPE_OPTIONS.items()):
        function = click.option(f"--{name.replace('_', '-')}", name, type=kind, default=None, help=meaning)(function)
    return function


@verb(group, "create")
@click.option("--base-model", required=True, help="A base's id or alias; `afina models list` shows them.")
@click.option("--dataset", default="", help="What to learn from: a dataset …")
@click.option("--file", "training_file", default="", help="… or an upload.")
@click.option("--suffix", default="", help="Part of the model's name.")
@click.option("--target-module", "target_modules", multiple=True, help="A layer that gets an adapter; repeatable.")
@click.option("--schedule", type=click.Choice(["cosine", "linear", "constant"]), default=None, help="How the rate falls.")
@click.option("--request-id", default=lambda: str(uuid.uuid4()), help="Calls with the same one create once; a new one each time.")
@click.option("--watch", "wants_watch", is_flag=True, help="Stay and show the progress.")
@click.option("--evaluate/--no-evaluate", default=True, help="Compare the model with its base at the end.", show_default=True)
@click.option("--suite", default="", help="What is asked then; the dataset's default suite.")
@click.option("--candidate-prompt", "candidate_prompts", multiple=True, help="Of that suite, how the model is asked; repeatable.")
@_recipe_options
async def create(
    call: Call,
    base_model: str,
    dataset: str,
    training_file: str,
    suffix: str,
    target_modules: tuple[str, ...],
    schedule: str | None,
    request_id: str,
    wants_watch: bool,
    evaluate: bool,
    suite: str,
    candidate_prompts: tuple[str, ...],
    **asked: Any,
) -> int:
    """Start a job. What the recipe leaves out is chosen, and an event says how."""
    recipe = pb.Recipe(
        target_modules=target_modules,
        schedule=f"SCHEDULE_{schedule.upper()}" if schedule else None,
        **{name: value for name, value in asked.items() if value is not None},
    )
    job = pb.FineTuningJob(
        base_model=base_model,
        dataset=call.name("datasets", dataset) if dataset else "",
        training_file=call.name("files", training_file) if training_file else "",
        recipe=recipe,
        suffix=suffix,
        evaluation_settings=pb.JobEvaluation(
            is_disabled=not evaluate,
            suite=call.name("suites", suite) if suite else "",
            candidate_prompts=candidate_prompts,
        ),
    )
    jobs = client(call)
    request = pb.CreateFineTuningJobRequest(parent=call.parent, fine_tuning_job=job, request_id=request_id)
    created = await jobs.CreateFineTuningJob(request)
    if wants_watch:
        return await _watch(call, jobs, created.name)
    show(call, created)
    return 0


@verb(group, "list")
async def list_(call: Call) -> None:
    """List jobs, newest first."""
    request = pb.ListFineTuningJobsRequest(parent=call.parent)
    found = await every(client(call).ListFineTuningJobs, request, "fine_tuning_jobs")
    columns = {
        "id": lambda j: last(j.name),
        "state": state_of,
        "base": lambda j: j.base_model,
        "step": lambda j: f"{j.progress.step}/{j.progress.total_steps}" if j.progress.total_steps else "",
        "loss": lambda j: f"{j.progress.train_loss:.3f}" if j.progress.step else "",
        "model": lambda j: j.fine_tuned_model,
        "verdict": lambda j: answer_of(j) or ("to come" if j.awaits_verdict else ""),
        "created": lambda j: age(j.create_time),
    }
    call.show_list(found, columns, "There are no jobs yet; start one with `afina jobs create`.")


@verb(group, "get")
@click.argument("job")
async def get(call: Call, job: str) -> None:
    """Show one job."""
    show(call, await client(call).GetFineTuningJob(pb.GetFineTuningJobRequest(name=call.name("fineTuningJobs", job))))


@verb(group, "events")
@click.argument("job")
@click.option("--steps/--no-steps", default=False, help="Also the event of every step.")
async def events(call: Call, job: str, steps: bool) -> None:
    """List what happened to a job, oldest first."""
    found = await all_events(client(call), call.name("fineTuningJobs", job))
    shown = [event for event in found if steps or event.type != "STEP"]
    columns = {
        "#": lambda e: e.sequence,
        "when": lambda e: e.create_time.ToDatetime().strftime("%H:%M:%S"),
        "what": lambda e: e.type,
        "message": lambda e: e.message,
    }
    call.show_list(shown, columns, "Nothing has happened yet.")


@verb(group, "watch")
@click.argument("job")
async def watch(call: Call, job: str) -> int:
    """Show a job's progress until it has ended, and the verdict on its model stands where there will be one.

    Exit code 1 if the job did not succeed. Ctrl-C stops the watching only.
    """
    return await _watch(call, client(call), call.name("fineTuningJobs", job))


@verb(group, "cancel")
@click.argument("job")
async def cancel(call: Call, job: str) -> None:
    """Ask a job to stop."""
    request = pb.CancelFineTuningJobRequest(name=call.name("fineTuningJobs", job))
    show(call, await client(call).CancelFineTuningJob(request))


@verb(group, "pause")
@click.argument("job")
async def pause(call: Call, job: str) -> None:
    """Have a job save a checkpoint and rest; other jobs get its place."""
    request = pb.PauseFineTuningJobRequest(name=call.name("fineTuningJobs", job))
    show(call, await client(call).PauseFineTuningJob(request))


@verb(group, "resume")
@click.argument("job")
async def resume(call: Call, job: str) -> None:
    """Let a paused job go on from its checkpoint, to the same weights as without the pause."""
    request = pb.ResumeFineTuningJobRequest(name=call.name("fineTuningJobs", job))
    show(call, await client(call).ResumeFineTuningJob(request))


def client(call: Call) -> Client:
    """The jobs' service."""
    return call.client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, "trainer")


async def all_events(jobs: Client, name: str) -> list[Any]:
    """Return a job's whole history. Raises: NotFound."""
    found: list[Any] = []
    while True:
        after = found[-1].sequence if found else 0
        request = pb.ListFineTuningJobEventsRequest(name=name, after_sequence=after, page_size=EVENT_PAGE)
        page = (await jobs.ListFineTuningJobEvents(request)).events
        found += page
        if len(page) < EVENT_PAGE:
            return found


def show(call: Call, job: pb.FineTuningJob) -> None:
    """Print one job."""
    progress = job.progress
    recipe = job.effective_recipe if job.HasField("effective_recipe") else job.recipe
    call.show(
        job,
        {
            "name": job.name,
            "state": state_of(job),
            "error": job.error.message,
            "base": job.base_model,
            "dataset": job.dataset or job.training_file,
            "recipe": ", ".join(f"{k}={_plain(v)}" for k, v in document(recipe).items() if v not in ([], "UNSPECIFIED")),
            "step": f"{progress.step} of {progress.total_steps}" if progress.total_steps else "",
            "loss": f"{progress.train_loss:.4f}" if progress.step else "",
            "validation loss": _validation_loss(job),
            "attempts": job.attempt or "",
            "model": job.fine_tuned_model or job.model,
            "verdict": verdict_of(job) or ("to come: it is compared with its base" if job.awaits_verdict else ""),
            "evaluation": job.evaluation,
            "checkpoints": ", ".join(checkpoint.public_id for checkpoint in job.checkpoints),
            "metrics": ", ".join(job.result_files),
            "created": age(job.create_time),
        },
    )


async def _watch(call: Call, jobs: Client, name: str) -> int:
    job = await watch_job(call.err if call.as_json else call.out, jobs, name)
    if call.as_json:
        print_json(call.out, document(job))
    else:
        show(call, job)
    return 0 if short(pb.FineTuningJob.State.Name(job.state)) == "SUCCEEDED" else FAILED


def _validation_loss(job: pb.FineTuningJob) -> str:
    """Return that of the weights that were published, and while it trains the latest."""
    told = next((told for told in (job, job.progress) if told.HasField("validation_loss")), None)
    return f"{told.validation_loss:.4f}" if told is not None else ""


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
