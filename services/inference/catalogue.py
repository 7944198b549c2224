"""The catalogue: base models and the aliases under which clients may ask for them, and what a base has to be.

A base is taken as safetensors with a tokenizer and a plain config: whatever could run code when it is loaded is refused
here, so that no server ever sees it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from services.common.errors import Violation
from services.common.ports.manifest import Manifest
from services.inference.adapter_checks import is_unsafe

KIND = "catalogueEntry"
ALIAS_KIND = "alias"
NAME = "catalogueEntries/{entry}"
ENTRY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_MAX_LENGTH = 2048
MIN_MAX_LENGTH, MAX_MAX_LENGTH = 128, 131072
MAX_ALIASES = 32
TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model"})


@dataclass(frozen=True)
class Entry:
    """One base that may be asked, and fine-tuned. Units: `max_length` is tokens."""

    name: str
    model: str
    digest: str
    manifest_key: str
    max_length: int
    aliases: tuple[str, ...] = field(default_factory=tuple)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Entry":
        """Read it from JSON."""
        return cls(**{**document, "aliases": tuple(document["aliases"])})


def check_request(entry_id: str, aliases: tuple[str, ...], max_length: int, manifest_key: str) -> list[Violation]:
    """Return what is wrong with a request before any file is read."""
    violations = []
    if not ENTRY_ID.fullmatch(entry_id):
        rule = "letters, digits and . _ -, at most 64, beginning with a letter or digit"
        violations.append(Violation("catalogue_entry_id", "MALFORMED", f"catalogue_entry_id {entry_id!r}: {rule}."))
    for alias in aliases:
        if not ENTRY_ID.fullmatch(alias):
            violations.append(Violation("catalogue_entry.aliases", "MALFORMED", f"The alias {alias!r} has to be like an id."))
    if len(aliases) > MAX_ALIASES:
        violations.append(Violation("catalogue_entry.aliases", "TOO_MANY", f"At most {MAX_ALIASES} aliases."))
    if max_length and not MIN_MAX_LENGTH <= max_length <= MAX_MAX_LENGTH:
        bounds = f"{MIN_MAX_LENGTH} to {MAX_MAX_LENGTH}, or 0"
        violations.append(
            Violation("catalogue_entry.max_length", "OUT_OF_RANGE", f"max_length is {max_length}; choose {bounds}.")
        )
    if not manifest_key:
        violations.append(Violation("catalogue_entry.manifest_key", "REQUIRED", "Give manifest_key: where its manifest is."))
    return violations


def check_base(manifest: Manifest, texts: Mapping[str, bytes], max_length: int) -> list[Violation]:
    """Return everything that keeps a folder from being served as a base. `texts` holds its JSON files by path."""
    paths = [file.path for file in manifest.files]
    violations = [Violation(path, "UNSAFE_FILE", f"{path} could run code; leave it out.") for path in paths if is_unsafe(path)]
    if manifest.kind != "base":
        violations.append(Violation("manifest_key", "WRONG_KIND", f"The manifest is of kind {manifest.kind}, not base."))
    if not any(path.endswith(".safetensors") and "/" not in path for path in paths):
        violations.append(Violation("model.safetensors", "NO_SAFETENSORS", "The weights have to be safetensors; convert them."))
    if not TOKENIZER_FILES & set(paths):
        violations.append(Violation("tokenizer.json", "TOKENIZER_MISSING", "There is no tokenizer.json or tokenizer.model."))
    for path in ("config.json", "tokenizer_config.json"):
        config = json_object(texts.get(path, b"{}" if path != "config.json" else b""))
        if config is None:
            violations.append(Violation(path, "CONFIG_INVALID", f"{path} is missing or not a JSON object."))
        elif config.get("auto_map"):
            violations.append(Violation(path, "REMOTE_CODE", f"{path} names code of its own in auto_map; that is never run."))
    config = json_object(texts.get("config.json", b"")) or {}
    if not config.get("architectures"):
        violations.append(Violation("config.json", "ARCHITECTURE_MISSING", "config.json has to name its architectures."))
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and max_length > limit:
        violations.append(Violation("max_length", "OUT_OF_RANGE", f"max_length is {max_length}; this base reads {limit} tokens."))
    return violations


def default_max_length(texts: Mapping[str, bytes]) -> int:
    """Return what a server of this base takes, where nobody said."""
    limit = (json_object(texts.get("config.json", b"")) or {}).get("max_position_embeddings")
    return min(DEFAULT_MAX_LENGTH, limit) if isinstance(limit, int) and limit > 0 else DEFAULT_MAX_LENGTH


def has_chat_template(manifest: Manifest, texts: Mapping[str, bytes]) -> bool:
    """Whether chats can be put to it as its authors meant."""
    in_config = bool((json_object(texts.get("tokenizer_config.json", b"")) or {}).get("chat_template"))
    return in_config or any(file.path in ("chat_template.jinja", "chat_template.json") for file in manifest.files)


def json_object(document: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else."""
    try:
        found = json.loads(document)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
