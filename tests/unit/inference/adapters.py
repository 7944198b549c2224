"""Adapters written byte by byte, right and wrong: a base of two layers with width 8, and LoRA of rank 2 on it."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

BASE = "b" * 64
WIDTH, KEY_WIDTH, RANK, LAYERS = 8, 4, 2, 2
# Shapes: (out, in)
MODULES = {
    f"model.layers.{layer}.self_attn.{name}": (out, WIDTH)
    for layer in range(LAYERS)
    for name, out in (("q_proj", WIDTH), ("k_proj", KEY_WIDTH), ("v_proj", KEY_WIDTH))
}
TARGETS = ["q_proj", "k_proj", "v_proj"]
Tensors = dict[str, tuple[str, Any]]


def tensors(rank: int = RANK, prefix: str = "base_model.model.") -> Tensors:
    """Return good float32 tensors by key."""
    made: Tensors = {}
    for module, (out_width, in_width) in MODULES.items():
        made[f"{prefix}{module}.lora_A.weight"] = ("F32", np.full((rank, in_width), 0.5, np.float32))
        made[f"{prefix}{module}.lora_B.weight"] = ("F32", np.full((out_width, rank), 0.5, np.float32))
    return made


def config(**changes: Any) -> dict[str, Any]:
    """Return a good adapter_config.json."""
    good = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": TARGETS, "bias": "none"}
    return {**good, **changes}


def write(folder: Path, made: Mapping[str, tuple[str, Any]], settings: Mapping[str, Any]) -> Path:
    """Write a PEFT folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(made))
    return folder


def safetensors(made: Mapping[str, tuple[str, Any]]) -> bytes:
    """Serialise arrays; bfloat16 comes as its bits. Source: the format's README, github.com/huggingface/safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, array) in made.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data
