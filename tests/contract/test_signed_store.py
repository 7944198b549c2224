"""What a signature is worth on a real S3 server: one verb, one key, these bytes, for so long, and to whoever may ask for it."""

import base64
import hashlib
import io
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit

import pytest

from services.common.backends import choose
from services.common.backends.object_store.s3 import S3ObjectStore
from services.common.backends.object_store.signed import TOKEN_VARIABLE, SignedObjectStore
from services.common.errors import ArtifactNotFound, InvalidInput, PermissionDenied, Unauthenticated, Unavailable
from services.common.ports.object_store import StoreRequest, StoreVerb
from services.common.store_access import Grant
from tests.servers import S3Server
from tests.signing import SigningServer

NAME = "projects/default/fineTuningJobs/mine"
DATA = b"what is written"
SHA256 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()


@pytest.fixture
def keys(s3_server: S3Server) -> S3ObjectStore:
    """The store as a program has it: with the keys."""
    store: S3ObjectStore = s3_server.store(f"signed/{uuid.uuid4()}")
    store.commit("bases/abc", b"base")
    store.commit("jobs/other/manifest.json", b"theirs")
    return store


@pytest.fixture
def signing(keys: S3ObjectStore) -> Iterator[SigningServer]:
    server = SigningServer(keys)
    server.grants[NAME] = Grant(("bases/abc",), ("jobs/mine/",), ("jobs/mine/checkpoints/",))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def store(signing: SigningServer) -> SignedObjectStore:
    """The store as a worker has it."""
    opened = choose.object_store(signing.url(NAME), {TOKEN_VARIABLE: signing.token})
    assert isinstance(opened, SignedObjectStore)
    return opened


