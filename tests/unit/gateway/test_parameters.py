"""What the two inference paths pass on, leave out, and refuse."""

from collections.abc import Mapping
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from services.common.errors import InvalidInput
from services.gateway.openai.parameters import check_chat, check_completion

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def refusal(body: Mapping[str, Any], check: Any = check_chat) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        check(body)
    return refused.value


@pytest.mark.parametrize(
    "name",
    [
        "prompt_logprobs", "echo", "chat_template", "chat_template_kwargs", "documents", "guided_json", "guided_regex",
        "structured_outputs", "lora_request", "lora_name", "lora_path", "allowed_local_media_path", "media_io_kwargs",
        "mm_processor_kwargs", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "use_beam_search", "priority",
        "request_id", "session_id", "cache_salt", "prompt_embeds", "thinking_token_budget", "truncate_prompt_tokens",
    ],
)  # fmt: skip
def test_what_reaches_into_the_engine_is_refused_by_its_name(name: str) -> None:
    error = refusal({**CHAT, name: 1})
    assert error.metadata["param"] == name
    assert name in error.message


def test_every_parameter_of_openais_api_is_passed_on_or_refused_with_what_to_do() -> None:
    for params, body, check in (
        (chat_create_params.CompletionCreateParamsBase, CHAT, check_chat),
        (completion_create_params.CompletionCreateParamsBase, COMPLETION, check_completion),
    ):
        values = {"n": 1, "stream_options": {}}
        refused = {name: reason_of(check, {**body, name: values.get(name, "x")}) for name in params.__annotations__}
        assert set(refused.values()) <= {"", "UNSUPPORTED_PARAMETER", "MISSING_PARAMETER"}
        for name in set(params.__annotations__) - set(body):
            check({**body, name: None})  # null asks for nothing, as in OpenAI's API


def reason_of(check: Any, body: Mapping[str, Any]) -> str:
    try:
        check(body)
    except InvalidInput as error:
        return error.reason
    return ""


def test_what_asks_for_nothing_is_left_out() -> None:
    asked = check_chat({**CHAT, "store": False, "service_tier": "auto", "modalities": ["text"], "user": None, "metadata": {}})
    assert asked.passed_on == CHAT


def test_what_is_known_to_be_harmless_is_passed_on_unchanged() -> None:
    extra = {
        "temperature": 0, "seed": 1, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [2], "min_tokens": 1,
        "continue_final_message": True, "add_generation_prompt": False, "logprob_token_ids": [1], "return_token_ids": True,
        "return_tokens_as_token_ids": True, "response_format": {"type": "json_object"}, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert check_chat({**CHAT, **extra}).passed_on == {**CHAT, **extra}


@pytest.mark.parametrize("logprobs", [0, 1, False])
def test_echo_with_any_logprobs_is_refused(logprobs: Any) -> None:
    assert refusal({**COMPLETION, "echo": True, "logprobs": logprobs}, check_completion).metadata["param"] == "echo"
    assert check_completion({**COMPLETION, "echo": True}).passed_on["echo"] is True


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": 1, "messages": CHAT["messages"]}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": "hi"}, "messages"),
        ({"model": "m", "messages": ["hi"]}, "messages[0]"),
        ({"model": "m", "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"model": "m", "messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0].type"),
        ({**CHAT, "stream": "yes"}, "stream"),
        ({**CHAT, "n": 0}, "n"),
        ({**CHAT, "n": 129}, "n"),
        ({**CHAT, "n": True}, "n"),
    ],
)
def test_a_request_of_the_wrong_form_names_the_parameter(body: dict[str, Any], param: str) -> None:
    assert refusal(body).metadata["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream_options": {"include_usage": "false"}, "stream": True}, "stream_options"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options"),
        ({"stream_options": "usage", "stream": True}, "stream_options"),
        ({"stream_options": {"continuous_usage_stats": True}, "stream": True}, "stream_options.continuous_usage_stats"),
    ],
)
def test_options_of_a_stream_are_booleans_that_are_known(body: dict[str, Any], param: str) -> None:
    assert refusal({**CHAT, **body}).metadata["param"] == param


def test_a_stream_may_say_that_it_wants_no_usage() -> None:
    options = {"include_usage": False}
    assert check_chat({**CHAT, "stream": True, "stream_options": options}).passed_on["stream_options"] == options


@pytest.mark.parametrize(("prompts", "n"), [(129, 1), (65, 2), (2, 65)])
def test_one_request_asks_for_128_answers_at_most(prompts: int, n: int) -> None:
    error = refusal({"model": "m", "prompt": ["hi"] * prompts, "n": n}, check_completion)
    assert f"{prompts * n}" in error.message


def test_a_prompt_of_many_token_ids_is_one_prompt() -> None:
    assert check_completion({"model": "m", "prompt": [1] * 1000, "n": 128}).passed_on["n"] == 128
