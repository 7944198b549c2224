"""What only a store behind a network has to promise: lost answers, broken streams, a server that is away, wrong keys."""

import io
import os
import resource
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from services.common.backends import choose
from services.common.backends.object_store.s3 import S3ObjectStore
from services.common.errors import ArtifactNotFound, InvalidInput, PermissionDenied, Unavailable
from tests.contract.broken_wire import BrokenWire
from tests.servers import BUCKET, S3Server

PART_BYTES = 5 << 20  # the smallest that S3 takes


@pytest.fixture
def wire(s3_server: S3Server) -> Iterator[BrokenWire]:
    with BrokenWire(s3_server.port) as wire:
        yield wire


@pytest.fixture
def prefix() -> str:
    return f"s3/{uuid.uuid4()}"


def over(wire: BrokenWire, server: S3Server, prefix: str, **options: Any) -> S3ObjectStore:
    """The store behind the wire."""
    return server.store(prefix, environ={"S3_ENDPOINT_URL": wire.url}, **options)


def raw(store: S3ObjectStore) -> Any:
    """The vendor's own client, to look behind the store."""
    return store._client


def unfinished(store: S3ObjectStore, prefix: str) -> list[str]:
    return [u["Key"] for u in raw(store).list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])]


def test_a_large_object_is_sent_in_parts_and_read_as_one(s3_server: S3Server, prefix: str) -> None:
    store = s3_server.store(prefix, multipart_bytes=PART_BYTES, part_bytes=PART_BYTES)
    data = os.urandom(12 << 20)
    artifact = store.put("files", io.BytesIO(data))
    assert store.put("files", io.BytesIO(data)) == artifact
    assert store.read(artifact.key) == data
    assert raw(store).head_object(Bucket=BUCKET, Key=f"{prefix}/{artifact.key}")["ETag"].endswith('-3"')
    assert unfinished(store, prefix) == []


def test_parts_that_were_joined_while_the_answer_was_lost_are_an_object(
    s3_server: S3Server, wire: BrokenWire, prefix: str
) -> None:
    store = over(wire, s3_server, prefix, multipart_bytes=PART_BYTES, part_bytes=PART_BYTES)
    wire.loses = lambda head: head.startswith(b"POST") and b"uploadId=" in head and wire.breaks == 0
    data = os.urandom(11 << 20)
    artifact = store.put("files", io.BytesIO(data))
    assert wire.breaks == 1
    assert store.read(artifact.key) == data
    assert unfinished(store, prefix) == []


def test_parts_that_can_not_be_sent_leave_nothing_behind(s3_server: S3Server, wire: BrokenWire, prefix: str) -> None:
    store = over(wire, s3_server, prefix, multipart_bytes=PART_BYTES, part_bytes=PART_BYTES, attempts=2)
    wire.loses = lambda head: head.startswith(b"PUT") and b"partNumber=2" in head
    with pytest.raises(Unavailable):
        store.put("files", io.BytesIO(os.urandom(11 << 20)))
    assert list(store.list("")) == []
    assert unfinished(store, prefix) == []


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_commit_whose_answer_was_lost_has_won(s3_server: S3Server, wire: BrokenWire, prefix: str, attempts: int) -> None:
    store = over(wire, s3_server, prefix, attempts=attempts)
    wire.loses = lambda head: head.startswith(b"PUT") and wire.breaks == 0
    assert store.commit("m.json", b"ours") is True
    assert wire.breaks == 1
    assert store.commit("m.json", b"ours") is False
    assert store.read("m.json") == b"ours"


def test_a_commit_that_lost_is_told_so_though_its_answer_was_lost_too(s3_server: S3Server, wire: BrokenWire, prefix: str) -> None:
    store = over(wire, s3_server, prefix, attempts=1)
    assert s3_server.store(prefix).commit("m.json", b"same") is True
    wire.loses = lambda head: head.startswith(b"PUT")
    assert store.commit("m.json", b"same") is False


def test_a_stream_that_breaks_goes_on_where_it_broke(s3_server: S3Server, wire: BrokenWire, prefix: str) -> None:
    data = os.urandom(6 << 20)
    key = s3_server.store(prefix).put("files", io.BytesIO(data)).key
    store = over(wire, s3_server, prefix)
    wire.budgets = [1_000_000, 2_500_000, 1_700_000]
    with store.open(key) as stream:
        assert stream.read() == data
    assert wire.breaks == 3


