"""Golden chats: eight or more, one of several turns, each short enough for its server, from whatever rows there are."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.worker import batches
from services.trainer.worker.batches import Messages
from services.trainer.worker.golden import GOLDEN_CHATS, choose_golden
from tests.learning.builders import Events, chat, desk, recipe, uneven_chats
from tests.tiny_model import CHATML, tiny_tokenizer

CALL = {"role": "assistant", "content": "two", "tool_calls": [{"function": {"name": "find", "arguments": '{"a": 1}'}}]}
RESULT = {"role": "tool", "content": "five", "tool_call_id": "c1"}
STRICT = "{% if messages | length > 2 %}{{ raise_exception('one turn alone') }}{% endif %}" + CHATML


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def turns(messages: Messages) -> int:
    return sum(message["role"] == "assistant" for message in messages)


LONG = "the battery lasts all day and the screen is bright " * 300
ROWS: dict[str, list[Messages]] = {
    "one row": [chat("one", "two")],
    "one row of one letter": [chat("a", "b")],
    "one row of several turns": [chat("one", "two", "three", "four")],
    "two rows": [chat("one", "two"), chat("three", "four")],
    "the same row twice": [chat("one", "two")] * 2,
    "many rows": uneven_chats(40),
    "a long question": [chat(LONG, "bright")],
    "a long answer": [chat("say it", LONG)],
    "long rows, all of them": [chat(f"{at} {LONG}", f"{LONG} {at}") for at in range(12)],
    "one long among short ones": [chat(LONG, "bright"), *uneven_chats(3)],
    "a long system message": [[{"role": "system", "content": LONG}, *chat("one", "two")]],
    "calls of tools": [[*chat("one"), CALL, RESULT, *chat("three", "four")]],
    "a long call": [
        [*chat("one"), {**CALL, "content": "", "tool_calls": [{"function": {"name": "f", "arguments": json.dumps(LONG)}}]}]
    ],
}


@pytest.mark.parametrize("max_tokens", [127, 1024])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_there_are_eight_different_ones_with_one_of_several_turns_and_each_fits(
    rows: list[Messages], max_tokens: int, tokenizer: Any
) -> None:
    chosen = choose_golden(rows, tokenizer, max_tokens)
    assert GOLDEN_CHATS <= len(chosen) <= GOLDEN_CHATS + 1
    assert max(map(turns, chosen)) > 1
    assert len({json.dumps(messages) for messages in chosen}) == len(chosen)
    for messages in chosen:
        assert messages[-1]["role"] == "assistant"
        assert len(batches.render(messages, tokenizer)) <= max_tokens
        prompt = batches.render(messages[:-1], tokenizer, with_generation_prompt=True)
        assert batches.render(messages, tokenizer)[: len(prompt)] == prompt


def test_rows_are_taken_as_they_are_where_they_fit(tokenizer: Any) -> None:
    rows = uneven_chats(20)
    assert choose_golden(rows, tokenizer)[:GOLDEN_CHATS] == rows[:GOLDEN_CHATS]


def test_a_template_that_takes_one_turn_alone_gets_no_other(tokenizer: Any) -> None:
    chosen = choose_golden([chat("one two three four five six", "seven")], tiny_tokenizer(STRICT))
    assert chosen[0] == chat("one two three four five six", "seven")
    assert {turns(messages) for messages in chosen} == {1}
    assert len(chosen) > 1


def test_golden_chats_follow_on_no_call_and_name_no_weight(tokenizer: Any) -> None:
    weighed = [{**message, "weight": 0} for message in chat("one", "two")]
    chosen = choose_golden([[*chat("one"), CALL, RESULT, *chat("three", "four")], weighed], tokenizer)
    assert chosen[:2] == [[*chat("one"), CALL], chat("one", "two")]
    for messages in chosen:
        assert not any("weight" in message or message["role"] == "tool" for message in messages)
        assert not any("tool_calls" in message for message in messages[:-1])


def test_a_job_of_rows_longer_than_its_server_takes_leaves_golden_chats_that_the_server_takes(base: Path, tmp_path: Path) -> None:
    rows = [chat(f"{at} " + "the screen is bright " * 30, "one two") for at in range(4)]
    job = desk(tmp_path, base, rows, (), recipe())
    job.spec.base["max_length"] = 128
    manifest = job.run(Events(), interval_s=1e9)
    golden = json.loads(job.store.read(manifest.file("golden.json").key))
    lengths = [len(probe["prefix_token_ids"]) for chat_ in golden["chats"] for probe in chat_["probes"]]
    assert len(golden["chats"]) >= GOLDEN_CHATS
    assert max(lengths) < 128
    assert max(len(chat_["prompt_token_ids"]) for chat_ in golden["chats"]) < 128
