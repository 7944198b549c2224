"""`afina datasets tokens`: how many tokens a dataset has for a base, before anything is trained."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click
from afina.v1 import token_count_pb2 as pb
from afina.v1 import token_count_pb2_grpc

from services.cli.call import Call, verb
from services.cli.datasets import group
from services.cli.output import document, print_json, table
from services.cli.watching import state_of
from services.common.transport.grpc_client import Client
from services.common.transport.wire import error_of

LOOK_S = 0.3
BAR_WIDTH = 40
ENDED = ("SUCCEEDED", "FAILED")


@verb(group, "tokens")
@click.argument("dataset")
@click.option("--model", required=True, help="The base that reads it; `afina models list` shows them.")
@click.option("--max-length", "max_lengths", type=int, multiple=True, help="Also say what this length would cut; repeatable.")
async def tokens(call: Call, dataset: str, model: str, max_lengths: tuple[int, ...]) -> None:
    """Count a dataset's tokens as a base reads them, with what a maximum length would cut. The second time they are known."""
    counts = call.client(token_count_pb2_grpc.TokenCountServiceStub, "trainer")
    asked = pb.TokenCount(dataset=call.name("datasets", dataset), base_model=model)
    created = await counts.CreateTokenCount(pb.CreateTokenCountRequest(parent=call.parent, token_count=asked))
    with call.err.status("counting…", spinner="dots"):
        count = await _ended(counts, created.name, max_lengths)
    if state_of(count) == "FAILED":
        raise error_of(count.error)
    if call.as_json:
        print_json(call.out, document(count))
    else:
        _show(call, count)


async def _ended(counts: Client, name: str, max_lengths: Sequence[int]) -> pb.TokenCount:
    while True:
        request = pb.GetTokenCountRequest(name=name, max_lengths=max_lengths)
        count: pb.TokenCount = await counts.GetTokenCount(request)
        if state_of(count) in ENDED:
            return count
        await asyncio.sleep(LOOK_S)


def _show(call: Call, count: pb.TokenCount) -> None:
    parts = [("train", count.train), *([("validation", count.validation)] if count.HasField("validation") else [])]
    columns: dict[str, Any] = {
        "part": lambda p: p[0],
        "rows": lambda p: p[1].row_count,
        "tokens an epoch": lambda p: p[1].token_count,
        "in answers": lambda p: p[1].trained_token_count,
        "median": lambda p: p[1].median_length,
        "90%": lambda p: p[1].p90_length,
        "99%": lambda p: p[1].p99_length,
        "longest": lambda p: p[1].longest_length,
    }
    call.out.print(table(columns, parts))
    most = max(bucket.row_count for bucket in count.train.histogram)
    bars: dict[str, Any] = {
        "tokens": lambda b: f"≤ {b.max_length}",
        "rows that train": lambda b: b.row_count,
        "": lambda b: "█" * round(BAR_WIDTH * b.row_count / most) or ("▏" if b.row_count else ""),
    }
    call.out.print()
    call.out.print(table(bars, count.train.histogram))
    cuts: dict[str, Any] = {
        "max length": lambda c: c.max_length,
        "rows too long": lambda c: c.row_count,
        "their tokens beyond": lambda c: c.token_count,
    }
    if count.cuts:
        call.out.print()
        call.out.print(table(cuts, count.cuts))
        call.out.print("A job refuses rows that are too long; it never cuts them.")
