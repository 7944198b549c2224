"""What a grant allows: a job's own keys, the keys it was told to read, and no other spelling of any of them."""

from dataclasses import replace

import pytest

from services.common.errors import InvalidInput, PermissionDenied
from services.common.ports.database import Document
from services.common.ports.object_store import StoreRequest, StoreVerb
from services.common.store_access import NOTHING, Grant, granted, is_under
from services.common.transport.store_access_rpc import message_of, request_of

GRANT = Grant(("bases/abc", "manifests/bases/b.json"), ("jobs/mine/",), ("jobs/mine/checkpoints/",))
WRITES = [StoreVerb.PUT, StoreVerb.BEGIN_UPLOAD, StoreVerb.PUT_PART, StoreVerb.END_UPLOAD, StoreVerb.DROP_UPLOAD]
# Other names for, or ways to, jobs/mine/x and what lies beside it; each was refused by nobody in some product's history.
ODD_KEYS = [
    "jobs/mine/../other/x", "jobs/mine/..", "jobs/mine/./x", "jobs/mine//x", "/jobs/mine/x", "jobs/mine/%2e%2e/other/x",
    "jobs/mine/..%2fother", "jobs/mine/%252e%252e/other", "jobs%2fmine/x", "jobs\\mine\\x", "jobs/mine/..\\other",
    "jobs/mine/x\0", "jobs/mine/x\n", "jobs/mine/x?versionId=1", "jobs/mine/x#y", "jobs/mine/.staging/x",
    "jobs/mine/\u2024\u2024/other",
    "jobs/mine/\uff0e\uff0e/other", "jobs/mine/x;y", "jobs/mine/x&prefix=", "jobs/mine/ x", "s3://bucket/jobs/mine/x", "file:///etc/passwd",
    "", ".", "..", "/", "CON/../jobs",
]  # fmt: skip


@pytest.mark.parametrize("verb", [StoreVerb.GET, StoreVerb.HEAD, *WRITES])
def test_an_attempts_own_keys_are_its_own(verb: StoreVerb) -> None:
    for key in ("jobs/mine/manifest.json", "jobs/mine/checkpoints/00000001-0001.json", "jobs/mine/files/" + "a" * 64):
        GRANT.require(StoreRequest(verb, key))


def test_what_it_was_told_to_read_it_reads_and_does_not_write() -> None:
    for verb in (StoreVerb.GET, StoreVerb.HEAD):
        GRANT.require(StoreRequest(verb, "bases/abc"))
    for verb in (*WRITES, StoreVerb.DELETE, StoreVerb.LIST):
        with pytest.raises(PermissionDenied):
            GRANT.require(StoreRequest(verb, "bases/abc"))


@pytest.mark.parametrize("verb", list(StoreVerb))
def test_another_jobs_keys_and_everybodys_are_denied_for_every_verb(verb: StoreVerb) -> None:
    for key in (
        "jobs/mine2/x",
        "jobs/mine",
        "jobs/other/manifest.json",
        "bases/abcd",
        "datasets/x",
        "files/x",
        "jobs",
        "manifests/full/x",
    ):
        with pytest.raises(PermissionDenied):
            GRANT.require(StoreRequest(verb, key))


def test_results_are_never_deleted_checkpoints_are() -> None:
    GRANT.require(StoreRequest(StoreVerb.DELETE, "jobs/mine/checkpoints/x.json"))
    for key in (
        "jobs/mine/manifest.json",
        "jobs/mine/spec-1.json",
        "jobs/mine/checkpoints",
        "jobs/mine/checkpoints-published/1.json",
    ):
        with pytest.raises(PermissionDenied):
            GRANT.require(StoreRequest(StoreVerb.DELETE, key))


def test_a_list_stays_within_the_job() -> None:
    for prefix in ("jobs/mine/", "jobs/mine/checkpoints/", "jobs/mine/checkpoints/000"):
        GRANT.require(StoreRequest(StoreVerb.LIST, prefix))
    for prefix in ("jobs/", "jobs/mine", "jobs/m", "jobs/other/", "bases/"):
        with pytest.raises(PermissionDenied):
            GRANT.require(StoreRequest(StoreVerb.LIST, prefix))


@pytest.mark.parametrize("key", ODD_KEYS)
@pytest.mark.parametrize("verb", [StoreVerb.GET, StoreVerb.PUT, StoreVerb.DELETE, StoreVerb.LIST])
def test_a_key_that_is_spelled_in_another_way_is_refused_before_anything_resolves_it(verb: StoreVerb, key: str) -> None:
    everything = Grant((key,), ("jobs/mine/",), ("jobs/mine/",))
    with pytest.raises((InvalidInput, PermissionDenied)):
        everything.require(StoreRequest(verb, key))
    assert not is_under(key, ("jobs/mine/",))


def test_a_grant_comes_back_from_an_attempts_record_and_a_record_without_one_allows_nothing() -> None:
    document: Document = {"token_sha256": "x", **granted(GRANT)}
    assert Grant.of(document) == GRANT
    assert Grant.of({}) == NOTHING
    with pytest.raises(PermissionDenied):
        NOTHING.require(StoreRequest(StoreVerb.GET, "jobs/mine/x"))


def test_a_request_travels_whole() -> None:
    whole = StoreRequest(StoreVerb.PUT_PART, "jobs/a/b", "upload", 7, "sha", "crc", "f" * 32, "page")
    assert request_of(message_of(whole)) == whole
    assert {verb: request_of(message_of(replace(whole, verb=verb))).verb for verb in StoreVerb} == {v: v for v in StoreVerb}
    unset = message_of(whole)
    unset.verb = 0  # type: ignore[assignment]
    with pytest.raises(InvalidInput):
        request_of(unset)
    unset.verb = 77  # type: ignore[assignment]
    with pytest.raises(InvalidInput):
        request_of(unset)
