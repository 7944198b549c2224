"""References for full weights that bring none: the token ids that transformers makes of a few chats.

A server proves by them that it renders chats as the model's own tokenizer does. They cost no forward pass; golden answers
with log-probabilities, where whoever trained the weights left them as golden.json, prove more and are taken as they are.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.cli.sources import SourceFile
from services.common.errors import InvalidInput

FILE = "golden.json"
TEMPLATE = "declared.jinja"
WITHOUT_TRANSFORMERS = 3
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Ünïcode ☕,\ttabs and\nlines"}],
    [
        {"role": "user", "content": "One, two, three."},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "And then?"},
    ],
)


def make_references(files: Sequence[SourceFile], declared_template: str) -> bytes | None:
    """Return golden.json of token ids; None where no template is there or no transformers, so that nothing can be told.

    Made in a process of its own: whatever a broken tokenizer does ends there. Raises: InvalidInput (it can't be loaded).
    """
    with tempfile.TemporaryDirectory(prefix="afina-tokenizer-") as scratch:
        for file in files:
            if not file.path.endswith(".safetensors"):
                with file.open() as source, Path(scratch, file.path).open("wb") as sink:
                    shutil.copyfileobj(source, sink)
        Path(scratch, TEMPLATE).write_text(declared_template, encoding="utf-8")
        done = subprocess.run([sys.executable, "-m", __name__, scratch], capture_output=True)
    if done.returncode == WITHOUT_TRANSFORMERS:
        return None
    if done.returncode != 0:
        why = (done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
        raise InvalidInput(f"The tokenizer can't make prompts of chats: {why[:300]}", reason="TOKENIZER_INVALID")
    return done.stdout or None


def _write(folder: Path) -> None:
    for name in ("torch", "torchvision", "torchaudio", "torchcodec"):  # a tokenizer needs none of them
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    try:
        from transformers import AutoTokenizer
    except ImportError:
        sys.exit(WITHOUT_TRANSFORMERS)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    template = tokenizer.chat_template or (folder / TEMPLATE).read_text(encoding="utf-8")
    options = {"chat_template": template, "add_generation_prompt": True, "tokenize": True, "return_dict": False}
    chats = [
        {"messages": chat, "prompt_token_ids": list(tokenizer.apply_chat_template(chat, **options))} for chat in CHATS if template
    ]
    if chats:
        sys.stdout.write(json.dumps({"chats": [{**chat, "probes": []} for chat in chats]}, sort_keys=True))


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