def send(url: str, method: str, body: bytes | None = None, **headers: str) -> int:
    """Send a request as somebody would who has found a URL. Returns: the status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, named, method=method), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_worker_writes_its_jobs_keys_and_reads_what_it_was_told_to(store: SignedObjectStore, keys: S3ObjectStore) -> None:
    assert store.read("bases/abc") == b"base"
    artifact = store.put("jobs/mine/files", io.BytesIO(DATA))
    assert keys.read(artifact.key) == DATA
    assert store.commit("jobs/mine/checkpoints/1.json", b"{}")
    assert list(store.list("jobs/mine/")) == ["jobs/mine/checkpoints/1.json", artifact.key]
    store.delete("jobs/mine/checkpoints/1.json")
    with pytest.raises(ArtifactNotFound):
        store.head("jobs/mine/checkpoints/1.json")


def test_nothing_else_is_read_listed_written_or_deleted(store: SignedObjectStore, keys: S3ObjectStore) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: store.read("jobs/other/manifest.json"),
        lambda: store.head("jobs/other/manifest.json"),
        lambda: list(store.list("jobs/")),
        lambda: list(store.list("jobs/mine")),
        lambda: store.commit("jobs/other/checkpoints/9.json", b"poison"),
        lambda: store.put("jobs/other/files", io.BytesIO(b"poison")),
        lambda: store.put("bases", io.BytesIO(b"poison")),
        lambda: store.delete("jobs/other/manifest.json"),
        lambda: store.delete("bases/abc"),
        lambda: store.delete("jobs/mine/manifest.json"),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionDenied):
            attempt()
    for odd in ("jobs/mine/../other/manifest.json", "jobs/mine/%2e%2e/other/manifest.json"):
        with pytest.raises(InvalidInput):
            store.read(odd)
    with pytest.raises(InvalidInput):
        list(store.list(""))
    assert sorted(keys.list("")) == ["bases/abc", "jobs/other/manifest.json"]


def test_a_stolen_url_is_of_no_use_for_another_verb_or_another_key(keys: S3ObjectStore) -> None:
    keys.commit("jobs/mine/a", DATA)
    reading = keys.sign(StoreRequest(StoreVerb.GET, "jobs/mine/a"), 60)
    assert send(reading, "GET") == 200
    for method, body in (("PUT", b"x"), ("DELETE", None), ("POST", b"x")):
        assert send(reading, method, body) in (403, 405), method
    path = urlsplit(reading).path
    for other in ("jobs/other/manifest.json", "jobs/mine/../other/manifest.json", "jobs/mine/%2e%2e/other/manifest.json"):
        assert send(reading.replace(path, path.replace("jobs/mine/a", other)), "GET") in (400, 403)
    for more in ("&prefix=", "&versionId=1", "&acl", "&uploads", "&response-content-type=text/html"):
        assert send(reading + more, "GET") == 403, more
    assert send(reading.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"), "GET") == 403
    listing = keys.sign(StoreRequest(StoreVerb.LIST, "jobs/mine/"), 60)
    assert send(listing, "GET") == 200
    assert send(listing.replace(quote("jobs/mine/", safe=""), quote("jobs/", safe="")), "GET") == 403


def test_a_stolen_url_writes_the_bytes_it_was_signed_for_once_and_over_nothing(keys: S3ObjectStore) -> None:
    def write(url: str, body: bytes = DATA, **headers: str) -> int:
        return send(url, "PUT", body, **{"x_amz_checksum_sha256": SHA256, "If_None_Match": "*", **headers})

    url = keys.sign(StoreRequest(StoreVerb.PUT, "jobs/mine/b", sha256=SHA256), 60)
    assert send(url, "PUT", DATA, x_amz_checksum_sha256=SHA256) == 403  # without the condition
    assert write(url, If_None_Match='"etag"') == 403
    assert write(url, b"something else!") == 400
    other = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    assert write(url, b"x", x_amz_checksum_sha256=other) == 403
    with pytest.raises(ArtifactNotFound):
        keys.head("jobs/mine/b")
    assert write(url) == 200
    assert write(url) == 412
    assert keys.read("jobs/mine/b") == DATA


def test_a_stolen_url_is_dead_after_its_time(keys: S3ObjectStore) -> None:
    keys.commit("jobs/mine/a", DATA)
    url = keys.sign(StoreRequest(StoreVerb.GET, "jobs/mine/a"), 1)
    end_s = time.monotonic() + 10
    while send(url, "GET") == 200:
        assert time.monotonic() < end_s, "it lives on"
        threading.Event().wait(0.2)
    assert send(url, "GET") == 403


def test_a_token_that_is_revoked_or_guessed_opens_nothing(signing: SigningServer, store: SignedObjectStore) -> None:
    assert store.read("bases/abc") == b"base"
    for environ in ({TOKEN_VARIABLE: "guessed"}, {}):
        with pytest.raises(Unauthenticated):
            choose.object_store(signing.url(NAME), environ).read("bases/abc")
    del signing.grants[NAME]
    for verb in (lambda: store.read("bases/abc"), lambda: store.commit("jobs/mine/x", b""), lambda: store.delete("jobs/mine/x")):
        with pytest.raises(Unauthenticated):
            verb()


def test_a_worker_waits_for_a_program_that_is_away_and_goes_on(signing: SigningServer, store: SignedObjectStore) -> None:
    store.read("bases/abc")
    signing.leave()
    back = threading.Timer(1.0, signing.start)
    back.start()
    assert store.put("jobs/mine/files", io.BytesIO(DATA)).size_bytes == len(DATA)
    back.join()


def test_a_program_that_stays_away_is_unavailable_in_bounded_time_and_says_where(signing: SigningServer) -> None:
    signing.leave()
    began_s = time.monotonic()
    with pytest.raises(Unavailable, match=signing.address):
        SignedObjectStore(f"{signing.url(NAME)}&patience_s=0.5", {TOKEN_VARIABLE: "secret"}).read("bases/abc")
    assert time.monotonic() - began_s < 20
    signing.start()


def test_a_checkpoint_of_eight_files_costs_milliseconds_more_than_with_the_keys(
    signing: SigningServer, store: SignedObjectStore, keys: S3ObjectStore
) -> None:
    def save(to: S3ObjectStore, prefix: str) -> float:
        began_s = time.monotonic()
        files = [to.put(f"{prefix}/files", io.BytesIO(bytes([n]) * 200_000)).key for n in range(8)]
        to.commit(f"{prefix}/1.json", json.dumps(files).encode())
        assert len(list(to.list(f"{prefix}/"))) == 9
        return time.monotonic() - began_s

    save(store, "jobs/mine/warm")
    signed_s, asked = save(store, "jobs/mine/checkpoints"), len(signing.asked)
    print(f"a checkpoint: {signed_s:.3f} s signed, {save(keys, 'jobs/mine/keys'):.3f} s with the keys; {asked} signatures")
    assert signed_s < 2.0
    assert asked <= 2 * 10  # one a request


@pytest.mark.parametrize(
    "url",
    ["signed://", "signed://h:1", "signed://h:1/projects/p/fineTuningJobs/j?store=s3://b", "signed://h:1/x/attempts/1",
     "signed://h:1/x/attempts/one?store=s3://b", "signed://h:1/x/attempts/1?store=file:///etc",
     "signed://h:1/x/attempts/1?store=s3://b&patience_s=inf"],
)  # fmt: skip
def test_a_url_that_names_no_attempt_or_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        choose.object_store(url, {TOKEN_VARIABLE: "secret"})
