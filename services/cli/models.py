"""`afina models`: bring whole weights in, list what can be asked, have one served, take one away."""

import asyncio
import dataclasses
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
from afina.v1 import catalogue_pb2, model_pb2, model_pb2_grpc

from services.cli import catalogue, imports, references
from services.cli.call import Call, every, verb
from services.cli.download import download
from services.cli.failure import is_away
from services.cli.output import age, short, size
from services.cli.sources import SourceFile
from services.cli.verdicts import answer_of, verdict_of
from services.cli.watching import state_of
from services.common.backends import choose
from services.common.errors import InvalidInput, Unavailable
from services.common.transport.grpc_client import Client

ASK_TIMEOUT_S = 50.0


class _Template(click.ParamType):
    """A chat template's file, as its text."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return Path(value).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{value} can't be read as UTF-8 text: {error}", param, ctx)


TEMPLATE = _Template()


@click.group("models")
def group() -> None:
    """Bases, adapters and full weights: what can be served."""


@verb(group, "import")
@click.argument("source")
@click.option("--name", "--id", "entry_id", default="", help="The name that clients ask for; otherwise the source's own.")
@click.option("--alias", "aliases", multiple=True, help="Another name for it; repeatable.")
@click.option("--max-length", type=int, default=0, help="Longest prompt with answer, in tokens; 2048.")
@click.option("--chat-template", "template", type=TEMPLATE, help="A Jinja file, for a base that brings no template.")
@click.option("--tool-call-parser", "parser", default="", help="vLLM's name of what reads the base's tool calls: hermes, say.")
@click.option("--replace", is_flag=True, help="Let a name that other weights have mean these.")
@click.option("--full", is_flag=True, help="Full weights of this project, fine-tuned or merged, instead of a base.")
@click.option("--base", help="With --full: the base that they came from.")
@click.option("--suffix", default="", help="With --full: part of the name ft:base:project:suffix:id.")
async def import_(call: Call, source: str, full: bool, **options: Any) -> None:
    """Import whole weights (config.json, *.safetensors, tokenizer) from SOURCE into the object store and the catalogue.

    SOURCE is a directory, s3://bucket/prefix (with this installation's S3 settings), or a hub id such as org/name@revision
    (HF_ENDPOINT, HF_TOKEN). Only files that can't run code are taken.
    """
    for_base = {key: options[key] for key in ("entry_id", "aliases", "template", "parser", "replace")}
    for_full = {key: options[key] for key in ("base", "suffix")}
    if wrong := [f"--{_flag(key)}" for key, value in (for_base if full else for_full).items() if value]:
        raise click.UsageError(f"{', '.join(wrong)} {'does not go' if full else 'goes only'} with --full.")
    opened = await asyncio.to_thread(imports.open_source, call, source)
    if full:
        show(call, await import_full(call, opened, options["base"], options["suffix"], options["max_length"]))
    else:
        catalogue.show(call, await catalogue.import_source(call, opened, max_length=options["max_length"], **for_base))


@verb(group, "list")
async def list_(call: Call) -> None:
    """List models, newest first; bases, with their aliases, belong to every project."""
    found = await every(client(call).ListModels, model_pb2.ListModelsRequest(parent=call.parent), "models")
    names = {entry.model: entry for entry in await catalogue.entries(call)}
    columns = {
        "id": lambda m: m.name if _is_base(m) and m.name not in names else m.public_id,
        "aliases": lambda m: ", ".join(names[m.name].aliases) if m.name in names else "",
        "kind": lambda m: short(model_pb2.Model.Kind.Name(m.kind)).lower(),
        "state": state_of,
        "verdict": answer_of,
        "size": lambda m: size(m.size_bytes),
        "digest": lambda m: m.digest[:12],
        "made": lambda m: age(m.create_time),
    }
    call.show_list(found, columns, "There are no models yet; bring a base in with `afina models import SOURCE`.")


@verb(group, "update")
@click.argument("name")
@click.option("--add-alias", "added", multiple=True, help="Give it another name; repeatable.")
@click.option("--remove-alias", "removed", multiple=True, help="Take a name away; repeatable.")
@click.option("--max-length", type=int, help="Longest prompt with answer, in tokens.")
@click.option("--chat-template", "template", type=TEMPLATE, help="A Jinja file, for a base that brings no template.")
@click.option("--tool-call-parser", "parser", help='vLLM\'s name of what reads its tool calls; "" for nothing.')
async def update(call: Call, name: str, added: tuple[str, ...], removed: tuple[str, ...], **options: Any) -> None:
    """Change the aliases, the length, the template or the tool call parser of a base in the catalogue."""
    entry = await catalogue.get(call, name)
    if strange := sorted(set(removed) - set(entry.aliases)):
        raise InvalidInput(f"{name} has no alias {', '.join(strange)}; it has {', '.join(entry.aliases) or 'none'}.")
    names = {"max_length": "max_length", "template": "chat_template", "parser": "tool_call_parser"}
    fields: dict[str, Any] = {field: options[option] for option, field in names.items()}
    if added or removed:
        fields["aliases"] = [alias for alias in (*entry.aliases, *added) if alias not in removed]
    given = {key: value for key, value in fields.items() if value is not None}
    if not given:
        raise click.UsageError(
            "Say what to change: --add-alias, --remove-alias, --max-length, --chat-template or --tool-call-parser."
        )
    catalogue.show(call, await catalogue.update(call, entry, given))


@verb(group, "delete")
@click.argument("name")
async def delete(call: Call, name: str) -> None:
    """Delete a base that no model stands on, or an adapter or full weights that no endpoint points to. The bytes stay."""
    found = await find(call, name)
    if _is_base(found):
        entry = next((entry for entry in await catalogue.entries(call) if entry.model == found.name), None)
        if entry is None:
            raise InvalidInput(f"{found.name} has no name in the catalogue any more; there is nothing to delete.")
        request = catalogue_pb2.DeleteCatalogueEntryRequest(name=entry.name, etag=entry.etag)
        await catalogue.service(call).DeleteCatalogueEntry(request)
    else:
        await client(call).DeleteModel(model_pb2.DeleteModelRequest(name=found.name))
    show(call, found, {"deleted": "yes"})


@verb(group, "create")
@click.argument("manifest_key")
@click.option("--suffix", default="", help="Part of the name ft:base:project:suffix:id.")
async def create(call: Call, manifest_key: str, suffix: str) -> None:
    """Register what a manifest in the object store describes: the result of a job that could not register it, say."""
    request = model_pb2.CreateModelRequest(parent=call.parent, manifest_key=manifest_key, suffix=suffix)
    show(call, await client(call).CreateModel(request, timeout_s=catalogue.REGISTER_TIMEOUT_S))


@verb(group, "get")
@click.argument("model")
async def get(call: Call, model: str) -> None:
    """Show one model, by public id, alias or resource name."""
    show(call, await find(call, model))


@verb(group, "judge")
@click.argument("model")
@click.argument("evaluation")
async def judge(call: Call, model: str, evaluation: str) -> None:
    """Keep on MODEL the verdict of a finished EVALUATION of it and its base. It promotes nothing."""
    found = await find(call, model)
    request = model_pb2.JudgeModelRequest(name=found.name, evaluation=call.name("evaluations", evaluation))
    show(call, await client(call).JudgeModel(request))


@verb(group, "serve")
@click.argument("model")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Seconds to wait.")
async def serve(call: Call, model: str, timeout_s: float) -> None:
    """See to it that a model is loaded and proven on a server, and wait for that."""
    found = await find(call, model)
    with call.err.status(f"serving {found.public_id}"):
        response = await ensure_served(client(call), found.name, timeout_s)
    show(call, response.model, {"servers": ", ".join(replica.url for replica in response.replicas)})


@verb(group, "prove")
@click.argument("model")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Seconds to wait.")
async def prove(call: Call, model: str, timeout_s: float) -> None:
    """Prove an adapter or full weights anew, and lift its quarantine where that goes well."""
    found = await find(call, model)
    with call.err.status(f"proving {found.public_id}"):
        request = model_pb2.ProveModelRequest(name=found.name)
        show(call, await until_ready(lambda left_s: client(call).ProveModel(request, timeout_s=left_s), timeout_s))


@verb(group, "download")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
async def download_(call: Call, model: str, folder: Path) -> None:
    """Download a model into a new FOLDER, verified by digest: an adapter as PEFT reads it, with its base's tokenizer."""
    found = await find(call, model)
    base = await find(call, found.base) if found.kind == model_pb2.Model.KIND_ADAPTER else None
    store = choose.object_store(call.home.object_store, call.environ)
    with call.err.status(f"downloading {found.public_id}"):
        files = await asyncio.to_thread(download, store, found, base, folder)
    show(call, found, {"folder": folder, "files": ", ".join(files)})


def client(call: Call) -> Client:
    """The models' service."""
    return call.client(model_pb2_grpc.ModelServiceStub, "inference")


async def find(call: Call, given: str) -> model_pb2.Model:
    """Return a model by public id, alias or resource name. Raises: NotFound."""
    found: model_pb2.Model = await client(call).GetModel(model_pb2.GetModelRequest(name=given, parent=call.parent))
    return found


async def import_full(call: Call, source: imports.Source, base: str | None, suffix: str, max_length: int) -> model_pb2.Model:
    """Put full weights into the object store with references for their proof, and register them; twice is once."""
    origin = await find(call, base) if base else None
    if origin is not None and not _is_base(origin):
        raise InvalidInput(f"{base} is no base; --base names the one that these weights came from.", reason="NOT_A_BASE")
    if not any(file.path == references.FILE for file in source.files):
        template = origin.chat_template if origin else ""
        with call.err.status("the tokenizer's references"):
            golden = await asyncio.to_thread(references.make_references, source.files, template)
        if golden is not None:
            made = SourceFile(references.FILE, len(golden), lambda: io.BytesIO(golden))
            source = dataclasses.replace(source, files=[*source.files, made])
    data = {"base": {"digest": origin.digest, "name": origin.name, "public_id": origin.public_id}} if origin else {}
    manifest_key, _ = await imports.put_source(call, source, "full", data)
    request = model_pb2.CreateModelRequest(parent=call.parent, manifest_key=manifest_key, suffix=suffix, max_length=max_length)
    created: model_pb2.Model = await client(call).CreateModel(request, timeout_s=catalogue.REGISTER_TIMEOUT_S)
    return created


