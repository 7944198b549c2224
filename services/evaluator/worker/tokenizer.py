"""The base's tokenizer: token ids of chats and labels, without the base's weights.

Label scoring sends token ids, because a label continues the prompt inside the assistant's turn, which no chat request can
express. Adapters use the tokenizer and the template of their base.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.common.errors import InvalidInput
from services.common.ports.manifest import Manifest, fetch_folder
from services.common.ports.object_store import ObjectStore
from services.evaluator.worker.prompts import Message

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def fetch_tokenizer(store: ObjectStore, manifest: Manifest, cache: Path) -> Path:
    """Bring the small files of a base to this machine, without its weights. Idempotent, as fetch_folder is."""
    small = tuple(file for file in manifest.files if not file.path.endswith(WEIGHTS))
    return fetch_folder(store, Manifest(manifest.kind, small, manifest.data), cache)


class ChatTokenizer:
    """A tokenizer with its chat template; one that the catalogue declares stands for a base that brings none.

    Raises: InvalidInput (neither has a template).
    """

    def __init__(self, folder: Path, chat_template: str = "") -> None:
        self._tokenizer: Any = _class_for(folder).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if chat_template:
            self._tokenizer.chat_template = chat_template
        if not self._tokenizer.chat_template:
            raise InvalidInput(
                "The base has no chat template, so the labels can't be scored within a chat; declare one with its catalogue "
                "entry (chat_template).",
                reason="CHAT_TEMPLATE_MISSING",
            )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a chat, ready for an answer. Shapes: [T]."""
        return self._ids(messages, add_generation_prompt=True)

    def label_ids(self, labels: Sequence[str]) -> tuple[dict[str, tuple[int, ...]], int]:
        """Return the ids of each label as the template writes it in an assistant's turn, and the id that ends a turn."""
        ids: dict[str, tuple[int, ...]] = {}
        end = self._tokenizer.eos_token_id
        asked: list[Message] = [{"role": "user", "content": "?"}]
        prompt = self.prompt_ids(asked)
        for label in labels:
            whole = self._ids([*asked, {"role": "assistant", "content": label}], add_generation_prompt=False)
            turn = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
            length = self._length_of(label, turn)
            ids[label] = tuple(turn[:length] or self._tokenizer.encode(label, add_special_tokens=False))
            end = turn[length] if 0 < length < len(turn) else end
        if end is None:
            raise InvalidInput("The base's tokenizer does not say how a turn ends.", reason="TOKENIZER_INCOMPLETE")
        return ids, end

    def _length_of(self, label: str, turn: Sequence[int]) -> int:
        """Return how many tokens of a turn spell the label; 0 where none do."""
        lengths = range(1, len(turn) + 1)
        return next((n for n in lengths if self._tokenizer.decode(turn[:n]).strip() == label.strip()), 0)

    def _ids(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        return list(
            self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
            )
        )


def _class_for(folder: Path) -> Any:
    """Return the class that AutoTokenizer would choose, which by itself imports torch where there is one."""
    settings = folder / "tokenizer_config.json"
    told = json.loads(settings.read_text()).get("tokenizer_class") if settings.is_file() else None
    if told in ("TokenizersBackend", "PreTrainedTokenizerFast") and (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer
