"""Which code made something: the package's version, and a digest of the source that ran.

The version alone says nothing about a checkout that somebody has changed, and a commit's name is not there in an image.
"""

import functools
import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import services

WORKER = Path(__file__).parent / "worker"


def code() -> dict[str, str]:
    """Return the version of the package `afina` and the digest of all its source."""
    return {"afina": version_of("afina"), "afina_source_sha256": source_digest(Path(services.__path__[0]))}


def version_of(package: str) -> str:
    """Return an installed package's version; "unknown" for what was put on the path without being installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def source_digest(folder: Path) -> str:
    """Return the SHA-256 over the paths and bytes of a folder's Python files, 64 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
