"""Labels are scored by the tokens in which they differ, with as few requests as that takes."""

import math
from pathlib import Path

import pytest

from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import InvalidInput
from services.common.ports.manifest import put_folder
from services.evaluator.worker.label_trie import LabelTrie, Step
from services.evaluator.worker.tokenizer import ChatTokenizer, fetch_tokenizer
from tests.unit.evaluator.scripted_gateway import TEMPLATE, WORDS, save_tokenizer, words_of

END = 99


def test_labels_whose_first_tokens_differ_cost_one_request() -> None:
    trie = LabelTrie({"a": [1, 7], "b": [2], "c": [3, 8, 9]}, END)
    assert trie.steps == (Step((), (1, 2, 3)),)
    assert trie.totals({(): {1: -1.0, 2: -2.0, 3: -3.0}}) == {"a": -1.0, "b": -2.0, "c": -3.0}


def test_labels_that_go_together_are_followed_to_where_they_part() -> None:
    trie = LabelTrie({"a": [1, 5, 7], "b": [1, 5, 8], "c": [2]}, END)
    assert trie.steps == (Step((), (1, 2)), Step((1,), (5,)), Step((1, 5), (7, 8)))
    read = {(): {1: -0.5, 2: -1.0}, (1,): {5: -0.25}, (1, 5): {7: -2.0, 8: -0.125}}
    assert trie.totals(read) == {"a": -2.75, "b": -0.875, "c": -1.0}


def test_a_label_that_begins_another_is_told_by_the_end_of_the_turn() -> None:
    trie = LabelTrie({"very": [1], "very good": [1, 2], "bad": [3]}, END)
    assert trie.steps == (Step((), (1, 3)), Step((1,), (END, 2)))


def test_the_scores_of_all_labels_sum_to_one_where_nothing_else_can_be_said() -> None:
    """Closed form: the leaves of a tree of choices exhaust it."""
    half = math.log(0.5)
    trie = LabelTrie({"a": [1, 1], "b": [1, 2], "c": [2]}, END)
    totals = trie.totals({(): {1: half, 2: half}, (1,): {1: half, 2: half}})
    assert math.fsum(math.exp(value) for value in totals.values()) == pytest.approx(1.0)


def test_more_candidates_than_a_request_may_name_are_asked_in_several() -> None:
    trie = LabelTrie({str(i): [i] for i in range(1, 21)}, END)
    assert [len(step.token_ids) for step in trie.steps] == [16, 4]
    assert {step.prefix for step in trie.steps} == {()}


@pytest.mark.parametrize("sequences", [{}, {"a": [1]}, {"a": [1], "b": [1]}, {"a": [1], "b": []}])
def test_labels_that_tokens_can_not_tell_apart_are_refused(sequences: dict[str, list[int]]) -> None:
    with pytest.raises(InvalidInput):
        LabelTrie(sequences, END)


def test_a_chat_is_tokenised_by_the_bases_own_template(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(save_tokenizer(tmp_path))
    ids = tokenizer.prompt_ids([{"role": "user", "content": "lovely item"}])
    assert words_of(ids) == "<|im_start|> user lovely item <|im_end|> <|im_start|> assistant"


def test_a_label_is_tokenised_as_the_template_writes_it_with_the_token_that_ends_the_turn(tmp_path: Path) -> None:
    ids, end = ChatTokenizer(save_tokenizer(tmp_path)).label_ids(["positive", "very good"])
    assert ids == {"positive": (WORDS.index("positive"),), "very good": (WORDS.index("very"), WORDS.index("good"))}
    assert end == WORDS.index("<|im_end|>")


def test_a_base_without_a_template_takes_the_one_that_the_catalogue_declares(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, None)
    declared = ChatTokenizer(folder, TEMPLATE)
    assert words_of(declared.prompt_ids([{"role": "user", "content": "item"}])).endswith("<|im_end|> <|im_start|> assistant")
    assert declared.label_ids(["positive"]) == ({"positive": (WORDS.index("positive"),)}, WORDS.index("<|im_end|>"))
    with pytest.raises(InvalidInput, match="no chat template"):
        ChatTokenizer(folder)


def test_a_tokenizer_is_fetched_without_the_weights_beside_it(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "base")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    store = LocalObjectStore(tmp_path / "objects")
    manifest = put_folder(store, "bases", folder, "base", {})

    fetched = fetch_tokenizer(store, manifest, tmp_path / "cache")

    names = {path.name for path in fetched.iterdir()}
    assert "model.safetensors" not in names
    assert {"tokenizer.json", "config.json"} <= names
    assert fetched != tmp_path / "cache" / manifest.digest
    assert ChatTokenizer(fetched).prompt_ids([{"role": "user", "content": "a"}])
