"""`afina suites`: what to ask, and how to score the answers."""

from pathlib import Path
from typing import Any, ClassVar

import click
from afina.v1 import suite_pb2 as pb
from afina.v1 import suite_pb2_grpc

from services.cli.call import Call, every, last, verb
from services.cli.output import age, document, short
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


class CriterionType(click.ParamType):
    """NAME[:OPTION,OPTION], as in exact-match:keep-case or bleu:zh,lowercase."""

    name = "NAME[:OPTION,…]"
    kinds: ClassVar[dict[str, Any]] = {field.name.replace("_", "-"): field for field in pb.Criterion.DESCRIPTOR.fields}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> pb.Criterion:
        """Parse one criterion, or fail as usage."""
        if isinstance(value, pb.Criterion):
            return value
        name, _, told = str(value).partition(":")
        if name not in self.kinds:
            self.fail(f"{name!r} is no criterion; there are {', '.join(self.kinds)}.", param, ctx)
        criterion = pb.Criterion()
        chosen = getattr(criterion, self.kinds[name].name)
        chosen.SetInParent()
        options = self._options(chosen)
        for option in filter(None, told.split(",")):
            if option not in options:
                self.fail(f"{name} has no option {option!r}; it has {', '.join(options) or 'none'}.", param, ctx)
            setattr(chosen, *options[option])
        return criterion

    def _options(self, message: Any) -> dict[str, tuple[str, Any]]:
        """Return the options of a criterion, each with the field that it sets."""
        options: dict[str, tuple[str, Any]] = {}
        for field in message.DESCRIPTOR.fields:
            if field.enum_type is None:
                options[field.name.replace("_", "-")] = (field.name, True)
            else:
                options |= {short(value.name).lower(): (field.name, value.number) for value in field.enum_type.values[1:]}
        return options


class WordsType(click.ParamType):
    """PROMPT=TEXT, or PROMPT=@FILE for the text in a file."""

    name = "PROMPT=TEXT|@FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Parse the words of one prompt, or fail as usage."""
        prompt, is_given, text = str(value).partition("=")
        if not is_given:
            self.fail(f"{value!r} is not {self.name}.", param, ctx)
        if not text.startswith("@"):
            return prompt, text
        try:
            return prompt, Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{text[1:]} can't be read: {error}", param, ctx)


@click.group("suites")
def group() -> None:
    """What to ask, and how to score the answers."""


@verb(group, "create")
@click.argument("suite_id")
@click.option("--dataset", required=True, help="The dataset whose rows are asked.")
@click.option("--part", type=click.Choice(["test", "validation"]), default="test", show_default=True, help="Which rows.")
@click.option("--prompt", "prompts", type=PromptType(), multiple=True, required=True, help="A way to ask; repeatable.")
@click.option("--instruction", "instructions", type=WordsType(), multiple=True, help="A prompt's system message; repeatable.")
@click.option(
    "--template", "templates", type=WordsType(), multiple=True, help="What the user says, with {{question}}; repeatable."
)
@click.option(
    "--criterion",
    "criteria",
    type=CriterionType(),
    multiple=True,
    help="exact-match, classification, bleu, chrf or rouge, as in exact-match:keep-case; the first decides. Repeatable.",
)
@click.option("--label", "labels", multiple=True, help="A possible answer; those of the dataset unless given. Repeatable.")
@click.option("--max-tokens", type=int, default=0, help="Longest answer in tokens; 32.")
@click.option("--max-items", type=int, default=0, help="Ask at most so many of the rows; all.")
async def create(
    call: Call,
    suite_id: str,
    dataset: str,
    part: str,
    prompts: tuple[pb.Prompt, ...],
    instructions: tuple[tuple[str, str], ...],
    templates: tuple[tuple[str, str], ...],
    criteria: tuple[pb.Criterion, ...],
    labels: tuple[str, ...],
    max_tokens: int,
    max_items: int,
) -> None:
    """Create a suite; the same id with the same content is the same suite."""
    by_id = {prompt.id: prompt for prompt in prompts}
    for field, words in (("instruction", instructions), ("template", templates)):
        for prompt, text in words:
            if prompt not in by_id:
                raise click.UsageError(
                    f"--{field} is for the prompt {prompt}, and there is none; name one of {', '.join(by_id)}."
                )
            setattr(by_id[prompt], field, text)
    suite = pb.Suite(
        dataset=call.name("datasets", dataset),
        part=pb.Suite.Part.Value(f"PART_{part.upper()}"),
        prompts=prompts,
        criteria=criteria,
        labels=labels,
        max_tokens=max_tokens,
        max_items=max_items,
    )
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
        "scored by": lambda s: ", ".join(_words(criterion) for criterion in s.criteria),
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
    prompts = [_prompt(prompt) for prompt in suite.prompts]
    call.show(
        suite,
        {
            "name": suite.name,
            "dataset": f"{suite.dataset}, {short(pb.Suite.Part.Name(suite.part)).lower()} rows",
            "prompts": "\n".join(prompts),
            "criteria": ", ".join(_words(criterion) for criterion in suite.criteria),
            "labels": ", ".join(suite.labels),
            "max tokens": suite.max_tokens,
            "max items": suite.max_items or "",
            "digest": suite.digest,
            "made": age(suite.create_time),
        },
    )


def _prompt(prompt: pb.Prompt) -> str:
    words = ", its own words" if prompt.instruction or prompt.template else ""
    return f"{prompt.id} ({short(pb.Prompt.Method.Name(prompt.method)).lower()}, {prompt.shots} shots{words})"


def _words(criterion: pb.Criterion) -> str:
    """Return a criterion as one writes it: bleu:zh,lowercase."""
    [(kind, options)] = document(criterion).items()
    told = [str(value).lower() if isinstance(value, str) else name.replace("_", "-") for name, value in options.items() if value]
    return ":".join(filter(None, (kind.replace("_", "-"), ",".join(told))))
