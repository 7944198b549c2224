"""Resource names come from outside and are matched whole."""

import pytest

from services.common.errors import InvalidInput
from services.common.names import new_id, parse, project_of


def test_a_name_is_split_by_its_pattern() -> None:
    assert parse("projects/{project}/files/{file}", "projects/p-1/files/file-2") == {"project": "p-1", "file": "file-2"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "projects/p/files/",
        "projects/p/files/a/b",
        "projects//files/a",
        "projects/p/files/../x",
        "x/projects/p/files/a",
        "projects/p/files/a\n",
    ],
)
def test_what_is_not_a_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        parse("projects/{project}/files/{file}", name)


def test_the_project_is_the_first_pair() -> None:
    assert project_of("projects/p") == project_of("projects/p/files/x") == "p"
    for bad in ("", "project/p", "projects/", "projects/p x"):
        with pytest.raises(InvalidInput):
            project_of(bad)


def test_fresh_ids_differ() -> None:
    assert len({new_id("ftjob") for _ in range(1000)}) == 1000
