"""What a model server refuses, in words that a client can act on."""

import json

from services.gateway.upstream import refusal

DIGEST = "d" * 64


def body(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "code": 400}}).encode()


def test_a_model_without_a_chat_template_says_what_to_ask_instead_and_what_its_operator_can_do() -> None:
    # Source: vllm.renderers.hf of vLLM 0.32
    said = "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    error = refusal(400, body(said + "tokenizer does not define one."), DIGEST)
    assert (type(error).__name__, error.reason) == ("InvalidInput", "CHAT_TEMPLATE_MISSING")
    assert "/v1/completions" in error.message
    assert "transformers" not in error.message


def test_any_other_refusal_keeps_its_words_but_the_servers_name_of_the_model() -> None:
    assert refusal(400, body(f"{DIGEST} takes no images."), DIGEST).message == "the model takes no images."
