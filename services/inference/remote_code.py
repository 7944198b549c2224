"""Code that a model's files name: ignored where transformers has the class itself, refused where it would be wanted.

Loaders follow `auto_map` to Python files, of the same folder or of another repository (`owner/repo--module.Class`), and have
done so where nobody had allowed it: from a nested config (CVE-2025-66448), at model resolution (CVE-2026-22807), in one
model's own code (CVE-2026-27893). So nothing here relies on a flag. Python files are never taken, and a base may name code
only at the top of the two files where many published models do, for a type of which the loader has the class. An adapter's
config within a base names another base, by any path, which a loader follows too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from services.common.errors import Violation
from services.inference.known_types import KNOWN_TYPES

KEY = "auto_map"
OTHER_REPOSITORY = "--"
IGNORED_IN = ("config.json", "tokenizer_config.json")
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "image_processor.json")
FILES = frozenset({*IGNORED_IN, *PROCESSORS, "generation_config.json", "special_tokens_map.json", "adapter_config.json"})


def check_code(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[Violation]:
    """Yield what names code that could be wanted, or another model. `configs` holds JSON objects by path."""
    told = configs.get("config.json", {}).get("model_type")
    is_known = isinstance(told, str) and told in KNOWN_TYPES
    for path, config in configs.items():
        if path == "adapter_config.json":
            yield Violation(path, "ADAPTER_IN_BASE", f"{path} names another model to load; import the merged weights.")
        for where, named in _named(config):
            text = f"{path} names code of its own in {where}; that is never run."
            if path in IGNORED_IN and where == KEY and OTHER_REPOSITORY not in str(named):
                if is_known:
                    continue
                text = f"{text} transformers has no class of its own for this model_type; choose a model that needs no code."
            yield Violation(path, "REMOTE_CODE", text)


def _named(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each auto_map that is not empty with its place, however deep."""
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        place, value = left.pop()
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, held in inner:
            where = f"{place}.{key}" if place else str(key)
            if key == KEY and held:
                yield where, held
            elif isinstance(held, dict | list):
                left.append((where, held))
