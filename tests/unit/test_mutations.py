"""The list of mutations is held to the code: a mutation that finds no line would be one that nobody tries."""

from pathlib import Path

import pytest

from tests.mutations.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]


def test_each_mutation_finds_its_line_exactly_once_and_changes_it() -> None:
    rotten = []
    for mutation in MUTATIONS:
        text = (ROOT / mutation.file).read_text()
        if text.count(mutation.old) != 1 or mutation.old == mutation.new:
            rotten.append(f"{mutation.name}: {text.count(mutation.old)} times in {mutation.file}")
    assert rotten == []


def test_each_mutation_has_a_name_of_its_own_and_tests_that_are_there() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 40
    files = {test for mutation in MUTATIONS for test in mutation.tests if test.startswith("tests/")}
    assert [test for test in sorted(files) if not (ROOT / test.partition("::")[0]).is_file()] == []


def test_a_mutation_whose_line_is_gone_is_an_error() -> None:
    gone = Mutation("gone", "a.py", "if x:", "if not x:", (), "")
    with pytest.raises(ValueError, match="has 0 times"):
        gone.applied_to("nothing of it")
