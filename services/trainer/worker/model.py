"""The model that learns: a base with a LoRA adapter, and the loss of some rows. The only place that knows the model.

The base stays frozen in the number format that this machine is fast in; the adapter is fp32, so small updates are not
rounded away. Logits are computed where a trained token is predicted and nowhere else, by the model's own forward, so
whatever an architecture does to its logits happens.

Packed rows go through an attention of our own: one causal call per row. It has no mask, which is what makes it fast, and
nothing to get wrong but the lengths. It is used where the architecture has been verified, every row is shorter than
any window, and this machine has just seen it agree with the padded layout.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from services.common.errors import InvalidInput, Violation
from services.trainer.recipe import ALL_LINEAR, Recipe
from services.trainer.worker import batches
from services.trainer.worker.batches import Batch, Row
from services.trainer.worker.tokens import load_tokenizer

PACKED = "afina_packed"
PACKABLE_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "olmo2"})  # each has a test
PACKABLE_ROPES = frozenset({"default", "linear", "llama3", "yarn"})  # the others look at the length of the sequence
SEQUENCE_TOKENS = {"cpu": 1024, "cuda": 8192}  # per forward pass; more costs memory and gains nothing
# Mean difference per token between the layouts. On SmolLM2 rounding in bf16 gives 0.06 to 0.07, rows that see one another 2.
AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 0.3}
CHECKED_ROWS = 4


def packed_attention(
    module: nn.Module,
    query: Tensor,  # (1, H, T, D)
    key: Tensor,  # (1, G, T, D), where G divides H
    value: Tensor,  # (1, G, T, D)
    attention_mask: None,
    *,
    row_lengths: list[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Let each row of a packed sequence attend to itself, causally. Shapes: returns (1, T, H, D)."""
    dtype = query.dtype
    with torch.autocast(query.device.type, enabled=False):
        if query.device.type == "cpu":  # the backward pass of the CPU's kernel takes three times as long in bf16
            query, key, value = query.float(), key.float(), value.float()
        rows = zip(*(part.split(row_lengths, dim=2) for part in (query, key, value)), strict=True)
        attended = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=True)
            for q, k, v in rows
        ]
        return torch.cat(attended, dim=2).transpose(1, 2).to(dtype), None


AttentionInterface.register(PACKED, packed_attention)


