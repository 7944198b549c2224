"""How a program begins: read the settings, say every mistake in them, print them with secrets masked.

The gRPC services do not ask who calls. So they serve this machine only, unless whoever runs them says that the network
itself keeps strangers out.
"""

import ipaddress
import logging
import os
import sys
from collections.abc import Mapping
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
    _refuse_strangers(name, os.environ)
    telemetry.log(logging.getLogger("afina"), logging.INFO, "settings", **masked(settings))
    return settings


def _refuse_strangers(name: str, environ: Mapping[str, str]) -> None:
    """End a program whose gRPC address is not of this machine, unless AFINA_TRUST_NETWORK=1."""
    variable = f"{name.upper()}_ADDRESS"
    host = environ.get(variable, "127.0.0.1:0").rpartition(":")[0].strip("[]")
    if environ.get("AFINA_TRUST_NETWORK") == "1" or host == "localhost" or _is_loopback(host):
        return
    print(
        f"{name}: {variable} is open to other machines, and gRPC does not ask who calls: use 127.0.0.1, or set "
        "AFINA_TRUST_NETWORK=1 where the network keeps strangers out.",
        file=sys.stderr,
    )
    raise SystemExit(2)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
