"""Each promise of the ObjectStore port, on every backend."""

import hashlib
import io
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.common.backends import choose
from services.common.backends.measured import measured
from services.common.backends.object_store.local import LocalObjectStore
from services.common.backends.object_store.s3 import S3ObjectStore
from services.common.backends.object_store.signed import TOKEN_VARIABLE, SignedObjectStore
from services.common.errors import ArtifactNotFound, InvalidInput, Unavailable
from services.common.metrics import Metrics
from services.common.ports.manifest import Manifest, fetch_folder, put_folder
from services.common.ports.object_store import Artifact, ObjectStore, StoreRequest, StoreVerb
from tests.fakes import MemoryObjectStore
from tests.servers import S3Server
from tests.signing import SigningServer


@pytest.fixture(params=["local", "s3", "signed", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """As a program has it: with its metrics around it."""
    return measured(_store(request, tmp_path), "object_store", Metrics())


def _store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":  # a double keeps its port's promises, or what it proves is worth nothing
        return MemoryObjectStore()
    if request.param == "local":
        return LocalObjectStore(tmp_path / "objects")
    server: S3Server = request.getfixturevalue("s3_server")
    # Small parts, so that the suite's own objects are sent in several.
    small = {"multipart_bytes": 2_000_000, "part_bytes": 5 << 20}
    store: S3ObjectStore = server.store(f"contract/{uuid.uuid4()}", **small)
    if request.param == "s3":
        return store
    signing = SigningServer(store)
    request.addfinalizer(signing.stop)
    return SignedObjectStore(signing.url("everything"), {TOKEN_VARIABLE: "secret"}, **small)


def test_put_places_bytes_under_prefix_and_digest_and_tells_size_and_sha256(store: ObjectStore) -> None:
    data = b"a" * 3_000_000
    digest = hashlib.sha256(data).hexdigest()
    assert store.put("files", io.BytesIO(data)) == Artifact(f"files/{digest}", len(data), digest)
    assert store.read(f"files/{digest}") == data
    assert store.head(f"files/{digest}") == len(data)


def test_putting_the_same_bytes_twice_is_one_object(store: ObjectStore) -> None:
    first = store.put("files", io.BytesIO(b"same"))
    second = store.put("files", io.BytesIO(b"same"))
    assert first == second
    assert list(store.list("files/")) == [first.key]


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    artifact = store.put("files", io.BytesIO(b""))
    assert artifact.size_bytes == 0
    assert store.read(artifact.key) == b""


def test_the_absent_is_artifact_not_found_for_open_and_head(store: ObjectStore) -> None:
    for verb in (store.open, store.head, store.read):
        with pytest.raises(ArtifactNotFound) as caught:
            verb("files/absent")
        assert caught.value.metadata == {"key": "files/absent"}


def test_list_yields_keys_under_a_prefix_in_order_and_nothing_for_an_unused_one(store: ObjectStore) -> None:
    for key in ("b/2", "a/1", "b/1", "b-1", "bb/3", "b/1-2", "b/1.5"):
        store.commit(key, b"x")
    assert list(store.list("b/")) == ["b/1", "b/1-2", "b/1.5", "b/2"]
    assert sorted(store.list("b")) == ["b-1", "b/1", "b/1-2", "b/1.5", "b/2", "bb/3"]  # S3 servers differ between folders
    assert list(store.list("zzz/")) == []


def test_a_stream_can_be_sought_and_read_in_pieces(store: ObjectStore) -> None:
    data = bytes(range(256)) * 40
    key = store.put("files", io.BytesIO(data)).key
    with store.open(key) as stream:
        assert stream.read(10) == data[:10]
        assert stream.seek(-16, io.SEEK_END) == len(data) - 16
        assert stream.read() == data[-16:]
        assert stream.read(1) == b""
        stream.seek(5)
        assert stream.read(3) == data[5:8]
        assert stream.tell() == 8


def test_what_was_deleted_is_absent_and_deleting_the_absent_succeeds(store: ObjectStore) -> None:
    store.commit("a/1", b"x")
    store.delete("a/1")
    store.delete("a/1")
    with pytest.raises(ArtifactNotFound):
        store.head("a/1")
    assert store.commit("a/1", b"y") is True


def test_commit_has_exactly_one_winner_among_threads(store: ObjectStore) -> None:
    barrier = threading.Barrier(8)
    results: list[tuple[int, bool]] = []

    def attempt(number: int) -> None:
        barrier.wait()
        results.append((number, store.commit("jobs/a/manifest.json", f"{number}".encode())))

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, won in results if won]
    assert len(results) == 8
    assert len(winners) == 1
    assert store.read("jobs/a/manifest.json") == f"{winners[0]}".encode()


def test_putting_the_same_bytes_at_once_is_one_object_for_everybody(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        artifacts = set(threads.map(lambda _: store.put("files", io.BytesIO(b"same" * 1000)), range(8)))
    assert len(artifacts) == 1
    assert store.read(artifacts.pop().key) == b"same" * 1000


def test_two_who_commit_the_same_document_are_one_winner(store: ObjectStore) -> None:
    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(lambda _: store.commit("same.json", b"same"), range(4)))
    assert sorted(won) == [False, False, False, True]


def test_where_nothing_is_signed_its_url_opens_the_same_store(store: ObjectStore) -> None:
    key = store.put("files", io.BytesIO(b"x")).key
    if store.url == MemoryObjectStore.url or store.needs_signature:
        return  # it has no URL that a second program could open by itself
    assert choose.object_store(store.url).read(key) == b"x"
    with pytest.raises(InvalidInput):
        store.sign(StoreRequest(StoreVerb.GET, key), 60)


def test_commit_keeps_the_first_document(store: ObjectStore) -> None:
    assert store.commit("m.json", b"first") is True
    assert store.commit("m.json", b"second") is False
    assert store.read("m.json") == b"first"


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../b", "", ".", "a\0b", "a\\b", ".staging/x"])
def test_a_key_that_could_leave_the_store_is_refused(store: ObjectStore, key: str) -> None:
    for verb in (store.open, store.head, lambda k: store.commit(k, b"")):
        with pytest.raises(InvalidInput):
            verb(key)


def test_a_stream_that_breaks_leaves_nothing_behind(store: ObjectStore) -> None:
    class Broken(io.RawIOBase):
        calls = 0

        def read(self, size: int = -1) -> bytes:
            self.calls += 1
            if self.calls > 2:
                raise Unavailable("the client went away")
            return b"x" * 1000

    with pytest.raises(Unavailable):
        store.put("files", Broken())  # type: ignore[arg-type]
    assert list(store.list("")) == []


def test_a_folder_comes_back_as_it_was_and_is_fetched_once(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "sub" / "weights").write_bytes(b"\x00" * 100)
    manifest = put_folder(store, "bases", source, "base", {"a": 1})
    read = Manifest.from_json(manifest.to_json())
    assert read == manifest
    folder = fetch_folder(store, read, tmp_path / "cache")
    assert folder.name == manifest.digest
    assert (folder / "sub" / "weights").read_bytes() == b"\x00" * 100
    assert fetch_folder(store, read, tmp_path / "cache") == folder


def test_a_folder_with_a_flipped_bit_is_refused_and_not_left_in_the_cache(store: ObjectStore, tmp_path: Path) -> None:
    store.commit("bases/abc", b"flipped")
    lying = Artifact("bases/abc", 7, hashlib.sha256(b"right").hexdigest())
    from services.common.ports.manifest import ManifestFile

    manifest = Manifest("base", (ManifestFile("config.json", lying),), {})
    with pytest.raises(InvalidInput) as caught:
        fetch_folder(store, manifest, tmp_path / "cache")
    assert caught.value.reason == "ARTIFACT_CORRUPT"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_manifest_whose_path_leaves_its_folder_is_refused() -> None:
    document = (
        b'{"kind":"base","digest":"x","data":{},"files":[{"path":"../../etc/passwd","key":"k","size_bytes":1,"sha256":"s"}]}'
    )
    with pytest.raises(InvalidInput) as caught:
        Manifest.from_json(document)
    assert caught.value.reason == "PATH_ESCAPES"


def test_what_a_killed_process_left_is_swept_after_a_day(tmp_path: Path) -> None:
    store = choose.object_store(f"file://{tmp_path}/objects")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    manifest = put_folder(store, "files", folder, "base", {})
    day_ago_s = time.time() - 86_400 - 60
    for name in ("old", "new"):
        for left in (tmp_path / "objects" / ".staging" / name, tmp_path / "cache" / f".fetch-{name}" / "model.safetensors"):
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_bytes(b"half")
    for path in (tmp_path / "objects" / ".staging" / "old", tmp_path / "cache" / ".fetch-old"):
        os.utime(path, (day_ago_s, day_ago_s))
    choose.object_store(f"file://{tmp_path}/objects")
    fetched = fetch_folder(store, manifest, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "objects" / ".staging").iterdir()] == ["new"]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {".fetch-new", fetched.name}
