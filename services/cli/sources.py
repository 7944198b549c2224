"""Where a model's files come from: a folder, a bucket, or a hub's snapshot, as one list of files that can be opened.

Only what serving and training read is taken: safetensors, configuration, tokenizer, template, licence. A folder or bucket
that holds anything which could run code is refused, with all that is wrong and all that is missing at once, before a byte
is copied; other files (a README, pictures) are passed over.
"""

import fnmatch
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from services.common.backends import choose
from services.common.errors import InvalidInput, NotFound, Violation
from services.common.ports.object_store import ObjectStore

WANTED = (
    "*.safetensors", "config.json", "generation_config.json", "model.safetensors.index.json", "golden.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "chat_template.jinja", "chat_template.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".pyc", ".so", ".h5", ".msgpack", ".npz", ".npy")
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
SHARD_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class SourceFile:
    """One file: its name, its length, how it is opened, and its SHA-256 where the source tells one."""

    path: str
    size_bytes: int
    open: Callable[[], BinaryIO]
    sha256: str = ""


def folder_files(folder: Path) -> list[SourceFile]:
    """Return the files of a folder that a model needs. Raises: InvalidInput (unsafe, incomplete)."""
    paths = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    chosen = choose_names(paths, str(folder))
    _refuse_links_out(folder, [paths[name] for name in chosen])
    files = [SourceFile(name, paths[name].stat().st_size, file_opener(paths[name])) for name in chosen]
    require_complete(files, str(folder))
    return files


def _refuse_links_out(folder: Path, paths: Sequence[Path]) -> None:
    """Raises: InvalidInput (a link brings a file from elsewhere; a hub's cache may link to its own blobs)."""
    homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    outside = [path for path in paths if path.resolve().parent not in homes]
    if outside:
        told = [
            Violation(p.name, "LINK_OUTSIDE", f"{p.name} is a link to {p.resolve()}; put the file itself there.") for p in outside
        ]
        raise InvalidInput(f"{folder} can't be imported: " + " ".join(v.description for v in told), violations=told)


def bucket_files(url: str, environ: Mapping[str, str]) -> list[SourceFile]:
    """Return the files under s3://bucket/prefix that a model needs. Raises: InvalidInput, NotFound, Unavailable."""
    store = choose.object_store(url, environ)
    names = [key for key in store.list("") if "/" not in key]
    if not names:
        raise NotFound(f"There is nothing under {url}; name the prefix that holds config.json.", metadata={"url": url})
    files = [SourceFile(name, store.head(name), _opener(store, name)) for name in choose_names(names, url)]
    require_complete(files, url)
    return files


def choose_names(names: Collection[str], where: str) -> list[str]:
    """Return the names that are wanted. Raises: InvalidInput (some could run code; all are told)."""
    unsafe = sorted(name for name in names if PurePosixPath(name).suffix.lower() in UNSAFE_SUFFIXES)
    chosen = [name for name in sorted(names) if is_wanted(name)]
    violations = [Violation(name, "UNSAFE_FILE", f"{name} could run code; leave it out.") for name in unsafe]
    if unsafe:
        violations += _missing(chosen)
        raise _incomplete(where, violations)
    return chosen


def require_complete(files: Sequence[SourceFile], where: str) -> None:
    """Raises: InvalidInput (all that is missing, shards of the weights among it)."""
    names = [file.path for file in files]
    violations = _missing(names)
    index = next((file for file in files if file.path == SHARD_INDEX), None)
    if index is not None:
        with index.open() as stream:
            violations += _missing_shards(stream.read(), names)
    if violations:
        raise _incomplete(where, violations)


def is_wanted(name: str) -> bool:
    """Whether a file's name is one that a model's folder needs."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in WANTED)


def file_opener(path: Path) -> Callable[[], BinaryIO]:
    """Return what opens a file of this machine."""
    return lambda: path.open("rb")


def _opener(store: ObjectStore, name: str) -> Callable[[], BinaryIO]:
    return lambda: store.open(name)


def _missing(names: Collection[str]) -> list[Violation]:
    violations = []
    if "config.json" not in names:
        violations.append(Violation("config.json", "FILE_MISSING", "config.json is missing."))
    if not any(name in names for name in TOKENIZERS):
        violations.append(Violation("tokenizer.json", "FILE_MISSING", f"{' or '.join(TOKENIZERS)} is missing."))
    if not any(name.endswith(".safetensors") for name in names):
        told = "*.safetensors is missing; convert the weights (transformers: save_pretrained)."
        violations.append(Violation("*.safetensors", "FILE_MISSING", told))
    return violations


def _missing_shards(index: bytes, names: Collection[str]) -> list[Violation]:
    try:
        shards = {str(shard) for shard in json.loads(index)["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Violation(SHARD_INDEX, "CONFIG_INVALID", f"{SHARD_INDEX} has no weight_map; copy it again.")]
    return [
        Violation(shard, "SHARD_MISSING", f"{shard} is missing, which {SHARD_INDEX} names.")
        for shard in sorted(shards - set(names))
    ]


def _incomplete(where: str, violations: list[Violation]) -> InvalidInput:
    told = " ".join(violation.description for violation in violations)
    return InvalidInput(f"{where} is not a model that can be imported: {told}", reason="FOLDER_INCOMPLETE", violations=violations)
