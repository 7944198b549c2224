"""`afina datasets`: make one of a file of chats, list them, look at one."""

from pathlib import Path
from typing import Any

import click
from afina.v1 import dataset_pb2, dataset_pb2_grpc, file_pb2, file_pb2_grpc

from services.cli.call import Call, every, last, verb
from services.cli.output import age
from services.cli.uploading import upload
from services.common.errors import InvalidInput
from services.common.transport.grpc_client import Client

FINALIZE_TIMEOUT_S = 300.0


@click.group("datasets")
def group() -> None:
    """Immutable, validated versions of records with their split."""


@verb(group, "create")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--train-fraction", type=float, default=None, help="Share of rows that train; 0.8.")
@click.option("--validation-fraction", type=float, default=None, help="Share of rows that choose the best checkpoint; 0.1.")
@click.option("--test-fraction", type=float, default=None, help="Share of rows held out for evaluation; 0.1.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the division.")
@click.option("--format", default="", help="Shape of the records, as openai_chat or input_label; found if not given.")
@click.option(
    "--validation-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Its rows validate, and FILE loses rows to the test only.",
)
async def create(call: Call, file: Path, seed: int, format: str, validation_file: Path | None, **fractions: float | None) -> None:
    """Upload FILE (JSON, JSONL, also .gz; chats, or questions and answers of any known shape) and freeze it as a dataset."""
    split = _split(fractions, seed)
    files = call.client(file_pb2_grpc.FileServiceStub, "dataset")
    validating = (await upload(files, call.parent, validation_file, call.err)).name if validation_file else ""
    uploaded = await upload(files, call.parent, file, call.err)
    show(call, await finalize(files, uploaded.name, split, format, validating))


@verb(group, "list")
async def list_(call: Call) -> None:
    """List datasets, newest first."""
    datasets = call.client(dataset_pb2_grpc.DatasetServiceStub, "dataset")
    found = await every(datasets.ListDatasets, dataset_pb2.ListDatasetsRequest(parent=call.parent), "datasets")
    columns = {
        "id": lambda d: last(d.name),
        "rows": lambda d: d.row_count,
        "train": lambda d: d.train.row_count,
        "validation": lambda d: d.validation.row_count,
        "test": lambda d: d.test.row_count,
        "labels": lambda d: ", ".join(sorted(d.label_counts)),
        "made": lambda d: age(d.create_time),
    }
    call.show_list(found, columns, "There are no datasets yet; make one with `afina datasets create FILE`.")


@verb(group, "get")
@click.argument("dataset")
async def get(call: Call, dataset: str) -> None:
    """Show one dataset."""
    datasets = call.client(dataset_pb2_grpc.DatasetServiceStub, "dataset")
    show(call, await datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=call.name("datasets", dataset))))


async def finalize(
    files: Client, name: str, split: dataset_pb2.Split | None, format: str = "", validation_file: str = ""
) -> dataset_pb2.Dataset:
    """Make or find the dataset of an upload. Raises: InvalidInput with every line that is wrong."""
    request = file_pb2.FinalizeFileRequest(name=name, split=split, format=format, validation_file=validation_file)
    dataset: dataset_pb2.Dataset = await files.FinalizeFile(request, timeout_s=FINALIZE_TIMEOUT_S)
    return dataset


def show(call: Call, dataset: dataset_pb2.Dataset) -> None:
    """Print one dataset with its warnings."""
    rows = {part: getattr(dataset, part).row_count for part in ("train", "validation", "test")}
    call.show(
        dataset,
        {
            "name": dataset.name,
            "digest": dataset.digest,
            "rows": f"{dataset.row_count}: " + ", ".join(f"{count} {part}" for part, count in rows.items()),
            "format": dataset.format,
            "labels": ", ".join(f"{label} {count}" for label, count in sorted(dataset.label_counts.items())),
            "made": age(dataset.create_time),
            "warnings": "\n".join(f"{w.field}: {w.description}" for w in dataset.warnings),
        },
    )


def _split(fractions: dict[str, Any], seed: int) -> dataset_pb2.Split | None:
    given = {name: value for name, value in fractions.items() if value is not None}
    if not given:
        return dataset_pb2.Split(train_fraction=0.8, validation_fraction=0.1, test_fraction=0.1, seed=seed) if seed else None
    if len(given) < 3:
        missing = ", ".join("--" + name.replace("_", "-") for name in fractions if name not in given)
        raise InvalidInput(f"The three fractions belong together and sum to 1; also give {missing}.", reason="SPLIT_INCOMPLETE")
    return dataset_pb2.Split(**given, seed=seed)
