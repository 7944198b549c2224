"""A base's tokenizer as chats need it: with a chat template, and the tokens that end an answer.

Training and counting load it here, so both see the same tokens.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from services.common.errors import InvalidInput


def load_tokenizer(folder: Path, chat_template: str = "") -> Any:
    """Load a base's tokenizer; `chat_template` replaces its own where the catalogue declares one. Raises: InvalidInput."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if chat_template:
        tokenizer.chat_template = chat_template
    if not tokenizer.chat_template:
        raise InvalidInput(
            "The base has no chat template, so chats can't be rendered; declare one with its catalogue entry (chat_template), "
            "choose an instruct model, or add one to its folder.",
            reason="CHAT_TEMPLATE_MISSING",
        )
    return tokenizer


def end_ids(folder: Path, tokenizer: Any) -> set[int]:
    """Return every token that ends an answer: the tokenizer's, the generation settings', and all special ones."""
    if (folder / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        settings = GenerationConfig.from_model_config(config)
    configured = settings.eos_token_id
    told = configured if isinstance(configured, list) else [configured]
    special = [at for at, token in tokenizer.added_tokens_decoder.items() if token.special]
    return {at for at in [*told, tokenizer.eos_token_id, *special] if at is not None}
