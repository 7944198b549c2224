"""Keys: what a secret looks like, when a key expires, and what is believed for how long."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.common import scopes
from services.common.backends.database.sql import SqlDatabase
from services.common.believed import BELIEVED_S, MAX_BELIEVED, Believed
from services.common.errors import Unauthenticated, Unavailable
from services.gateway import keys
from services.gateway.keys import ApiKey
from services.gateway.use_cases import Keys, authenticate


def test_a_secret_holds_256_random_bits_in_43_characters_after_the_prefix() -> None:
    secrets = {keys.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("afina-") and len(secret) == 49 and keys.is_secret(secret) for secret in secrets)


def test_what_is_kept_of_a_secret_is_its_sha256() -> None:
    assert keys.sha256_of("afina-x") == hashlib.sha256(b"afina-x").hexdigest()


def test_a_text_of_another_form_is_no_secret() -> None:
    good = keys.new_secret()
    assert not any(keys.is_secret(text) for text in ("", "sk-x", good[:-1], good + "a", good + "\n", good[:-1] + "é"))


def test_a_key_expires_at_its_time_and_one_without_a_time_never_does() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    key = ApiKey("projects/p/apiKeys/k", "p", expire_time=now.isoformat())
    assert key.has_expired(now)
    assert not key.has_expired(now - timedelta(microseconds=1))
    assert not ApiKey("projects/p/apiKeys/k", "p").has_expired(now)
    assert ApiKey.from_document(key.to_document()) == key


def test_a_key_from_before_there_were_scopes_may_what_it_might() -> None:
    stored = {"name": "projects/p/apiKeys/k", "project": "p", "display_name": "", "expire_time": "", "secret_sha256": "0" * 64}
    assert ApiKey.from_document({**stored, "inference_only": False}).scopes == scopes.SCOPES
    assert ApiKey.from_document({**stored, "inference_only": True}).scopes == ("inference", "models.read")


def test_a_key_whose_scopes_are_all_unknown_may_do_nothing() -> None:
    key = ApiKey.from_document({"name": "projects/p/apiKeys/k", "project": "p", "scopes": ["fly"]})
    assert key.scopes == ()


def test_writing_includes_reading_and_reading_includes_nothing_else() -> None:
    assert scopes.whole(["endpoints.promote"]) == ("endpoints.read", "endpoints.promote")
    assert scopes.whole(["endpoints.override"]) == ("endpoints.read", "endpoints.promote", "endpoints.override")
    assert scopes.whole(["files.write", "files.read"]) == ("files.read", "files.write")
    assert scopes.whole(scopes.READ_ONLY) == scopes.READ_ONLY
    assert scopes.whole(scopes.SCOPES) == scopes.SCOPES


def test_an_answer_is_believed_for_a_second_and_for_as_many_keys_as_there_is_room() -> None:
    now = [0.0]
    believed: Believed[ApiKey] = Believed(lambda: now[0])
    key = ApiKey("projects/p/apiKeys/k", "p")
    believed.put("a", key, 0)
    believed.put("b", None, 0)
    assert believed.get("a") == (True, key)
    assert believed.get("b") == (True, None)
    assert believed.get("c") == (False, None)
    now[0] = BELIEVED_S
    assert not believed.get("a")[0]
    believed.put("a", key, 0)
    for number in range(MAX_BELIEVED):
        believed.put(str(number), None, 0)
    assert not believed.get("a")[0]
    assert believed.get("0")[0]
    believed.forget("0")
    assert not believed.get("0")[0]


def test_an_answer_that_was_asked_for_before_a_revocation_is_not_believed() -> None:
    believed: Believed[ApiKey] = Believed(lambda: 0.0)
    asked_at = believed.revocations
    believed.forget("a")
    believed.put("a", ApiKey("projects/p/apiKeys/k", "p"), asked_at)
    assert believed.get("a") == (False, None)
    believed.put("a", None, believed.revocations)
    assert believed.get("a") == (True, None)


async def test_what_can_be_no_secret_is_refused_without_a_look_at_the_database(tmp_path: Path) -> None:
    away = Keys(SqlDatabase(f"sqlite:///{tmp_path}/no/such/folder/keys.db"))
    with pytest.raises(Unauthenticated) as refused:
        await authenticate(away, "sk-of-somebody-else")
    assert refused.value.reason == "INVALID_API_KEY"
    with pytest.raises(Unavailable):
        await authenticate(away, keys.new_secret())
    await away.database.close()
