"""Where everything of one installation is: the folder AFINA_HOME, and the addresses of its programs.

`afina up` writes the addresses that it chose into `up.json`, so that every other shell finds programs that do not sit on
the usual ports. What the environment says comes first, then `up.json`, then the usual ports.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.common.backends.launcher.shim import is_alive, read_json
from services.common.errors import InvalidInput
from services.common.transport.authentication import SERVICE_TOKEN

PROGRAMS = ("dataset", "trainer", "evaluator", "inference", "gateway")
LAUNCHING = ("trainer", "evaluator", "inference")
ADDRESS_VARIABLES = {
    "dataset": "DATASET_ADDRESS",
    "trainer": "TRAINER_ADDRESS",
    "evaluator": "EVALUATOR_ADDRESS",
    "inference": "INFERENCE_ADDRESS",
    "gateway": "GATEWAY_ADDRESS",
    "http": "GATEWAY_HTTP_ADDRESS",
    "dataset probes": "DATASET_METRICS_ADDRESS",
    "trainer probes": "TRAINER_METRICS_ADDRESS",
    "evaluator probes": "EVALUATOR_METRICS_ADDRESS",
    "inference probes": "INFERENCE_METRICS_ADDRESS",
    "gateway probes": "GATEWAY_METRICS_ADDRESS",
}
USUAL_ADDRESSES = {
    "dataset": "127.0.0.1:50051",
    "trainer": "127.0.0.1:50052",
    "evaluator": "127.0.0.1:50053",
    "inference": "127.0.0.1:50054",
    "gateway": "127.0.0.1:50055",
    "http": "127.0.0.1:8080",
    "dataset probes": "127.0.0.1:9051",
    "trainer probes": "127.0.0.1:9052",
    "evaluator probes": "127.0.0.1:9053",
    "inference probes": "127.0.0.1:9054",
    "gateway probes": "127.0.0.1:9055",
}


@dataclass(frozen=True)
class Home:
    """The folder of an installation and the addresses of its programs.

    `http` is the gateway's OpenAI API; `NAME probes` has a program's /metrics, /healthz and /readyz.
    """

    path: Path
    addresses: Mapping[str, str]
    gateway_url: str
    object_store: str

    @property
    def databases(self) -> Path:
        """A SQLite file for each program."""
        return self.path / "databases"

    @property
    def cache(self) -> Path:
        """Bases and adapters fetched by digest."""
        return self.path / "cache"

    @property
    def logs(self) -> Path:
        """What the programs say, a file each."""
        return self.path / "logs"

    @property
    def api_key(self) -> Path:
        """The first API key, readable by its owner only."""
        return self.path / "api_key"

    @property
    def service_token(self) -> Path:
        """The secret by which the programs know one another and whoever runs them, readable by its owner only."""
        return self.path / "service_token"

    @property
    def record(self) -> Path:
        """What `afina up` runs at the moment."""
        return self.path / "up.json"

    def processes(self, program: str) -> Path:
        """The launcher's folder of one program."""
        return self.path / "processes" / program

    def probes_url(self, program: str) -> str:
        """Where a program's /metrics, /healthz and /readyz are."""
        return f"http://{_reachable(self.addresses[f'{program} probes'])}"

    def make(self) -> None:
        """Create the folder and its parts, for its owner only."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        for folder in (self.path / "objects", self.databases, self.cache, self.logs, *map(self.processes, LAUNCHING)):
            folder.mkdir(parents=True, exist_ok=True)
        _make_secret(self.service_token)

    def credential(self, environ: Mapping[str, str]) -> str:
        """Return what says who calls: a key or a token of the environment, or the installation's token; nothing where none is."""
        given = environ.get("AFINA_API_KEY") or environ.get(SERVICE_TOKEN)
        if given:
            return given
        try:
            return self.service_token.read_text().strip()
        except OSError:
            return ""

    def running(self) -> dict[str, Any] | None:
        """Return what `up.json` says if that supervisor lives, else None."""
        record = read_json(self.record)
        return record if record and is_alive(record["pid"], record["start_time"]) else None


def with_free_probes(home: Home, environ: Mapping[str, str]) -> Home:
    """Return the installation with another port for the probes whose usual one is taken and was not asked for by name."""
    addresses = dict(home.addresses)
    for name, address in home.addresses.items():
        if name.endswith(" probes") and not environ.get(ADDRESS_VARIABLES[name]) and not _is_free(address):
            addresses[name] = f"127.0.0.1:{_free_port()}"
    return replace(home, addresses=addresses)


def find(environ: Mapping[str, str], *, fresh: bool = False) -> Home:
    """Return the installation that the environment names; `fresh` leaves out what a supervisor wrote down.

    Raises: InvalidInput (an address that is not host:port).
    """
    path = Path(environ.get("AFINA_HOME") or Path.home() / ".afina").expanduser().absolute()
    known: dict[str, Any] = {} if fresh else read_json(path / "up.json") or {}
    addresses = {}
    for name, variable in ADDRESS_VARIABLES.items():
        addresses[name] = environ.get(variable) or known.get("addresses", {}).get(name) or USUAL_ADDRESSES[name]
        if not addresses[name].rpartition(":")[2].isdigit():
            raise InvalidInput(f"{variable}={addresses[name]} is not host:port.", reason="ADDRESS_INVALID")
    url = environ.get("GATEWAY_URL") or known.get("gateway_url") or f"http://{_reachable(addresses['http'])}"
    store = environ.get("OBJECT_STORE") or known.get("object_store") or f"file://{path / 'objects'}"
    return Home(path, addresses, url, store)


def _make_secret(file: Path) -> None:
    """Write a random secret where there is none; of two that try at once one wins, and it is never seen half written."""
    if file.exists():
        return
    staged = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(f"afinasvc-{secrets.token_urlsafe(32)}\n")
    with contextlib.suppress(FileExistsError):
        os.link(staged, file)
    staged.unlink()


def _reachable(address: str) -> str:
    """Return an address that a client can use for one that a server listens on."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("", "0.0.0.0", "[::]") else address


def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