class Learner:
    """A base with an adapter, and where and how it computes."""

    def __init__(self, model: PeftModel, device: torch.device, dtype: torch.dtype, pad_id: int) -> None:
        self.model, self.device, self.dtype, self.pad_id = model, device, dtype, pad_id
        self.sequence_tokens = SEQUENCE_TOKENS[device.type]
        self.is_packing = False
        self._plain_attention = model.get_base_model().config._attn_implementation

    @property
    def adapter(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name, in a fixed order."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def copy_adapter(self) -> dict[str, Tensor]:
        """Return the adapter's weights as they are now."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.adapter.items()}

    def load_adapter(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights back that `copy_adapter` returned."""
        for name, parameter in self.adapter.items():
            parameter.data.copy_(weights[name])

    def release(self) -> None:
        """Give the memory of the model back; the learner can't be used for anything afterwards."""
        del self.model

    def use_packing(self, is_packing: bool) -> None:
        """Choose the layout."""
        self.is_packing = is_packing
        self.model.get_base_model().set_attn_implementation(PACKED if is_packing else self._plain_attention)

    def divide(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Divide rows into what one forward pass takes."""
        area = batches.packed_area if self.is_packing else batches.padded_area
        return batches.divide(rows, self.sequence_tokens, area)

    def token_losses(self, rows: Sequence[Row]) -> Tensor:
        """Return -log p of every trained token of rows that fit one forward pass. Shapes: (K,), fp32."""
        return self.token_scores(rows)[0]

    def token_scores(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Return the losses, and for each token whether none was held for likelier. Shapes: (K,) fp32, (K,) bool."""
        batch = batches.pack(rows, self.device) if self.is_packing else batches.pad(rows, self.pad_id, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self._logits(batch).float()  # (K, V)
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        with torch.no_grad():  # not argmax, which on a CPU takes several times as long
            hits = logits.gather(-1, batch.targets[:, None]).squeeze(-1) >= logits.amax(-1)
        return losses, hits

    def _logits(self, batch: Batch) -> Tensor:
        """Run the model. Shapes: (K, V)."""
        layout = {"row_lengths": batch.row_lengths} if batch.row_lengths else {"attention_mask": batch.attention_mask}
        said = self.model.get_base_model()(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            logits_to_keep=batch.columns,
            use_cache=False,
            **layout,
        )
        return said.logits[0] if batch.row_lengths else said.logits[batch.kept]  # (1, C=K, V) or (B, C, V)

    def measure(self, rows: Sequence[Row]) -> tuple[float, float]:
        """Return the mean -log p of the trained tokens, and the share held for the likeliest, without dropout."""
        total, hit_count = 0.0, 0
        self.model.eval()
        with torch.no_grad():
            for group in self.divide(rows):
                losses, hits = self.token_scores(group)
                total, hit_count = total + float(losses.sum()), hit_count + int(hits.sum())
        self.model.train()
        loss_count = sum(row.loss_count for row in rows)
        return total / loss_count, hit_count / loss_count

    def disagreement(self, rows: Sequence[Row]) -> float:
        """Return the mean difference per token between the packed and the padded layout, without dropout.

        Every token counts here, prompts included: answers can be too short to tell rounding from a mistake.
        """
        rows = [Row(row.ids, (True,) * len(row.ids)) for row in rows]
        chosen, losses = self.is_packing, []
        self.model.eval()
        for is_packing in (True, False):
            self.use_packing(is_packing)
            with torch.no_grad():
                losses.append(self.token_losses(rows))
        self.model.train()
        self.use_packing(chosen)
        return float((losses[0] - losses[1]).abs().mean())


def load(folder: Path, recipe: Recipe, device: torch.device, dtype: torch.dtype, chat_template: str = "") -> tuple[Learner, Any]:
    """Load a base from its folder, give it a new adapter, and return both as a Learner, with the tokenizer.

    Raises: InvalidInput (target modules that the base does not have, no chat template).
    """
    tokenizer = load_tokenizer(folder, chat_template)
    model = load_base(folder, device, dtype)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # never looked at, only has to exist
    return Learner(add_adapter(model, recipe), device, dtype, pad_id), tokenizer


def load_base(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a base for training or reference: safetensors only, no code from the folder, nothing from a hub."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    if getattr(model.config, "attn_logit_softcapping", None):  # the fused kernels leave it out, silently
        model.set_attn_implementation("eager")
    return model.to(device)


def add_adapter(model: Any, recipe: Recipe) -> PeftModel:
    """Freeze a base and add a LoRA adapter, drawn from the recipe's seed.

    "all-linear" becomes the names of the layers: a server looks them up one by one. Raises: InvalidInput.
    """
    layers = linear_layers(model)
    targets = set(recipe.target_modules)
    if ALL_LINEAR in targets and layers:
        targets = targets - {ALL_LINEAR} | layers
    unknown = sorted(targets - layers)
    if unknown:
        text = f"The base has no linear layer of that name; it has {', '.join(sorted(layers))}."
        raise InvalidInput(
            f"target_modules {', '.join(unknown)}: {text}",
            reason="TARGET_MODULES_UNKNOWN",
            violations=[Violation("recipe.target_modules", "TARGET_MODULES_UNKNOWN", f"{name}: {text}") for name in unknown],
        )
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=sorted(targets),
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:  # as for the projections of a state-space model, which run in a kernel of their own
        text = f"These layers can't be adapted: {str(error).rstrip('.')}. Name others of {', '.join(sorted(layers))}."
        violation = Violation("recipe.target_modules", "TARGET_MODULES_REFUSED", text)
        raise InvalidInput(text, reason="TARGET_MODULES_REFUSED", violations=[violation]) from error
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # autocast does it, and does not copy the input to fp32 first
    return adapted.train()


def linear_layers(model: Any) -> set[str]:
    """Return the names of the layers that can be adapted: all linear ones but the output."""
    output = model.get_output_embeddings()
    linear = (nn.Linear, Conv1D)  # GPT-2 and its kin have theirs transposed
    return {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, linear) and m is not output}


def why_not_packed(learner: Learner, rows: Sequence[Row]) -> str | None:
    """Return why rows have to be padded on this model and machine; None where they can be packed."""
    config = learner.model.get_base_model().config
    if config.model_type not in PACKABLE_TYPES:
        return f"packing has not been verified for {config.model_type}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in PACKABLE_ROPES:
        return f"its positions of type {rope} depend on the length of the sequence"
    window, longest = getattr(config, "sliding_window", None), max(len(row.ids) for row in rows)
    if window and longest > window:
        return f"its attention sees {window} tokens, and the longest row has {longest}"
    sample = sorted(rows, key=lambda row: len(row.ids))[:CHECKED_ROWS]
    difference = learner.disagreement(sample)
    if not difference <= AGREEMENT[learner.dtype]:
        return f"packed rows give another loss than padded ones (by {difference:.2g} a token)"
    return None


def choose_device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(device: torch.device) -> torch.dtype:
    """Return bf16 where the machine has instructions for it; elsewhere it is emulated, and slower than fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    can = torch.cpu.get_capabilities()
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32
