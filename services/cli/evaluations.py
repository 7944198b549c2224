"""`afina evaluations`: run a suite on models, watch it, read the scores with their uncertainty."""

import uuid
from typing import Any

import click
from afina.v1 import evaluation_pb2 as pb
from afina.v1 import evaluation_pb2_grpc

from services.cli import models
from services.cli.call import Call, every, last, verb
from services.cli.output import age, table
from services.cli.watching import state_of, watch_evaluation
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
        found = await models.find(call, model)
        subjects.append(pb.Subject(model=found.name, prompts=[prompt for prompt in prompts.split(",") if prompt]))
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
async def get(call: Call, evaluation: str) -> None:
    """Show one evaluation with its scores."""
    request = pb.GetEvaluationRequest(name=call.name("evaluations", evaluation))
    show(call, await client(call).GetEvaluation(request))


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


def show(call: Call, evaluation: pb.Evaluation) -> None:
    """Print one evaluation: where it stands, then what came out."""
    call.show(
        evaluation,
        {
            "name": evaluation.name,
            "state": state_of(evaluation),
            "error": evaluation.error.message,
            "suite": evaluation.suite,
            "models": ", ".join(subject.model for subject in evaluation.subjects),
            "answered": f"{evaluation.answered_count} of {evaluation.question_count}",
            "created": age(evaluation.create_time),
        },
    )
    if call.as_json or not evaluation.scores:
        return
    scores: dict[str, Any] = {
        "model": lambda s: last(s.model),
        "prompt": lambda s: s.prompt,
        "accuracy": lambda s: f"{s.accuracy:.1%}",
        "95% interval": lambda s: f"{s.accuracy_low:.1%} … {s.accuracy_high:.1%}",
        "macro F1": lambda s: f"{s.macro_f1:.3f}",
        "exact": lambda s: f"{s.exact_match:.1%}",
        "items": lambda s: s.item_count,
    }
    comparisons: dict[str, Any] = {
        "candidate": lambda c: f"{last(c.candidate)} ({c.candidate_prompt})",
        "champion": lambda c: f"{last(c.champion)} ({c.champion_prompt})",
        "effect": lambda c: f"{c.effect:+.1%}",
        "95% interval": lambda c: f"{c.effect_low:+.1%} … {c.effect_high:+.1%}",
        "p": lambda c: f"{c.p_value:.2g}",
    }
    call.out.print()
    call.out.print(table(scores, evaluation.scores))
    if evaluation.comparisons:
        call.out.print()
        call.out.print(table(comparisons, evaluation.comparisons))


async def _watch(call: Call, name: str) -> int:
    evaluation = await watch_evaluation(call.err if call.as_json else call.out, client(call), name)
    show(call, evaluation)
    return 0 if state_of(evaluation) == "SUCCEEDED" else FAILED
