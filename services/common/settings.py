"""Settings: the environment, parsed once into a frozen dataclass, with every mistake reported at once.

@dataclass(frozen=True)
class Settings:
    object_store: str = setting("OBJECT_STORE", "file:///… – where artifacts are")
    lease_s: float = setting("LEASE_S", "seconds that a claim lasts", default=60.0)
    token: str = setting("TOKEN", "what the store asks for", secret=True)
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from services.common.errors import InvalidInput, Violation

T = TypeVar("T")
_MISSING = dataclasses.MISSING


def setting(variable: str, meaning: str, *, default: Any = _MISSING, secret: bool = False) -> Any:
    """Declare a dataclass field that is read from an environment variable; its type annotation is its parser."""
    return dataclasses.field(default=default, metadata={"variable": variable, "meaning": meaning, "secret": secret})


def parse(cls: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Read all settings of a dataclass. Raises: InvalidInput with one violation for each that is missing or malformed."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    violations = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        variable, meaning = field.metadata["variable"], field.metadata["meaning"]
        text = environ.get(variable, "")
        if not text:
            if field.default is _MISSING:
                violations.append(Violation(variable, "SETTING_MISSING", f"Set {variable}: {meaning}."))
            continue
        try:
            values[field.name] = _convert(text, field.type)
        except ValueError:
            told = "***" if field.metadata["secret"] else repr(text)
            violations.append(Violation(variable, "SETTING_INVALID", f"{variable}={told} is not {field.type}: {meaning}."))
    if violations:
        raise InvalidInput(
            "Some settings are missing or wrong: " + " ".join(v.description for v in violations),
            reason="SETTINGS_INVALID",
            violations=violations,
        )
    return cls(**values)


def masked(settings: Any) -> dict[str, str]:
    """Return settings for printing: variable → value, secrets and the passwords of URLs as `***`."""
    return {
        f.metadata["variable"]: "***"
        if f.metadata["secret"] and getattr(settings, f.name)
        else mask(str(getattr(settings, f.name)))
        for f in dataclasses.fields(settings)
    }


def mask(url: str) -> str:
    """Return a URL without the passwords in it, wherever they stand."""
    return re.sub(r"([?&]\w*password=)[^&\s]*", r"\1***", re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url))


def _convert(text: str, kind: Any) -> Any:
    name = kind if isinstance(kind, str) else kind.__name__
    if name == "bool":
        if text.lower() not in ("0", "1", "true", "false"):
            raise ValueError(text)
        return text.lower() in ("1", "true")
    return {"int": int, "float": float, "str": str}[name](text)
