"""A model as a folder that other tools read: an adapter as PEFT's, with its base's tokenizer beside it; a base whole.

Every byte is checked against the digests of the manifest, and the manifest against the Model's. The folder appears by one
rename, so half of a model is never there. A chat template that the catalogue declared is put beside the tokenizer, as
transformers looks for it. Golden answers stay behind: they hold rows of the dataset, which whoever passes
an adapter on may not want to pass on with it.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from afina.v1 import model_pb2
from google.protobuf import json_format

from services.common.errors import AlreadyExists, InvalidInput, NotFound
from services.common.ports.manifest import Manifest, fetch_folder
from services.common.ports.object_store import CHUNK_BYTES, Artifact, ObjectStore

PRIVATE = frozenset({"golden.json"})
TEMPLATE = "chat_template.jinja"
# What transformers reads a tokenizer from, whichever kind it is, chat templates included.
TOKENIZER = frozenset((
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
))  # fmt: skip


def download(store: ObjectStore, model: model_pb2.Model, base: model_pb2.Model | None, folder: Path) -> list[str]:
    """Put a model's files into a new folder and return their paths; `base` is what an adapter stands on.

    Raises: AlreadyExists (the folder holds something), ArtifactNotFound, InvalidInput (bytes that do not match a digest).
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(
            f"{folder} holds something already; name a folder that is empty or not there.", reason="FOLDER_IN_USE"
        )
    files = [file for file in _manifest(store, model).files if file.path not in PRIVATE]
    if base is not None:
        files += [file for file in _manifest(store, base).files if _is_tokenizer(file.path)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as staging:
        fetched = fetch_folder(store, Manifest("download", tuple(files), {}), Path(staging))
        template = _declared_template(model)
        if template:
            (fetched / TEMPLATE).write_text(template)
        os.rename(fetched, folder)  # over an empty folder, too
    return sorted({*(file.path for file in files), *([TEMPLATE] if template else [])})


def _declared_template(model: model_pb2.Model) -> str:
    """Return the chat template that an adapter was trained with, where it is not its tokenizer's own."""
    base = json_format.MessageToDict(model.provenance).get("base")
    return str(base.get("chat_template", "")) if isinstance(base, dict) else ""


def download_file(store: ObjectStore, artifact: Artifact, path: Path) -> None:
    """Put one object into a new file, checked against its digest; it appears by one rename, whole or not at all.

    Raises: AlreadyExists, ArtifactNotFound, InvalidInput (other bytes than its digest says), NotFound (no such folder).
    """
    if path.exists():
        raise AlreadyExists(f"{path} exists; name a file that does not.", reason="FILE_IN_USE")
    if not path.absolute().parent.is_dir():
        raise NotFound(f"There is no folder {path.absolute().parent}; make it first.", reason="FOLDER_MISSING")
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.absolute().parent) as staging:
        staged = Path(staging) / path.name
        with store.open(artifact.key) as source, staged.open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != artifact.sha256:
            text = f"{artifact.key} holds other bytes than its digest says; restore it from a copy."
            raise InvalidInput(text, reason="ARTIFACT_CORRUPT", metadata={"key": artifact.key})
        os.rename(staged, path)


def _manifest(store: ObjectStore, model: model_pb2.Model) -> Manifest:
    manifest = Manifest.from_json(store.read(model.manifest_key))
    if manifest.digest != model.digest:
        raise InvalidInput(
            f"{model.manifest_key} describes {manifest.digest}, not {model.digest}; restore it from a copy.",
            reason="MANIFEST_CORRUPT",
            metadata={"key": model.manifest_key},
        )
    return manifest


def _is_tokenizer(path: str) -> bool:
    return path in TOKENIZER or path.startswith("additional_chat_templates/")
