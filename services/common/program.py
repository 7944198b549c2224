"""How a program begins: read the settings, say every mistake in them, print them with secrets masked."""

import logging
import sys
from typing import TypeVar

from services.common import telemetry
from services.common.errors import InvalidInput
from services.common.settings import masked, parse

T = TypeVar("T")


def begin(name: str, settings_class: type[T]) -> T:
    """Return the settings of a program, or end it with exit code 2 and a line for each mistake."""
    telemetry.configure(name)
    try:
        settings = parse(settings_class)
    except InvalidInput as error:
        for violation in error.violations:
            print(f"{name}: {violation.description}", file=sys.stderr)
        raise SystemExit(2) from None
    telemetry.log(logging.getLogger("afina"), logging.INFO, "settings", **masked(settings))
    return settings
