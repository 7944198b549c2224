"""Whether a dataset's test rows were seen in training, as a client asks it: the real program, real files."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from afina.v1 import dataset_pb2

from tests.builders import chat, jsonl
from tests.rpc.dataset_world import PROJECT, Running, finalize, refused

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "grey", "cats", "watch", "from")


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Running]:
    program = await Running(tmp_path).start()
    yield program
    await program.stop()


def story(n: int, lead: str = "") -> dict[str, Any]:
    """A row of its own: the words in another order, with its number between."""
    at = n % len(WORDS)
    told = " ".join(f"{word}{n}" for word in (WORDS[at:] + WORDS[:at]))
    return chat(f"{lead}{told}", f"answer number {n}")


async def dataset(program: Running, rows: list[dict[str, Any]], name: str, **split: Any) -> dataset_pb2.Dataset:
    file = await program.upload(jsonl(rows), name)
    made: dataset_pb2.Dataset = await program.files.FinalizeFile(finalize(file.name, **split))
    return made


async def compared(program: Running, one: Any, *others: Any) -> dataset_pb2.CompareDatasetsResponse:
    request = dataset_pb2.CompareDatasetsRequest(name=one.name, others=[other.name for other in others])
    found: dataset_pb2.CompareDatasetsResponse = await program.datasets.CompareDatasets(request)
    return found


async def test_the_test_rows_of_a_split_are_in_none_of_its_other_sides(program: Running) -> None:
    one = await dataset(program, [story(n) for n in range(100)], "one.jsonl")
    found = await compared(program, one, one)
    assert (found.row_count, found.overlap_count) == (10, 0)


async def test_another_split_of_the_same_file_has_most_test_rows_in_training(program: Running) -> None:
    rows = [story(n) for n in range(200)]
    one = await dataset(program, rows, "one.jsonl")
    other = await dataset(program, rows, "one.jsonl", seed=7)
    test = program.store.read(one.test.artifact.key).splitlines()
    learned = {line for part in (other.train, other.validation) for line in program.store.read(part.artifact.key).splitlines()}
    expected = [number for number, line in enumerate(test, 1) if line in learned]
    found = await compared(program, one, other)
    assert list(found.rows) == expected
    assert found.overlap_count == len(expected) > 15


async def test_rows_that_differ_by_case_a_word_or_an_instruction_are_found_and_others_are_not(program: Running) -> None:
    one = await dataset(program, [story(n, "Tell me: ") for n in range(60)], "one.jsonl")
    test = [int(line.rpartition(b"number ")[2].split(b'"')[0]) for line in program.store.read(one.test.artifact.key).splitlines()]
    shouted, longer = test[0], test[3]
    near = story(longer)
    near["messages"][0]["content"] = "Well " + near["messages"][0]["content"]
    loud = story(shouted)
    loud["messages"][0]["content"] = loud["messages"][0]["content"].upper() + "!"
    instruction = "Please read what follows with great care and then answer in the fewest words that you can find. "
    others = [story(n) for n in range(1000, 1060)]
    learned = [*others, loud, near]
    for row in learned:
        row["messages"][0]["content"] = instruction + row["messages"][0]["content"]
    other = await dataset(program, learned, "other.jsonl", train_fraction=1.0)
    found = await compared(program, one, other)
    assert list(found.rows) == [1, 4]
    strange = await dataset(program, [story(n) for n in range(2000, 2060)], "strange.jsonl")
    assert (await compared(program, one, strange)).overlap_count == 0
    assert (await compared(program, one, strange, other)).overlap_count == 2


async def test_a_comparison_is_made_once_and_kept(program: Running) -> None:
    one = await dataset(program, [story(n) for n in range(60)], "one.jsonl")
    first = await compared(program, one, one)
    assert one.train.artifact.key
    for part in (one.train, one.test):
        program.store.delete(part.artifact.key)
    assert await compared(program, one, one) == first


async def test_nothing_to_compare_with_and_datasets_of_others_are_refused(program: Running) -> None:
    one = await dataset(program, [story(n) for n in range(60)], "one.jsonl")
    for others, code in (
        ([], grpc.StatusCode.INVALID_ARGUMENT),
        ([one.name] * 17, grpc.StatusCode.INVALID_ARGUMENT),
        ([f"{PROJECT}/datasets/ds-none"], grpc.StatusCode.NOT_FOUND),
        (["projects/other/datasets/ds-1"], grpc.StatusCode.NOT_FOUND),
    ):
        request = dataset_pb2.CompareDatasetsRequest(name=one.name, others=others)
        assert (await refused(program.datasets.CompareDatasets(request)))[0] == code
