"""Which tokens are trained, and which rows are refused."""

from typing import Any

import pytest

from services.common.errors import InvalidInput
from services.trainer.worker import batches
from services.trainer.worker.batches import Chat
from tests.learning.builders import chat
from tests.tiny_model import CHATML, CHATML_WITH_GENERATION_BLOCK, END, START, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def row(*turns: str, weights: tuple[int, ...] = ()) -> Chat:
    """A chat as a row of a dataset; weights are those of the answers."""
    messages = chat(*turns)
    for answer, weight in zip(messages[1::2], weights, strict=False):
        answer["weight"] = weight
    return Chat(messages)


def ends(tokenizer: Any) -> set[int]:
    return {tokenizer.eos_token_id}


def pieces(tokenizer: Any, *texts: str) -> list[int]:
    """Tokenise piece by piece, without any template: the independent derivation."""
    return [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("template", [None, CHATML_WITH_GENERATION_BLOCK], ids=["by prefixes", "by the template's own marks"])
def test_every_answer_is_trained_with_its_end_token_and_nothing_else_is(template: str | None) -> None:
    tokenizer = tiny_tokenizer(template) if template else tiny_tokenizer()
    encoded = batches.encode(row("one two", "three four", "five", "six"), tokenizer, ends(tokenizer))
    expected: list[tuple[int, bool]] = []
    for role, text in (("user", "one two"), ("assistant", "three four"), ("user", "five"), ("assistant", "six")):
        is_answer = role == "assistant"
        expected += [(token, False) for token in pieces(tokenizer, START, role + "\n")]
        expected += [(token, is_answer) for token in pieces(tokenizer, text, END)]
        expected += [(token, False) for token in pieces(tokenizer, "\n")]
    assert list(zip(encoded.ids, encoded.has_loss, strict=True)) == expected


@pytest.mark.parametrize("template", [CHATML, CHATML_WITH_GENERATION_BLOCK], ids=["by prefixes", "by the template's own marks"])
def test_an_answer_of_weight_0_is_shown_and_not_trained_and_its_weight_is_not_shown(template: str) -> None:
    blabbing = template.replace("{% endfor %}", "{% if 'weight' in message %}{{ 'weight' }}{% endif %}{% endfor %}", 1)
    tokenizer = tiny_tokenizer(blabbing)
    turns = ("one two", "three four", "five", "six")
    weighed, plain = (batches.encode(row(*turns, weights=w), tokenizer, ends(tokenizer)) for w in ((0, 1), ()))
    assert weighed.ids == plain.ids
    assert [token for token, has in zip(weighed.ids, weighed.has_loss, strict=True) if has] == pieces(tokenizer, "six", END)


def test_an_answer_of_weight_0_is_refused_where_the_marks_of_the_template_do_not_tell_it_apart() -> None:
    tokenizer = tiny_tokenizer(
        "{% generation %}{% for message in messages %}{{ message['content'] }}{% endfor %}{% endgeneration %}"
    )
    with pytest.raises(InvalidInput) as caught:
        batches.encode(row("one", "two", "three", "four", weights=(0,)), tokenizer, ends(tokenizer))
    assert caught.value.reason == "WEIGHTS_NOT_TOLD_APART"


def tool_row(content: dict[str, str]) -> Chat:
    """A chat whose answer calls a tool."""
    function = {"name": "find", "arguments": '{"what": "battery"}'}
    answer = {"role": "assistant", **content, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    return Chat([{"role": "user", "content": "one"}, answer], [{"type": "function", "function": {"name": "find"}}])


WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
WITH_CALLS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{{ message['content'] }}"
    "{% for call in message['tool_calls'] %}{{ call['function']['arguments'] | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("content", [{}, {"content": "six"}], ids=["a call alone", "text and a call"])
def test_tools_and_calls_are_rendered_as_a_server_renders_them(content: dict[str, str]) -> None:
    tokenizer = tiny_tokenizer(WITH_TOOLS + WITH_CALLS)
    encoded = batches.encode(tool_row(content), tokenizer, ends(tokenizer))
    answer = content.get("content", "") + '{"what": "battery"}' + END
    tools = '[{"type": "function", "function": {"name": "find"}}]'
    assert tokenizer.decode(encoded.ids) == f"{tools}{START}user\none{END}\n{START}assistant\n{answer}\n"
    trained = [token for token, has in zip(encoded.ids, encoded.has_loss, strict=True) if has]
    assert tokenizer.decode(trained) == answer


@pytest.mark.parametrize(
    ("template", "content", "reason"),
    [
        (WITH_CALLS, {}, "TOOLS_IGNORED"),
        (WITH_TOOLS + CHATML, {"content": "six"}, "TOOL_CALLS_IGNORED"),
        (WITH_TOOLS + CHATML, {}, "TEMPLATE_REFUSED"),
        (WITH_TOOLS + CHATML.replace("+ message['content']", "+ message.get('content')"), {}, "TEMPLATE_REFUSED"),
    ],
    ids=["tools", "calls", "no content", "content of None"],
)
def test_what_the_template_does_not_show_is_refused_with_its_row(template: str, content: dict[str, str], reason: str) -> None:
    tokenizer = tiny_tokenizer(template)
    with pytest.raises(InvalidInput) as caught:
        batches.encode_rows("train", [row("one", "two"), tool_row(content)], tokenizer, ends(tokenizer), 512)
    assert [(v.field, v.reason) for v in caught.value.violations] == [("train[2]", reason)]


def test_the_end_token_is_trained_though_it_is_also_the_padding_token(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [batches.encode(row("one", answer), tokenizer, ends(tokenizer)) for answer in ("two", "two three four five six")]
    for batch in (batches.pack(rows, _cpu()), batches.pad(rows, tokenizer.pad_token_id, _cpu())):
        assert batch.targets.tolist().count(tokenizer.eos_token_id) == 2
        assert len(batch.targets) == sum(row.loss_count for row in rows)


def test_a_row_that_is_too_long_is_refused_and_every_one_is_listed(tokenizer: Any) -> None:
    long = "nobody answered my letter " * 20
    chats = [row("one", "two"), row(long, "two"), row("three", "four"), row("five", long)]
    with pytest.raises(InvalidInput) as caught:
        batches.encode_rows("train", chats, tokenizer, ends(tokenizer), 40)
    assert [(v.field, v.reason) for v in caught.value.violations] == [("train[2]", "ROW_TOO_LONG"), ("train[4]", "ROW_TOO_LONG")]
    assert "allowed are 40" in caught.value.violations[0].description


def test_a_template_that_rewrites_earlier_turns_is_refused_for_the_rows_it_concerns() -> None:
    forgetful = (
        "{% for message in messages %}{% if message['role'] == 'assistant' and not loop.last %}{{ '[gone]' }}"
        "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = tiny_tokenizer(forgetful)
    chats = [row("one", "two"), row("one", "two", "three", "four")]
    with pytest.raises(InvalidInput) as caught:
        batches.encode_rows("train", chats, tokenizer, ends(tokenizer), 512)
    assert [(v.field, v.reason) for v in caught.value.violations] == [("train[2]", "TEMPLATE_NOT_PREFIX_STABLE")]


def test_what_the_template_itself_refuses_is_told_with_its_own_words() -> None:
    tokenizer = tiny_tokenizer("{{ raise_exception('System role not supported') }}")
    with pytest.raises(InvalidInput, match="System role not supported") as caught:
        batches.encode(row("one", "two"), tokenizer, ends(tokenizer))
    assert caught.value.reason == "TEMPLATE_REFUSED"


def test_a_chat_without_an_answer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        batches.encode(row("one"), tokenizer, ends(tokenizer))
    assert caught.value.reason == "NO_ASSISTANT_TURN"


def test_every_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    epochs = []
    for epoch in range(3):
        steps = [batches.rows_of_step(epoch * 4 + at, 10, 3, seed=5) for at in range(batches.steps_per_epoch(10, 3))]
        assert [len(step) for step in steps] == [3, 3, 3, 1]
        epochs.append([row for step in steps for row in step])
        assert sorted(epochs[-1]) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [*batches.rows_of_step(4, 10, 3, seed=5)] == epochs[1][:3]


def test_packing_wastes_nothing_and_keeps_every_row_whole(tokenizer: Any) -> None:
    rows = [batches.encode(row("one " * n, "two"), tokenizer, ends(tokenizer)) for n in (1, 30, 2, 20, 3, 10)]
    groups = batches.divide(rows, 60, batches.packed_area)
    assert sorted(row.ids for group in groups for row in group) == sorted(row.ids for row in rows)
    for group in groups:
        batch = batches.pack(group, _cpu())
        assert batch.input_ids.shape == (1, sum(len(row.ids) for row in group))
        assert batch.position_ids[0].tolist() == [at for row in group for at in range(len(row.ids))]
        assert len(group) == 1 or batches.packed_area(group) <= 60


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
