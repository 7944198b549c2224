"""What the object store holds of a model, read and checked before anything is registered. Synchronous: it waits for the store."""

from pathlib import Path

from services.common.errors import ArtifactNotFound, InvalidInput, Violation
from services.common.ports.manifest import Manifest, fetch_folder
from services.common.ports.object_store import ObjectStore
from services.common.store_access import is_under
from services.inference import catalogue
from services.inference.adapter_checks import adapter_rank, base_modules, check_adapter, read_header
from services.inference.model import Model
from services.inference.proof import MIN_GOLDEN_CHATS, parse_golden
from services.inference.servers import ENGINE_RANKS

GOLDEN_FILE = "golden.json"
IMPORTED = ("bases/", "full/")  # where imports put whole weights
MAX_DOCUMENT_BYTES = 16 << 20  # of what is read whole; the index of a base of a hundred shards has 2


def read_manifest(store: ObjectStore, key: str) -> Manifest:
    """Return the manifest under a key whose files lie where whoever wrote it may write: among imports, or in its own job.

    A manifest is what a worker says. One that named the rows of another project as a file of its model would hand them out
    to whoever may download the model. Raises: InvalidInput, ArtifactNotFound.
    """
    if store.head(key) > MAX_DOCUMENT_BYTES:
        raise InvalidInput(f"{key} is larger than {MAX_DOCUMENT_BYTES} bytes; no manifest is.", reason="MANIFEST_INVALID")
    manifest = Manifest.from_json(store.read(key))
    own = "/".join(key.split("/")[:2]) + "/"
    homes = (own,) if own.startswith("jobs/") else IMPORTED
    told = f"is none of this manifest's; its files lie under {' or '.join(homes)}."
    strange = [file for file in manifest.files if not is_under(file.artifact.key, homes)]
    refuse("The manifest can't be taken", [Violation(f.path, "KEY_FOREIGN", f"{f.artifact.key!r} {told}") for f in strange])
    return manifest


def read_weights(store: ObjectStore, manifest: Manifest, max_length: int) -> dict[str, bytes]:
    """Check a manifest of whole weights, a base's or a full model's, with every file, and return its small JSON files.

    Raises: InvalidInput (all violations), ArtifactNotFound.
    """
    refuse("The files are not what their manifest says", _check_sizes(store, manifest))
    texts = {file.path: store.read_artifact(file.artifact) for file in manifest.files if file.path in catalogue.READ_FILES}
    violations = catalogue.check_base(manifest, texts, max_length)
    if any(file.path == GOLDEN_FILE for file in manifest.files):
        violations += _check_golden(store, manifest, base_digest="")
    refuse("The weights can't be served", violations)
    _modules(store, manifest)
    return texts


def read_adapter(store: ObjectStore, cache: Path, manifest: Manifest, base: Model) -> int:
    """Check everything about an adapter and return its rank. Raises: InvalidInput with all violations."""
    refuse("The adapter's files are not what its manifest says", _check_sizes(store, manifest))
    base_manifest = Manifest.from_json(store.read(base.manifest_key))
    folder = fetch_folder(store, manifest, cache)
    violations = check_adapter(
        folder,
        _modules(store, base_manifest),
        base_digest=base.digest,
        told_base_digest=told_base(manifest),
        max_rank=ENGINE_RANKS[-1],
    )
    violations += _check_golden(store, manifest, base.digest)
    refuse("The adapter can't be served", violations)
    return adapter_rank(folder)


def told_base(manifest: Manifest) -> str:
    """Return the digest of the base that a manifest names, or "" where it names none."""
    return str((manifest.data.get("base") or {}).get("digest", ""))


def refuse(what: str, violations: list[Violation]) -> None:
    """Raise InvalidInput with all violations, where there are any."""
    if violations:
        told = " ".join(violation.description for violation in violations[:5])
        raise InvalidInput(f"{what}: {told}", violations=violations, reason=violations[0].reason)


def _check_golden(store: ObjectStore, manifest: Manifest, base_digest: str) -> list[Violation]:
    try:
        chats = parse_golden(store.read_artifact(manifest.file(GOLDEN_FILE)), base_digest)
    except InvalidInput as error:
        return [Violation(GOLDEN_FILE, error.reason, error.message)]
    count = sum(bool(chat.probes) for chat in chats)
    if base_digest and count < MIN_GOLDEN_CHATS:
        told = f"golden.json has {count} chats with probes; {MIN_GOLDEN_CHATS} prove an adapter. Train again with this version."
        return [Violation(GOLDEN_FILE, "GOLDEN_TOO_FEW", told)]
    return []


def _modules(store: ObjectStore, manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Read the headers of whole weights where they lie. Raises: InvalidInput (not safetensors)."""
    headers = []
    for file in manifest.files:
        if file.path.endswith(".safetensors") and "/" not in file.path:
            with store.open(file.artifact.key) as stream:
                headers.append(read_header(stream, file.artifact.size_bytes))
    return base_modules(headers)


def _check_sizes(store: ObjectStore, manifest: Manifest) -> list[Violation]:
    violations = []
    for file in manifest.files:
        if file.path in (*catalogue.READ_FILES, GOLDEN_FILE) and file.artifact.size_bytes > MAX_DOCUMENT_BYTES:
            told = f"{file.path} has {file.artifact.size_bytes} bytes; at most {MAX_DOCUMENT_BYTES} are read."
            violations.append(Violation(file.path, "TOO_LARGE", told))
        try:
            size_bytes = store.head(file.artifact.key)
        except ArtifactNotFound:
            violations.append(Violation(file.path, "ARTIFACT_NOT_FOUND", f"The object store has no {file.artifact.key}."))
            continue
        if size_bytes != file.artifact.size_bytes or not file.artifact.key.endswith(file.artifact.sha256):
            told = f"{file.artifact.size_bytes} bytes were written, {size_bytes} are there"
            violations.append(Violation(file.path, "ARTIFACT_MISMATCH", f"{file.artifact.key}: {told}."))
    return violations
