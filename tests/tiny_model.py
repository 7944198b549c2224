"""Tiny language models with random weights, made on the spot: the real thing in every respect but size.

Like many real models they pad with their end token, so whoever masks by token id instead of by position is found out.
"""

import json
import sys
from pathlib import Path
from typing import Any

for _name in ("torchvision", "torchaudio", "torchcodec"):  # their wheels need not fit the torch that is here
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]

START, END, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VOCABULARY = 512
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITH_GENERATION_BLOCK = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "system user assistant",
    "Classify the sentiment of this product review. Answer with exactly one word: positive, neutral or negative.",
    "the battery lasts all day and the screen is bright",
    "it broke after a week and nobody answered my letter",
    "it does what it says, no more and no less",
    "What is the capital of France? The capital of France is Paris.",
    "one two three four five six seven eight nine ten",
]
# By architecture: what its configuration has beyond the common sizes.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None, "head_dim": 32},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "gemma": {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma3_text": {"head_dim": 32},
    "phi3": {"sliding_window": None},
    "olmo2": {},
}


def build_tiny_base(folder: Path, architecture: str = "llama", seed: int = 0, **config: Any) -> Path:
    """Write a model folder (config, safetensors, tokenizer, chat template; under 5 MB) and return it.

    `config` overrides what the architecture's configuration says.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,  # large enough that what a token attends to changes the loss
        "tie_word_embeddings": architecture == "gemma",  # an adapter can't teach a small tied model to say everything
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    built = AutoConfig.for_model(architecture, **{**sizes, **ARCHITECTURES.get(architecture, {}), **config})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(built, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def tiny_tokenizer(chat_template: str = CHATML) -> Any:
    """Train a byte-level BPE on a few sentences: it can spell anything, and has words for those."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[UNKNOWN, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=START, eos_token=END, pad_token=END, model_max_length=512
    )
    fast.chat_template = chat_template
    return fast


def name_code(folder: Path) -> None:
    """Let a model's folder name code of its own, and bring it; where it runs, it leaves a file `ran` there.

    As CVE-2025-66448 and CVE-2026-22807 have it: every class that a loader asks for is in auto_map.
    """
    marker = str(folder / "ran")
    code = f"open({marker!r}, 'w').close()\nclass Evil:\n    pass\n"
    (folder / "evil.py").write_text(code)
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
    for name in ("config.json", "tokenizer_config.json"):
        document = json.loads((folder / name).read_text())
        document["auto_map"] = {key: ["evil.Evil", None] if key == "AutoTokenizer" else "evil.Evil" for key in classes}
        (folder / name).write_text(json.dumps(document))
