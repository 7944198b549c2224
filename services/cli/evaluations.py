"""`afina evaluations`: run a suite on models, watch it, read the scores with their uncertainty."""

import asyncio
import uuid
from pathlib import Path

import click
from afina.v1 import evaluation_pb2 as pb
from afina.v1 import evaluation_pb2_grpc
from rich.console import RenderableType

from services.cli import evaluation_tables
from services.cli.call import Call, every, last, verb
from services.cli.download import download_file
from services.cli.output import age, size
from services.cli.watching import state_of, watch_evaluation
from services.common.backends import choose
from services.common.errors import WrongState
from services.common.ports.object_store import Artifact
from services.common.transport.grpc_client import Client

FAILED = 1


@click.group("evaluations")
def group() -> None:
    """One suite run on one or more models: scores with their uncertainty."""


@verb(group, "create")
@click.option("--suite", required=True, help="What is asked.")
@click.option("--model", "asked", multiple=True, required=True, help="MODEL or MODEL=PROMPT,PROMPT; repeatable.")
@click.option("--request-id", default=lambda: str(uuid.uuid4()), help="Calls with the same one create once; a new one each time.")
@click.option("--watch", "wants_watch", is_flag=True, help="Stay and show the progress.")
async def create(call: Call, suite: str, asked: tuple[str, ...], request_id: str, wants_watch: bool) -> int:
    """Start an evaluation of models, by public id or resource name, with all or some of the suite's prompts."""
    subjects = []
    for text in asked:
        model, _, prompts = text.partition("=")
        subjects.append(pb.Subject(model=model, prompts=[prompt for prompt in prompts.split(",") if prompt]))
    evaluation = pb.Evaluation(suite=call.name("suites", suite), subjects=subjects)
    request = pb.CreateEvaluationRequest(parent=call.parent, evaluation=evaluation, request_id=request_id)
    created = await client(call).CreateEvaluation(request)
    if wants_watch:
        return await _watch(call, created.name)
    show(call, created)
    return 0


@verb(group, "list")
async def list_(call: Call) -> None:
    """List evaluations, newest first."""
    found = await every(client(call).ListEvaluations, pb.ListEvaluationsRequest(parent=call.parent), "evaluations")
    columns = {
        "id": lambda e: last(e.name),
        "state": state_of,
        "suite": lambda e: last(e.suite),
        "models": lambda e: ", ".join(last(subject.model) for subject in e.subjects),
        "answered": lambda e: f"{e.answered_count}/{e.question_count}",
        "created": lambda e: age(e.create_time),
    }
    call.show_list(found, columns, "There are no evaluations yet; start one with `afina evaluations create`.")


@verb(group, "get")
@click.argument("evaluation")
@click.option("--all", "in_full", is_flag=True, help="Also each label, and every metric and test of the comparisons.")
async def get(call: Call, evaluation: str, in_full: bool) -> None:
    """Show one evaluation: scores with their uncertainty, confusion matrices, comparisons."""
    request = pb.GetEvaluationRequest(name=call.name("evaluations", evaluation))
    show(call, await client(call).GetEvaluation(request), in_full=in_full)


@verb(group, "download")
@click.argument("evaluation")
@click.option("-o", "--output", "path", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A file to be made.")
async def download(call: Call, evaluation: str, path: Path) -> None:
    """Download all answers, item by item, as JSON lines: question, expected, and each model's answer with its scores."""
    found = await client(call).GetEvaluation(pb.GetEvaluationRequest(name=call.name("evaluations", evaluation)))
    if not found.answers.key:
        text = f"{found.name} is {state_of(found)} and has no answers; wait until it has succeeded."
        raise WrongState(text, metadata={"state": state_of(found)})
    store = choose.object_store(call.home.object_store)
    answers = Artifact(found.answers.key, found.answers.size_bytes, found.answers.sha256)
    await asyncio.to_thread(download_file, store, answers, path)
    call.show(found, {"file": path, "size": size(found.answers.size_bytes), "sha256": found.answers.sha256})


@verb(group, "watch")
@click.argument("evaluation")
async def watch(call: Call, evaluation: str) -> int:
    """Show the progress until it has ended; exit code 1 if it did not succeed. Ctrl-C stops the watching only."""
    return await _watch(call, call.name("evaluations", evaluation))


@verb(group, "cancel")
@click.argument("evaluation")
async def cancel(call: Call, evaluation: str) -> None:
    """Ask an evaluation to stop."""
    request = pb.CancelEvaluationRequest(name=call.name("evaluations", evaluation))
    show(call, await client(call).CancelEvaluation(request))


def client(call: Call) -> Client:
    """The evaluations' service."""
    return call.client(evaluation_pb2_grpc.EvaluationServiceStub, "evaluator")


def show(call: Call, evaluation: pb.Evaluation, *, in_full: bool = False) -> None:
    """Print one evaluation: where it stands, then what came out; `in_full` with every metric and test."""
    call.show(
        evaluation,
        {
            "name": evaluation.name,
            "state": state_of(evaluation),
            "error": evaluation.error.message,
            "suite": evaluation.suite,
            "models": ", ".join(subject.model for subject in evaluation.subjects),
            "seen before": "\n".join(f"{last(one.model)}: {one.message}" for one in evaluation.held_out),
            "answered": f"{evaluation.answered_count} of {evaluation.question_count}",
            "created": age(evaluation.create_time),
        },
    )
    if call.as_json or not evaluation.scores:
        return
    call.out.print()
    call.out.print(evaluation_tables.scores(evaluation))
    if told := evaluation_tables.CHOICES.get(evaluation.choice):
        call.out.print(told, style="dim", markup=False)
    tables: list[RenderableType] = list(evaluation_tables.confusions(evaluation))
    if in_full and evaluation.labels:
        tables.append(evaluation_tables.labels(evaluation))
    if evaluation.comparisons:
        tables.append(evaluation_tables.comparisons(evaluation, in_full=in_full))
    for shown in tables:
        call.out.print()
        call.out.print(shown)


async def _watch(call: Call, name: str) -> int:
    evaluation = await watch_evaluation(call.err if call.as_json else call.out, client(call), name)
    show(call, evaluation)
    return 0 if state_of(evaluation) == "SUCCEEDED" else FAILED
