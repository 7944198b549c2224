"""What an attempt leaves behind: a standard PEFT folder, golden answers, and one manifest that makes them exist.

Golden answers are log-probabilities that transformers computes in fp32 from the very files that are published, with the
adapter and without. A server proves by them that it serves this adapter, on this base, with this chat template.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from services.common.errors import InvalidInput
from services.trainer.worker import batches
from services.trainer.worker.batches import Messages
from services.trainer.worker.model import Learner, load_base

TOP_TOKENS = 7  # of the adapter, and of the base; with the reference token at most 15 of the 16 that a server takes


def write_adapter(learner: Learner, folder: Path, base_public_id: str) -> None:
    """Write the adapter as a PEFT folder, the same bytes for the same weights. Raises: InvalidInput (not finite)."""
    weights = get_peft_model_state_dict(learner.model, save_embedding_layers=False)
    broken = sorted(name for name, weight in weights.items() if not torch.isfinite(weight).all())
    if broken:
        raise InvalidInput(
            f"{len(broken)} of the adapter's {len(weights)} tensors are not finite, first {broken[0]}; lower the learning rate.",
            reason="ADAPTER_NOT_FINITE",
            metadata={"tensor": broken[0]},
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = learner.model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=base_public_id, inference_mode=True)
    text = json.dumps(config, sort_keys=True, indent=2, default=sorted)  # sets are the only thing that JSON does not know
    (folder / "adapter_config.json").write_text(text)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors are written 0600, and a model server may run as another user


def write_golden(
    folders: Sequence[Path], base_folder: Path, base_digest: str, chosen: Sequence[Messages], tokenizer: Any, device: torch.device
) -> None:
    """Compute golden answers for chosen chats from published folders and add them to each as golden.json."""
    base = load_base(base_folder, device, torch.float32)
    for folder in folders:
        model = PeftModel.from_pretrained(base, folder).eval()
        golden = [_golden_chat(messages, model, tokenizer) for messages in chosen]
        (folder / "golden.json").write_text(json.dumps({"base_digest": base_digest, "chats": golden}, indent=1))
        base = model.unload()


def _golden_chat(messages: Messages, model: PeftModel, tokenizer: Any) -> dict[str, Any]:
    """Return one chat's references: before its last answer, and in the middle of it."""
    prompt = batches.render(messages[:-1], tokenizer, with_generation_prompt=True)
    whole = batches.render(messages, tokenizer)
    answer = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
    starts = [len(prompt), *([len(prompt) + len(answer) // 2] if len(answer) > 1 else [])]
    input_ids = torch.tensor([prompt + answer], device=model.device)
    asked = {"logits_to_keep": torch.tensor(starts, device=model.device) - 1, "use_cache": False}
    with torch.no_grad():
        adapted = model(input_ids=input_ids, **asked).logits[0].float().log_softmax(-1)  # (probes, V)
        with model.disable_adapter():
            plain = model(input_ids=input_ids, **asked).logits[0].float().log_softmax(-1)
    probes = [_probe(prompt + answer, start, adapted[i], plain[i]) for i, start in enumerate(starts)]
    return {"messages": messages[:-1], "prompt_token_ids": prompt, "probes": probes}


def _probe(ids: list[int], start: int, adapted: Tensor, plain: Tensor) -> dict[str, Any]:
    """Return the log-probabilities of the likeliest tokens and of the one that follows. Shapes: (V,), (V,)."""
    likeliest = [*adapted.topk(TOP_TOKENS).indices.tolist(), *plain.topk(TOP_TOKENS).indices.tolist()]
    token_ids = sorted({*ids[start : start + 1], *likeliest})
    return {
        "prefix_token_ids": ids[:start],
        "token_ids": token_ids,
        "adapter_logprobs": adapted[token_ids].tolist(),
        "base_logprobs": plain[token_ids].tolist(),
    }
