"""A folder as an object store: what is there after a power cut, when a verb has returned, is whole."""

import io
import os
from pathlib import Path

from services.common.backends.object_store.local import LocalObjectStore


class Syncs:
    """Notes what is synced, by its path at that time, and which names the store had then."""

    def __init__(self, root: Path) -> None:
        self.root, self.noted = root, list[tuple[str, list[str]]]()

    def __call__(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.noted.append((path.relative_to(self.root).as_posix(), sorted(p.name for p in self.root.rglob("jobs/**/*"))))

    @property
    def paths(self) -> list[str]:
        return [path.partition("/")[0] if path.startswith(".staging") else path for path, _ in self.noted]


def test_bytes_are_synced_before_they_have_a_name_and_every_new_name_after(tmp_path: Path) -> None:
    syncs = Syncs(tmp_path)
    store = LocalObjectStore(tmp_path, sync=syncs)
    artifact = store.put("jobs/1/files", io.BytesIO(b"weights"))
    assert syncs.paths == [".staging", ".", "jobs", "jobs/1", "jobs/1/files"]
    assert syncs.noted[0][1] == []  # no name yet
    assert Path(artifact.key).name in syncs.noted[-1][1]


def test_who_finds_the_bytes_there_does_not_trust_that_their_name_is_safe_yet(tmp_path: Path) -> None:
    LocalObjectStore(tmp_path).put("jobs/1/files", io.BytesIO(b"weights"))
    syncs = Syncs(tmp_path)
    LocalObjectStore(tmp_path, sync=syncs).put("jobs/1/files", io.BytesIO(b"weights"))
    assert syncs.paths == [".staging", "jobs/1/files"]


def test_a_commit_is_synced_as_well(tmp_path: Path) -> None:
    syncs = Syncs(tmp_path)
    store = LocalObjectStore(tmp_path, sync=syncs)
    assert store.commit("jobs/1/manifest.json", b"{}")
    assert syncs.paths == [".staging", ".", "jobs", "jobs/1"]


def test_bytes_that_a_disk_has_changed_are_written_anew(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    artifact = store.put("files", io.BytesIO(b"right"))
    (tmp_path / artifact.key).write_bytes(b"wrong")
    assert store.put("files", io.BytesIO(b"right")) == artifact
    assert store.read_artifact(artifact) == b"right"
