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
from services.inference import remote_code
from services.inference.adapter_checks import is_unsafe
from services.inference.chat_template import check_template

KIND = "catalogueEntry"
ALIAS_KIND = "alias"
NAME = "catalogueEntries/{entry}"
ENTRY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_MAX_LENGTH = 2048
MIN_MAX_LENGTH, MAX_MAX_LENGTH = 128, 131072
MAX_ALIASES = 32
# What can turn a model's text into calls of tools. Source: vLLM 0.32, vllm/tool_parsers/__init__.py
TOOL_CALL_PARSERS = frozenset((
    "dots", "deepseek_v3", "deepseek_v31", "deepseek_v32", "deepseek_v4", "deepseek_v41", "cohere_command3", "cohere_command4",
    "ernie45", "glm45", "glm47", "ling3", "granite-20b-fc", "granite", "granite4", "hermes", "hf", "poolside_v1",
    "hunyuan_a13b", "hy_v3", "hy_v4", "internlm", "jamba", "lfm2", "kimi_k2", "kimi_k3", "k2_horizon", "llama3_json",
    "llama4_json", "llama4_pythonic", "longcat", "mimo", "minimax_m2", "minimax_m3", "minicpm5", "mistral", "olmo3", "plamo3",
    "muse_glimmer", "openai", "phi4_mini_json", "pythonic", "qwen3_coder", "qwen3_json", "qwen3_xml", "seed_oss", "step3",
    "step3p5", "inkling", "xlam", "gigachat3", "functiongemma", "gemma4", "apertus",
))  # fmt: skip
TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model"})
SHARD_INDEX = "model.safetensors.index.json"
READ_FILES = remote_code.FILES | {SHARD_INDEX}
WEIGHT_KINDS = {"base": "a base", "full": "full weights"}


@dataclass(frozen=True)
class Entry:
    """One base that may be asked, and fine-tuned. Units: `max_length` is tokens."""

    name: str
    model: str
    digest: str
    manifest_key: str
    max_length: int
    aliases: tuple[str, ...] = field(default_factory=tuple)
    chat_template: str = ""
    tool_call_parser: str = ""

    @property
    def entry_id(self) -> str:
        """The id that clients ask for."""
        return self.name.removeprefix("catalogueEntries/")

    @property
    def public_ids(self) -> tuple[str, ...]:
        """Every name that clients may ask for."""
        return (self.entry_id, *self.aliases)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Entry":
        """Read it from JSON."""
        return cls(**{**document, "aliases": tuple(document["aliases"])})


def check_entry(entry: Entry) -> list[Violation]:
    """Return what is wrong with an entry before any file is read; a `max_length` of 0 stands for the default."""
    violations = []
    if not ENTRY_ID.fullmatch(entry.entry_id):
        rule = "letters, digits and . _ -, at most 64, beginning with a letter or digit"
        violations.append(Violation("catalogue_entry_id", "MALFORMED", f"catalogue_entry_id {entry.entry_id!r}: {rule}."))
    for alias in entry.aliases:
        if not ENTRY_ID.fullmatch(alias):
            violations.append(Violation("catalogue_entry.aliases", "MALFORMED", f"The alias {alias!r} has to be like an id."))
    if len(entry.aliases) > MAX_ALIASES:
        violations.append(Violation("catalogue_entry.aliases", "TOO_MANY", f"At most {MAX_ALIASES} aliases."))
    violations += check_max_length(entry.max_length, "catalogue_entry.max_length")
    if not entry.manifest_key:
        violations.append(Violation("catalogue_entry.manifest_key", "REQUIRED", "Give manifest_key: where its manifest is."))
    if entry.tool_call_parser and entry.tool_call_parser not in TOOL_CALL_PARSERS:
        told = f"There is no parser {entry.tool_call_parser!r:.80}; choose of {', '.join(sorted(TOOL_CALL_PARSERS))}, or none."
        violations.append(Violation("catalogue_entry.tool_call_parser", "UNKNOWN", told))
    return violations + check_template(entry.chat_template)


def check_max_length(max_length: int, field_name: str = "max_length") -> list[Violation]:
    """Return what is wrong with a length that somebody asked for; 0 stands for the default."""
    if not max_length or MIN_MAX_LENGTH <= max_length <= MAX_MAX_LENGTH:
        return []
    told = f"max_length is {max_length}; choose {MIN_MAX_LENGTH} to {MAX_MAX_LENGTH}, or 0."
    return [Violation(field_name, "OUT_OF_RANGE", told)]


def check_template_is_needed(entry: Entry, has_own: bool) -> list[Violation]:
    """Return what is wrong with declaring a template for a base that brings its own."""
    if not entry.chat_template or not has_own:
        return []
    told = "This base brings a chat template of its own, which is what it was trained with; leave chat_template out."
    return [Violation("catalogue_entry.chat_template", "CHAT_TEMPLATE_PRESENT", told)]


def check_base(manifest: Manifest, texts: Mapping[str, bytes], max_length: int) -> list[Violation]:
    """Return everything that keeps whole weights from being served. `texts` holds READ_FILES by path."""
    paths = [file.path for file in manifest.files]
    violations = [Violation(path, "UNSAFE_FILE", f"{path} could run code; leave it out.") for path in paths if is_unsafe(path)]
    if manifest.kind not in WEIGHT_KINDS:
        told = f"The manifest is of kind {manifest.kind}, not {' or '.join(WEIGHT_KINDS)}."
        violations.append(Violation("manifest_key", "WRONG_KIND", told))
    if not any(path.endswith(".safetensors") and "/" not in path for path in paths):
        violations.append(Violation("model.safetensors", "NO_SAFETENSORS", "The weights have to be safetensors; convert them."))
    violations += _check_shards(paths, texts)
    if not TOKENIZER_FILES & set(paths):
        violations.append(Violation("tokenizer.json", "TOKENIZER_MISSING", "There is no tokenizer.json or tokenizer.model."))
    for path in ("config.json", "tokenizer_config.json"):
        config = json_object(texts.get(path, b"{}" if path != "config.json" else b""))
        if config is None:
            violations.append(Violation(path, "CONFIG_INVALID", f"{path} is missing or not a JSON object."))
    read = {path: json_object(text) for path, text in texts.items() if path in remote_code.FILES}
    violations += remote_code.check_code({path: config for path, config in read.items() if config is not None})
    config = json_object(texts.get("config.json", b"")) or {}
    if not config.get("architectures"):
        violations.append(Violation("config.json", "ARCHITECTURE_MISSING", "config.json has to name its architectures."))
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and max_length > limit:
        violations.append(Violation("max_length", "OUT_OF_RANGE", f"max_length is {max_length}; this base reads {limit} tokens."))
    return violations


def _check_shards(paths: list[str], texts: Mapping[str, bytes]) -> list[Violation]:
    """Return what the index of weights in several files names and the folder lacks."""
    if SHARD_INDEX not in texts:
        return []
    shards = (json_object(texts[SHARD_INDEX]) or {}).get("weight_map")
    if not isinstance(shards, dict):
        return [Violation(SHARD_INDEX, "CONFIG_INVALID", f"{SHARD_INDEX} has no weight_map; copy it again.")]
    missing = sorted({str(shard) for shard in shards.values()} - set(paths))
    return [Violation(shard, "SHARD_MISSING", f"{shard} is missing, which {SHARD_INDEX} names.") for shard in missing]


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
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
