"""Which parameters the two inference paths take: a list of what is passed on, so that nothing passes by accident.

What a request may say reaches an engine that all projects share. There, log-probabilities of the prompt kill the engine
beside any other request, a template or an adapter's path runs what the client wrote, and an image's URL is fetched from
inside the network. So a parameter is passed on because it is known to be harmless, and everything else is refused by its
name. What asks for nothing – null, or the value that means what happens anyway – is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.openai.errors import invalid, unknown_parameter

MAX_CHOICES = 128  # Source: OpenAI's API reference, `n`

_SAMPLING = frozenset((
    "model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop",
    "stream", "stream_options", "temperature", "top_p", "user", "response_format", "top_k", "min_p",
    "repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos", "skip_special_tokens",
    "include_stop_str_in_output", "bad_words", "allowed_token_ids", "logprob_token_ids", "return_tokens_as_token_ids",
    "return_token_ids",
))  # fmt: skip
CHAT = _SAMPLING | {
    "messages", "max_completion_tokens", "parallel_tool_calls", "reasoning_effort", "tool_choice", "tools",
    "top_logprobs", "continue_final_message", "add_generation_prompt",
}  # fmt: skip
COMPLETIONS = _SAMPLING | {"prompt", "echo", "add_special_tokens"}

# Notes for the provider's own accounting: they change no answer.
_NOTES = frozenset(("metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"))
# Values that ask for what happens anyway.
_EMPTY: Mapping[str, Callable[[Any], bool]] = {
    "store": lambda value: value is False,
    "service_tier": lambda value: value in ("auto", "default"),
    "modalities": lambda value: value == ["text"],
    "best_of": lambda value: value == 1,
    "suffix": lambda value: value == "",
    "verbosity": lambda value: value == "medium",
}
_HINTS = {
    "prompt_logprobs": "Log-probabilities of the prompt are not given: they would stop the engine for everybody.",
    "chat_template": "A model answers by its own chat template.",
    "chat_template_kwargs": "A model answers by its own chat template.",
    "functions": "Use 'tools'.",
    "function_call": "Use 'tool_choice'.",
    "guided_json": "Use 'response_format'.",
    "guided_regex": "Use 'response_format'.",
    "guided_choice": "Use 'response_format'.",
    "guided_grammar": "Use 'response_format'.",
    "structured_outputs": "Use 'response_format'.",
    "lora": "Ask for an adapter by its model name.",
    "lora_name": "Ask for an adapter by its model name.",
    "lora_path": "Ask for an adapter by its model name.",
    "lora_request": "Ask for an adapter by its model name.",
    "allowed_local_media_path": "Files of the server can't be asked for.",
    "prompt_embeds": "Send text or token ids as 'prompt'.",
    "use_beam_search": "Answers are sampled, or greedy with temperature 0.",
    "best_of": "Use 'n'.",
    "suffix": "No model here inserts text.",
    "store": "Answers are not stored.",
    "service_tier": "There is one tier.",
    "modalities": "Models here write text.",
    "audio": "Models here write text.",
    "prediction": "Predicted outputs are not supported.",
    "web_search_options": "There is no web search.",
    "moderation": "There is no moderation here.",
    "verbosity": "Say in the prompt how long the answer shall be.",
}


@dataclass(frozen=True)
class Asked:
    """What a request asks for: the model's name, whether it is streamed, and what is passed on."""

    model: str
    is_streamed: bool
    passed_on: dict[str, Any]


def check_chat(body: Mapping[str, Any]) -> Asked:
    """Read a chat request. Raises: InvalidInput, naming the parameter."""
    asked = _check(body, CHAT)
    messages = asked.passed_on.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "Missing required parameter: 'messages', a list of at least one message.", "MISSING_PARAMETER")
    for number, message in enumerate(messages):
        _check_message(f"messages[{number}]", message)
    return asked


def check_completion(body: Mapping[str, Any]) -> Asked:
    """Read a completion request. Raises: InvalidInput, naming the parameter."""
    asked = _check(body, COMPLETIONS)
    if not isinstance(asked.passed_on.get("prompt"), str | list):
        raise invalid("prompt", "Missing required parameter: 'prompt', text or token ids.", "MISSING_PARAMETER")
    _check_answer_count(asked.passed_on)
    if asked.passed_on.get("echo") and "logprobs" in asked.passed_on:
        message = "'echo' can't be combined with 'logprobs': log-probabilities of the prompt are not given."
        raise invalid("echo", message, "UNSUPPORTED_PARAMETER")
    return asked


def _check_answer_count(passed_on: Mapping[str, Any]) -> None:
    """One request takes one place; what it asks of the engine is bounded, since all projects share that."""
    prompt, each = passed_on["prompt"], passed_on.get("n", 1)
    is_many = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    count = (len(prompt) if is_many else 1) * (each if isinstance(each, int) and each > 0 else 1)
    if count > MAX_CHOICES:
        raise invalid("prompt", f"Prompts times 'n' are {count}; one request may ask for {MAX_CHOICES} answers at most.")


def _check(body: Mapping[str, Any], known: frozenset[str]) -> Asked:
    passed_on = {}
    for name, value in body.items():
        if value is None or name in _NOTES or (name in _EMPTY and _EMPTY[name](value)):
            if name not in known and name not in _NOTES and name not in _HINTS:
                raise unknown_parameter(name)
            continue
        if name not in known:
            raise unknown_parameter(name, _HINTS.get(name, ""))
        passed_on[name] = value
    model = passed_on.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model", "you must provide a model parameter", "MISSING_PARAMETER")
    is_streamed = passed_on.get("stream", False)
    if not isinstance(is_streamed, bool):
        raise invalid("stream", f"Invalid type for 'stream': expected a boolean, but got {is_streamed!r:.50}.", "INVALID_TYPE")
    _check_stream_options(passed_on.get("stream_options"))
    choices = passed_on.get("n", 1)
    if isinstance(choices, bool) or not isinstance(choices, int) or not 1 <= choices <= MAX_CHOICES:
        raise invalid("n", f"Invalid value for 'n': {choices!r:.50}; choose 1 to {MAX_CHOICES}.")
    return Asked(model, is_streamed, passed_on)


def _check_stream_options(options: Any) -> None:
    """A word that the server reads otherwise than we do would make an answer whose tokens nobody counts."""
    if options is None:
        return
    if not isinstance(options, dict) or not all(value is None or isinstance(value, bool) for value in options.values()):
        told = f"Invalid type for 'stream_options': expected an object of booleans, but got {options!r:.80}."
        raise invalid("stream_options", told, "INVALID_TYPE")
    for name in options:
        if name != "include_usage" and options[name]:
            raise unknown_parameter(f"stream_options.{name}")


def _check_message(path: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise invalid(path, f"Invalid type for '{path}': expected an object with 'role' and 'content'.", "INVALID_TYPE")
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            where = f"{path}.content[{number}].type"
            raise invalid(where, f"Invalid value for '{where}': {kind!r:.50}. Models here read text: send parts of type 'text'.")