def test_a_stream_that_breaks_again_and_again_is_unavailable_and_never_short(
    s3_server: S3Server, wire: BrokenWire, prefix: str
) -> None:
    key = s3_server.store(prefix).put("files", io.BytesIO(os.urandom(3 << 20))).key
    store = over(wire, s3_server, prefix, attempts=1)
    wire.budgets = [1_000_000] + [0] * 100
    with pytest.raises(Unavailable), store.open(key) as stream:
        stream.read()


def test_an_object_that_was_replaced_while_it_was_read_is_not_mixed(s3_server: S3Server, wire: BrokenWire, prefix: str) -> None:
    direct, store = s3_server.store(prefix), over(wire, s3_server, prefix)
    direct.commit("a", b"1" * 3_000_000)
    wire.budgets = [1_500_000]
    with store.open("a") as stream:
        stream.read(10)
        direct.delete("a")
        direct.commit("a", b"2" * 3_000_000)
        with pytest.raises(Unavailable):
            stream.read()


def test_a_server_that_never_answers_is_unavailable_in_bounded_time(s3_server: S3Server, wire: BrokenWire, prefix: str) -> None:
    store = over(wire, s3_server, prefix, attempts=2, read_timeout_s=0.5)
    wire.is_silent = True
    began = time.monotonic()
    for verb in (lambda: store.put("files", io.BytesIO(b"x")), lambda: store.head("a"), lambda: store.commit("b", b"x")):
        with pytest.raises(Unavailable):
            verb()
    assert time.monotonic() - began < 15


def test_a_server_that_is_away_is_unavailable_and_good_again_when_it_is_back() -> None:
    with S3Server() as server:
        store = server.store("away")
        kept = store.put("files", io.BytesIO(b"kept"))
        server.stop(signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            store.put("files", io.BytesIO(b"lost"))
        for verb in (lambda: store.read(kept.key), lambda: list(store.list("")), lambda: store.commit("m", b"")):
            with pytest.raises(Unavailable):
                verb()
        assert time.monotonic() - began < 30
        assert server.url in caught.value.message
        server.start()
        assert store.read(kept.key) == b"kept"
        assert store.read(store.put("files", io.BytesIO(b"lost")).key) == b"lost"


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_is_permission_denied_and_the_message_names_the_variable(s3_server: S3Server, variable: str) -> None:
    store = s3_server.store("denied", environ={variable: "wrong"})
    for verb in (lambda: store.put("files", io.BytesIO(b"x")), lambda: store.read("a"), lambda: list(store.list(""))):
        with pytest.raises(PermissionDenied) as caught:
            verb()
        assert variable in caught.value.message
    with pytest.raises(PermissionDenied):
        store.head("a")


def test_no_keys_at_all_are_permission_denied_with_what_to_set(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    store = S3ObjectStore(s3_server.url, {"S3_ENDPOINT_URL": s3_server.environ["S3_ENDPOINT_URL"]})
    with pytest.raises(PermissionDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        store.read("a")


def test_a_missing_bucket_is_not_a_missing_artifact(s3_server: S3Server) -> None:
    def fresh() -> S3ObjectStore:
        return S3ObjectStore("s3://nowhere/x", s3_server.environ)

    for verb in (lambda: fresh().head("a"), lambda: fresh().read("a"), lambda: fresh().put("files", io.BytesIO(b"x"))):
        with pytest.raises(Unavailable) as caught:
            verb()
        assert not isinstance(caught.value, ArtifactNotFound)
        assert caught.value.reason == "BUCKET_NOT_FOUND"


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://bucket/../x", "s3://bucket/a?region=x", "s3://bucket#x"])
def test_a_url_that_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        choose.object_store(url)


def test_a_full_temporary_folder_is_unavailable_with_what_to_do(s3_server: S3Server) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, before[1]))  # no file of this process may grow beyond
    try:
        with pytest.raises(Unavailable, match="TMPDIR"):
            s3_server.store("full").put("files", io.BytesIO(bytes(20 << 20)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(s3_server.store("full").list("")) == []
