"""Which backend a URL names. The only place that knows them all."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from services.common.errors import InvalidInput
from services.common.ports.database import Database
from services.common.ports.launcher import Launcher
from services.common.ports.object_store import ObjectStore


def object_store(url: str, environ: Mapping[str, str] | None = None) -> ObjectStore:
    """Open `file:///folder` or `s3://bucket/prefix`; endpoint and credentials are in the environment.

    In a workload also `signed://…`, a bucket whose requests are signed by the program that launched it. Raises: InvalidInput.
    """
    scheme, path = _split(url)
    if scheme == "file":
        from services.common.backends.object_store.local import LocalObjectStore

        return LocalObjectStore(path)
    if scheme == "s3":
        from services.common.backends.object_store.s3 import S3ObjectStore

        return S3ObjectStore(url, os.environ if environ is None else environ)
    if scheme == "signed":
        from services.common.backends.object_store.signed import SignedObjectStore

        return SignedObjectStore(url, os.environ if environ is None else environ)
    raise InvalidInput(f"OBJECT_STORE={url} is not understood; use file:///folder or s3://bucket/prefix.", reason="URL_INVALID")


def database(url: str) -> Database:
    """Open `sqlite:///file` or `postgresql://user:password@host/database?schema=name`.

    Raises: InvalidInput, WrongState (newer than this code), Unavailable.
    """
    scheme, _ = _split(url)
    if scheme in ("sqlite", "postgresql"):
        from services.common.backends.database.sql import SqlDatabase

        return SqlDatabase(url)
    text = f"DATABASE={scheme}:… is not understood; use sqlite:///file or postgresql://user:password@host/database?schema=name."
    raise InvalidInput(text, reason="URL_INVALID")


def launcher(url: str) -> Launcher:
    """Open `process:///folder?jobs=1`; the folder keeps what is known of each process. Raises: InvalidInput."""
    scheme, path = _split(url)
    if scheme == "process":
        from services.common.backends.launcher.process import ProcessLauncher

        jobs = parse_qs(urlsplit(url).query).get("jobs", ["1"])[0]
        if not jobs.isdecimal():
            raise InvalidInput(f"LAUNCHER={url}: jobs is how many run at once, a whole number.", reason="URL_INVALID")
        return ProcessLauncher(path, max_jobs=int(jobs))
    raise InvalidInput(f"LAUNCHER={url} is not understood; use process:///folder.", reason="URL_INVALID")


def _split(url: str) -> tuple[str, Path]:
    parts = urlsplit(url)
    return parts.scheme, Path(parts.path)
