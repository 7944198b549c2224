"""`afina suites`: what to ask, and how to score the answers."""

from typing import Any

import click
from afina.v1 import suite_pb2 as pb
from afina.v1 import suite_pb2_grpc

from services.cli.call import Call, every, last, verb
from services.cli.output import age, short
from services.common.transport.grpc_client import Client

METHODS = {"generate": "METHOD_GENERATE", "score-labels": "METHOD_SCORE_LABELS"}


class PromptType(click.ParamType):
    """ID:METHOD[:SHOTS[:SEED]], as in few-shot:generate:6."""

    name = "ID:METHOD[:SHOTS[:SEED]]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> pb.Prompt:
        """Parse one prompt, or fail as usage."""
        parts = str(value).split(":")
        if not 2 <= len(parts) <= 4 or parts[1] not in METHODS or not all(part.isdigit() for part in parts[2:]):
            self.fail(f"{value!r} is not {self.name}; METHOD is {' or '.join(METHODS)}, as in few-shot:generate:6.", param, ctx)
        shots, seed = (int(part) for part in (*parts[2:], *("0", "0")[len(parts) - 2 :]))
        return pb.Prompt(id=parts[0], method=METHODS[parts[1]], shots=shots, seed=seed)


@click.group("suites")
def group() -> None:
    """What to ask, and how to score the answers."""


@verb(group, "create")
@click.argument("suite_id")
@click.option("--dataset", required=True, help="The dataset whose test rows are asked.")
@click.option("--prompt", "prompts", type=PromptType(), multiple=True, required=True, help="A way to ask; repeatable.")
@click.option("--label", "labels", multiple=True, help="A possible answer; those of the dataset unless given. Repeatable.")
@click.option("--max-tokens", type=int, default=0, help="Longest answer in tokens; 32.")
async def create(
    call: Call, suite_id: str, dataset: str, prompts: tuple[pb.Prompt, ...], labels: tuple[str, ...], max_tokens: int
) -> None:
    """Create a suite; the same id with the same content is the same suite."""
    suite = pb.Suite(dataset=call.name("datasets", dataset), prompts=prompts, labels=labels, max_tokens=max_tokens)
    request = pb.CreateSuiteRequest(parent=call.parent, suite=suite, suite_id=suite_id)
    show(call, await client(call).CreateSuite(request))


@verb(group, "list")
async def list_(call: Call) -> None:
    """List suites, newest first."""
    found = await every(client(call).ListSuites, pb.ListSuitesRequest(parent=call.parent), "suites")
    columns = {
        "id": lambda s: last(s.name),
        "dataset": lambda s: last(s.dataset),
        "prompts": lambda s: ", ".join(prompt.id for prompt in s.prompts),
        "labels": lambda s: ", ".join(s.labels),
        "made": lambda s: age(s.create_time),
    }
    call.show_list(found, columns, "There are no suites yet; make one with `afina suites create ID --dataset … --prompt …`.")


@verb(group, "get")
@click.argument("suite")
async def get(call: Call, suite: str) -> None:
    """Show one suite."""
    show(call, await client(call).GetSuite(pb.GetSuiteRequest(name=call.name("suites", suite))))


def client(call: Call) -> Client:
    """The suites' service."""
    return call.client(suite_pb2_grpc.SuiteServiceStub, "evaluator")


def show(call: Call, suite: pb.Suite) -> None:
    """Print one suite."""
    prompts = [f"{p.id} ({short(pb.Prompt.Method.Name(p.method)).lower()}, {p.shots} shots)" for p in suite.prompts]
    call.show(
        suite,
        {
            "name": suite.name,
            "dataset": suite.dataset,
            "prompts": "\n".join(prompts),
            "labels": ", ".join(suite.labels),
            "max tokens": suite.max_tokens,
            "digest": suite.digest,
            "made": age(suite.create_time),
        },
    )