async def ensure_served(models: Client, name: str, timeout_s: float) -> model_pb2.EnsureServedResponse:
    """Ask until a model is proven on a server. Raises: Unavailable (too late), WrongState (the proof failed)."""
    request = model_pb2.EnsureServedRequest(name=name)
    response: model_pb2.EnsureServedResponse = await until_ready(
        lambda left_s: models.EnsureServed(request, timeout_s=left_s), timeout_s
    )
    return response


async def until_ready(ask: Callable[[float], Awaitable[Any]], timeout_s: float) -> Any:
    """Ask again and again, each time for so many seconds at most. Raises: Unavailable (too late)."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            return await ask(max(1.0, min(ASK_TIMEOUT_S, left_s)))
        except Unavailable as error:
            if is_away(error) or left_s <= 1:
                raise
            await asyncio.sleep(0.5)


def show(call: Call, model: model_pb2.Model, more: dict[str, object] | None = None) -> None:
    """Print one model."""
    proof = dict(model.proof)
    told = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in proof.items())
    call.show(
        model,
        {
            "id": model.public_id,
            "name": model.name,
            "kind": short(model_pb2.Model.Kind.Name(model.kind)).lower(),
            "state": state_of(model),
            "served": short(model_pb2.Model.Serving.Name(model.serving)).lower() if model.serving else "",
            "why": model.quarantine_reason or model.serving_message,
            "base": model.base,
            "digest": model.digest,
            "size": size(model.size_bytes),
            "proof": told,
            "verdict": verdict_of(model),
            "evidence": model.verdict.evaluation,
            "made": age(model.create_time),
            **(more or {}),
        },
    )


def _is_base(model: model_pb2.Model) -> bool:
    return model.name.startswith("models/")


def _flag(option: str) -> str:
    return {"entry_id": "name", "aliases": "alias", "template": "chat-template", "parser": "tool-call-parser"}.get(option, option)
