"""Settings: parsed once, every mistake at once, secrets masked."""

from dataclasses import dataclass

import pytest

from services.common.errors import InvalidInput
from services.common.settings import mask, masked, parse, setting


@dataclass(frozen=True)
class Settings:
    store: str = setting("STORE", "where artifacts are")
    token: str = setting("TOKEN", "what the store asks for", secret=True)
    lease_s: float = setting("LEASE_S", "seconds", default=60.0)
    jobs: int = setting("JOBS", "how many", default=1)
    is_open: bool = setting("OPEN", "whether", default=False)


def test_values_have_the_types_of_their_fields() -> None:
    settings = parse(Settings, {"STORE": "file:///x", "LEASE_S": "1.5", "JOBS": "3", "OPEN": "true", "TOKEN": "t"})
    assert settings == Settings("file:///x", "t", 1.5, 3, True)


def test_every_mistake_is_told_at_once_and_secrets_are_not() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(Settings, {"LEASE_S": "soon", "JOBS": "1.5", "OPEN": "maybe"})
    assert [v.field for v in caught.value.violations] == ["STORE", "TOKEN", "LEASE_S", "JOBS", "OPEN"]


def test_an_empty_variable_is_a_missing_one() -> None:
    with pytest.raises(InvalidInput):
        parse(Settings, {"STORE": "", "TOKEN": "t"})


def test_what_is_printed_masks_secrets() -> None:
    printed = masked(parse(Settings, {"STORE": "s", "TOKEN": "geheim"}))
    assert printed["TOKEN"] == "***"
    assert "geheim" not in str(printed)


def test_what_is_printed_masks_the_password_of_a_url_and_nothing_else() -> None:
    @dataclass(frozen=True)
    class Urls:
        database: str = setting("DATABASE", "where")
        store: str = setting("STORE", "where", default="s3://bucket/a:b@c")

    printed = masked(parse(Urls, {"DATABASE": "postgresql://afina:ge@heim@host:5432/db?schema=trainer"}))
    assert printed == {"DATABASE": "postgresql://afina:***@host:5432/db?schema=trainer", "STORE": "s3://bucket/a:b@c"}


def test_a_password_in_a_urls_query_is_not_printed_either() -> None:
    assert mask("postgresql://h/db?user=u&password=hunter2&schema=s") == "postgresql://h/db?user=u&password=***&schema=s"
    assert mask("postgresql://h/db?sslpassword=x") == "postgresql://h/db?sslpassword=***"
