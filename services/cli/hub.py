"""A model from a hub: `org/name` or `org/name@revision`, by huggingface_hub, files that can't run code only.

The revision is resolved to a commit once, so that all files are of one state. What is complete already is not fetched again,
and a connection that breaks is taken up within the run. Weights are held against the SHA-256 that the hub tells of them.
"""

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.cli.sources import SHARD_INDEX, SourceFile, file_opener, is_wanted, require_complete
from services.common.errors import AfinaError, InvalidInput, NotFound, PermissionDenied, Unavailable

HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
FIXES = "set HF_ENDPOINT to a mirror, or name a directory or s3://bucket/prefix that holds the model"


@dataclass(frozen=True)
class Snapshot:
    """A state of a repository on this machine."""

    files: list[SourceFile]
    revision: str  # the commit


def fetch(hub_id: str, folder: Path, environ: Mapping[str, str], *, is_quiet: bool) -> Snapshot:
    """Bring a repository's files into a folder. Idempotent: what is there whole is not fetched again.

    Raises: NotFound, PermissionDenied (gated, private), Unavailable (no network), InvalidInput (incomplete).
    """
    import httpx2
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise InvalidInput(f"{hub_id!r} is no hub id; write org/name or org/name@revision.", reason="HUB_ID_INVALID")
    if is_quiet:
        disable_progress_bars()
    repo, asked = match["repo"], match["revision"]
    endpoint, token = _endpoint(environ.get("HF_ENDPOINT", "")), environ.get("HF_TOKEN") or False
    try:
        api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
        commit = str(api.repo_info(repo, revision=asked).sha)
        listed = _listed(api.list_repo_tree(repo, revision=commit))
        told = [SourceFile(name, entry.size, file_opener(folder / name), _sha256(entry)) for name, entry in listed.items()]
        require_complete([file for file in told if file.path != SHARD_INDEX], hub_id)  # before gigabytes come
        huggingface_hub.snapshot_download(
            repo, revision=commit, endpoint=endpoint, token=token, local_dir=folder, allow_patterns=sorted(listed)
        )
    except errors.GatedRepoError as error:
        raise _denied(hub_id) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _not_found(hub_id, asked, error, has_token=bool(token)) from error
    except (httpx2.HTTPError, OSError) as error:
        raise _away(hub_id, error) from error
    require_complete(told, hub_id)
    return Snapshot(told, commit)


def _endpoint(given: str) -> str | None:
    """Return where the hub is; None for its own address. Raises: InvalidInput (not http or https, or with a password in it)."""
    if not given:
        return None
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        told = "HF_ENDPOINT has to be http:// or https:// and a host, without a password, which HF_TOKEN is for."
        raise InvalidInput(told, reason="HUB_ENDPOINT_INVALID")
    return given


def _listed(tree: Any) -> dict[str, Any]:
    """Return the wanted files at the top of a repository by name; what could run code is never asked for."""
    return {entry.path: entry for entry in tree if hasattr(entry, "blob_id") and "/" not in entry.path and is_wanted(entry.path)}


def _sha256(entry: Any) -> str:
    return str(entry.lfs.sha256) if entry.lfs else ""


def _denied(hub_id: str) -> AfinaError:
    told = f"{hub_id} is gated: accept its terms on the hub, then set HF_TOKEN to a token of that account."
    return PermissionDenied(told, reason="HUB_DENIED", metadata={"hub_id": hub_id})


def _not_found(hub_id: str, revision: str | None, error: Exception, *, has_token: bool) -> AfinaError:
    what = f"revision {revision} of {hub_id}" if "Revision" in type(error).__name__ else hub_id
    private = "" if has_token else ", or set HF_TOKEN if it is private"
    return NotFound(f"The hub has no {what}; check the spelling{private}.", reason="HUB_NOT_FOUND", metadata={"hub_id": hub_id})


def _away(hub_id: str, error: Exception) -> AfinaError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Unavailable(f"There is no room left for {hub_id}: {error}. Free some and repeat.", reason="DISK_FULL")
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Unavailable(f"{hub_id} could not be fetched ({why[:200]}): {FIXES}.", reason="HUB_UNAVAILABLE")
