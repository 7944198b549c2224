"""`afina sweeps`: try recipes, see which is best."""

import uuid
from pathlib import Path

import click
from afina.v1 import fine_tuning_job_pb2, sweep_pb2_grpc
from afina.v1 import sweep_pb2 as pb

from services.cli.call import Call, every, last, verb
from services.cli.output import age, document, print_json, short, table
from services.cli.recipes import read_recipes
from services.cli.watching import state_of, watch_sweep
from services.common.transport.grpc_client import Client

BAR_WIDTH = 24
FAILED = 1


@click.group("sweeps")
def group() -> None:
    """Sweeps: many recipes over one dataset and base, the best by validation loss wins."""


@verb(group, "create")
@click.option("--base-model", required=True, help="A base's id or alias; `afina models list` shows them.")
@click.option("--dataset", required=True, help="What to learn from; some of its rows have to validate.")
@click.option(
    "--file",
    "file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The recipes: YAML or JSON, a list as [{learning_rate: 0.001, rank: 8}, {rank: 16}]; at most 64.",
)
@click.option("--suffix", default="", help="Part of the models' names.")
@click.option("--request-id", default=lambda: str(uuid.uuid4()), help="Calls with the same one create once; a new one each time.")
@click.option("--watch", "wants_watch", is_flag=True, help="Stay and show the progress.")
@click.option("--evaluate/--no-evaluate", default=True, help="Compare the winner with its base at the end.", show_default=True)
async def create(
    call: Call, base_model: str, dataset: str, file: Path, suffix: str, request_id: str, wants_watch: bool, evaluate: bool
) -> int:
    """Start a sweep. Its jobs run one after another; what a recipe leaves out is chosen as for any job."""
    sweep = pb.Sweep(
        base_model=base_model,
        dataset=call.name("datasets", dataset),
        recipes=read_recipes(file),
        suffix=suffix,
        evaluation_settings=fine_tuning_job_pb2.JobEvaluation(is_disabled=not evaluate),
    )
    sweeps = client(call)
    created = await sweeps.CreateSweep(pb.CreateSweepRequest(parent=call.parent, sweep=sweep, request_id=request_id))
    if wants_watch:
        return await _watch(call, sweeps, created.name)
    show(call, created)
    return 0


@verb(group, "list")
async def list_(call: Call) -> None:
    """List sweeps, newest first."""
    found = await every(client(call).ListSweeps, pb.ListSweepsRequest(parent=call.parent), "sweeps")
    columns = {
        "id": lambda s: last(s.name),
        "state": state_of,
        "base": lambda s: s.base_model,
        "recipes": lambda s: len(s.members),
        "ended": lambda s: ended_count(s),
        "best loss": lambda s: next((f"{m.validation_loss:.4f}" for m in s.members if m.rank == 1), ""),
        "model": lambda s: s.fine_tuned_model,
        "created": lambda s: age(s.create_time),
    }
    call.show_list(found, columns, "There are no sweeps yet; start one with `afina sweeps create`.")


@verb(group, "get")
@click.argument("sweep")
async def get(call: Call, sweep: str) -> None:
    """Show one sweep, its recipes ranked by validation loss."""
    show(call, await client(call).GetSweep(pb.GetSweepRequest(name=call.name("sweeps", sweep))))


@verb(group, "watch")
@click.argument("sweep")
async def watch(call: Call, sweep: str) -> int:
    """Show a sweep's progress until it has ended; exit code 1 if it did not succeed. Ctrl-C stops the watching only."""
    return await _watch(call, client(call), call.name("sweeps", sweep))


@verb(group, "cancel")
@click.argument("sweep")
async def cancel(call: Call, sweep: str) -> None:
    """Ask a sweep to stop, and the job that it runs."""
    show(call, await client(call).CancelSweep(pb.CancelSweepRequest(name=call.name("sweeps", sweep))))


def client(call: Call) -> Client:
    """The sweeps' service."""
    return call.client(sweep_pb2_grpc.SweepServiceStub, "trainer")


def ended_count(sweep: pb.Sweep) -> int:
    """How many of its jobs have ended."""
    return sum(_state(member) in ("SUCCEEDED", "FAILED", "CANCELLED") for member in sweep.members)


def show(call: Call, sweep: pb.Sweep) -> None:
    """Print one sweep: what it is, then its recipes, best first, with a bar for each loss."""
    told = {
        "name": sweep.name,
        "state": state_of(sweep),
        "error": sweep.error.message,
        "base": sweep.base_model,
        "dataset": sweep.dataset,
        "winner": sweep.winner,
        "model": sweep.fine_tuned_model,
        "jobs": f"{last(sweep.members[0].job)} and so on" if sweep.members[0].job else "",
        "created": age(sweep.create_time),
    }
    call.show(sweep, told)
    if call.as_json:
        return
    numbered = enumerate(sweep.members, start=1)
    members = sorted(numbered, key=lambda member: member[1].rank or len(sweep.members) + 1)
    worst = max((member.validation_loss for member in sweep.members), default=0.0)
    columns = {
        "rank": lambda m: m[1].rank or "",
        "recipe": lambda m: f"{m[0]}: {told_recipe(m[1])}",
        "state": lambda m: _state(m[1]),
        "validation loss": lambda m: f"{m[1].validation_loss:.4f}" if m[1].rank else "",
        "": lambda m: "█" * round(BAR_WIDTH * m[1].validation_loss / worst) if m[1].rank and worst else "",
        "step": lambda m: f"{m[1].progress.step}/{m[1].progress.total_steps}" if m[1].progress.total_steps else "",
    }
    call.out.print()
    call.out.print(table(columns, members))


def told_recipe(member: pb.SweepMember) -> str:
    """Return what a member's recipe asks for, in one line."""
    asked = {name: value for name, value in document(member.recipe).items() if value not in ([], "UNSPECIFIED")}
    return ", ".join(f"{name}={_plain(value)}" for name, value in asked.items()) or "all chosen"


def _state(member: pb.SweepMember) -> str:
    state = short(pb.SweepMember.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[member.state].name)
    return "" if state == "UNSPECIFIED" else state


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


async def _watch(call: Call, sweeps: Client, name: str) -> int:
    sweep = await watch_sweep(call.err if call.as_json else call.out, sweeps, name)
    if call.as_json:
        print_json(call.out, document(sweep))
    else:
        show(call, sweep)
    return 0 if state_of(sweep) == "SUCCEEDED" else FAILED
