"""A chat has one normal form, and every flaw of a chat is found."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.chats import Chat, read_chat

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def chat_of(*messages: Any, **fields: Any) -> Chat:
    """Read a chat that is good."""
    chat = read_chat({"messages": list(messages), **fields})
    assert isinstance(chat, Chat), chat
    return chat


def flaws_of(value: dict[str, Any]) -> list[tuple[str, str]]:
    """Read a chat that is not."""
    flaws = read_chat(value)
    assert isinstance(flaws, list), flaws
    assert all(flaw.description.endswith(".") for flaw in flaws)
    return [(flaw.path, flaw.reason) for flaw in flaws]


@pytest.mark.parametrize(
    ("message", "path", "reason"),
    [
        ("hi", "", "MESSAGE_INVALID"),
        ({"content": "hi"}, ".role", "ROLE_MISSING"),
        ({"role": None, "content": "hi"}, ".role", "ROLE_MISSING"),
        ({"role": "human", "content": "hi"}, ".role", "ROLE_UNKNOWN"),
        ({"role": ["user"], "content": "hi"}, ".role", "ROLE_UNKNOWN"),
        ({"role": "user"}, ".content", "CONTENT_MISSING"),
        ({"role": "user", "content": None}, ".content", "CONTENT_MISSING"),
        ({"role": "assistant", "content": None}, ".content", "CONTENT_MISSING"),
        ({"role": "user", "content": 3}, ".content", "CONTENT_INVALID"),
        ({"role": "user", "content": []}, ".content", "CONTENT_INVALID"),
        ({"role": "user", "content": ["hi"]}, ".content[0]", "CONTENT_INVALID"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0]", "CONTENT_INVALID"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ".content[0]", "PART_UNSUPPORTED"),
        ({"role": "assistant", "content": ""}, ".content", "ASSISTANT_EMPTY"),
        ({"role": "assistant", "content": " \n"}, ".content", "ASSISTANT_EMPTY"),
        ({"role": "assistant", "content": "x", "weight": 0.5}, ".weight", "WEIGHT_INVALID"),
        ({"role": "assistant", "content": "x", "weight": True}, ".weight", "WEIGHT_INVALID"),
        ({"role": "assistant", "content": "x", "weight": "1"}, ".weight", "WEIGHT_INVALID"),
        ({"role": "user", "content": "x", "weight": 1}, ".weight", "WEIGHT_MISPLACED"),
        ({"role": "user", "content": "x", "name": ""}, ".name", "NAME_INVALID"),
        ({"role": "user", "content": "x", "name": 1}, ".name", "NAME_INVALID"),
        ({"role": "user", "content": "x", "reasoning": "y"}, ".reasoning", "FIELD_UNKNOWN"),
        ({"role": "assistant", "content": "x", "function_call": {}}, ".function_call", "FUNCTIONS_UNSUPPORTED"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, ".tool_calls", "TOOL_CALLS_MISPLACED"),
        ({"role": "assistant", "content": "x", "tool_calls": []}, ".tool_calls", "TOOL_CALLS_INVALID"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, ".tool_calls[0]", "TOOL_CALLS_INVALID"),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[1"}}]},
            ".tool_calls[0].function.arguments",
            "TOOL_ARGUMENTS_INVALID",
        ),
        ({"role": "tool", "content": "x"}, ".tool_call_id", "TOOL_CALL_ID_MISSING"),
        ({"role": "tool", "content": "x", "tool_call_id": "c9"}, ".tool_call_id", "TOOL_CALL_UNKNOWN"),
        ({"role": "user", "content": "x", "tool_call_id": "c1"}, ".tool_call_id", "TOOL_CALL_ID_MISPLACED"),
    ],
)
def test_a_message_that_is_wrong_gives_its_place_and_its_reason(message: Any, path: str, reason: str) -> None:
    assert flaws_of({"messages": [USER, message, ASSISTANT]}) == [(f"messages[1]{path}", reason)]


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({}, "", "MESSAGES_MISSING"),
        ({"prompt": "a", "completion": "b"}, "", "MESSAGES_MISSING"),
        ({"messages": []}, "messages", "MESSAGES_INVALID"),
        ({"messages": None}, "messages", "MESSAGES_INVALID"),
        ({"messages": {"role": "user"}}, "messages", "MESSAGES_INVALID"),
        ({"messages": [ASSISTANT, USER]}, "messages[1].role", "LAST_NOT_ASSISTANT"),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "messages", "NOTHING_TO_LEARN"),
        ({"messages": [USER, ASSISTANT], "tools": {}}, "tools", "TOOLS_INVALID"),
        ({"messages": [USER, ASSISTANT], "tools": [{"type": "function"}]}, "tools[0]", "TOOLS_INVALID"),
        ({"messages": [USER, ASSISTANT], "functions": []}, "functions", "FUNCTIONS_UNSUPPORTED"),
    ],
)
def test_a_chat_that_is_wrong_as_a_whole_gives_its_reason(value: dict[str, Any], path: str, reason: str) -> None:
    assert flaws_of(value) == [(path, reason)]


def test_a_role_of_another_format_is_answered_with_the_right_one() -> None:
    flaws = read_chat({"messages": [{"role": "gpt", "content": "x"}, {"role": "User", "content": "x"}, ASSISTANT]})
    assert isinstance(flaws, list)
    assert "write assistant" in flaws[0].description
    assert "write user" in flaws[1].description


def test_all_roles_of_openai_are_kept() -> None:
    roles = ["system", "developer", "user", "assistant", "tool", "assistant"]
    messages: list[dict[str, Any]] = [{"role": role, "content": "x"} for role in roles]
    messages[3]["tool_calls"] = [CALL]
    messages[4]["tool_call_id"] = "c1"
    chat = chat_of(*messages, tools=[TOOL])
    assert [message["role"] for message in chat.messages] == roles
    assert chat.messages[3]["tool_calls"] == [CALL]
    assert chat.tools == (TOOL,)


def test_an_assistant_that_only_calls_tools_needs_no_content() -> None:
    chat = chat_of(USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, tools=[TOOL])
    assert chat.answer == ""
    assert "content" not in chat.messages[1]


def test_weight_0_is_kept_and_weight_1_is_the_default() -> None:
    chat = chat_of(USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}, USER, {**ASSISTANT, "weight": 0.0})
    assert [message.get("weight") for message in chat.messages] == [None, 0, None, None, None, 0]


def test_text_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat_of({"role": "user", "content": parts}, ASSISTANT).messages[0]["content"] == "a\nb"


def test_the_same_chat_written_differently_has_the_same_bytes() -> None:
    plain = chat_of(USER, ASSISTANT)
    other = chat_of(
        {"content": [{"type": "text", "text": "hi"}], "role": "user", "name": None},
        {"refusal": None, "weight": 1, "content": "hello", "role": "assistant", "tool_calls": None},
        tools=None,
    )
    assert plain.to_json() == other.to_json()
    assert orjson.loads(plain.to_json()) == {"messages": [USER, ASSISTANT]}


def test_what_a_message_says_is_not_touched() -> None:
    said = "  Zoë said:\r\n\t“no” \u0000\u2028 "
    chat = chat_of({"role": "user", "content": said}, {"role": "assistant", "content": said})
    assert [message["content"] for message in orjson.loads(chat.to_json())["messages"]] == [said, said]


def test_fields_beside_messages_and_tools_are_named_as_ignored() -> None:
    assert chat_of(USER, ASSISTANT, id="17", metadata={}).ignored == ("id", "metadata")


CONTENTS = st.sampled_from(["", " ", "yes", "No.\n", "é"]) | st.none() | st.integers()
PLAIN = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant", "assistant", "tool", "bot"]) | st.none(),
            "content": CONTENTS,
        },
        optional={"weight": st.just(1)},
    ),
    min_size=1,
    max_size=4,
)


@given(PLAIN, st.dictionaries(st.sampled_from(["id", "note"]), st.integers()))
@settings(max_examples=150, deadline=None)
def test_the_quick_way_reads_plain_chats_as_the_thorough_one_does(messages: list[dict[str, Any]], more: dict[str, Any]) -> None:
    quick = read_chat({"messages": messages, **more})
    thorough = read_chat({"messages": messages, "tools": None, **more})
    assert quick == thorough
    if isinstance(quick, Chat) and isinstance(thorough, Chat):
        assert quick.to_json() == thorough.to_json()
