"""Every way in which an adapter was seen to be broken, as something done to a good PEFT folder.

The first table is what a check of files finds: each with the reason that Afina gives, and what the engine does with it when
nothing stands between. The second passes every check of files, because nothing in the files is wrong: they are other weights
than the digest's references were made of, and only a proof can tell. Shapes: A [R, in], B [out, R].
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
OTHER_BASE = "c" * 64
Tensors = dict[str, Any]


@dataclass(frozen=True)
class Corruption:
    """What is done to a folder; `engine` is what vLLM 0.32 makes of it: REFUSED, AS_BASE, AS_GOOD, OTHERWISE or NAN."""

    spoil: Callable[[Path], None]
    reason: str
    engine: str


def edit_weights(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    """Rewrite the tensors of an adapter."""
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.contiguous() for name, tensor in edit(load_file(folder / WEIGHTS)).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    """Rewrite the settings of an adapter."""
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _wrong_prefix(folder: Path) -> None:
    edit_weights(
        folder, lambda made: {key.replace("base_model.model.model.", "base_model.model.other."): t for key, t in made.items()}
    )


def _layers_out_of_range(folder: Path) -> None:
    edit_weights(folder, lambda made: {re.sub(r"layers\.(\d+)", _later, key): t for key, t in made.items()})


def _later(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 50}"


def _half_missing(folder: Path) -> None:
    edit_weights(folder, lambda made: {key: t for key, t in made.items() if ".lora_B." not in key or "v_proj" not in key})


def _layer_missing(folder: Path) -> None:
    edit_weights(folder, lambda made: {key: t for key, t in made.items() if "layers.0." not in key})


def _misshapen(folder: Path) -> None:
    def edit(made: Tensors) -> Tensors:
        return {key: t[: t.shape[0] // 2] if "q_proj.lora_B" in key else t for key, t in made.items()}

    edit_weights(folder, edit)


def _poisoned(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        def edit(made: Tensors) -> Tensors:
            made[next(iter(made))][0, 0] = value
            return made

        edit_weights(folder, edit)

    return spoil


def _other_base(folder: Path) -> None:
    edit_config(folder, base_model_name_or_path=f"/cache/{OTHER_BASE}")


def _targets_differ(folder: Path) -> None:
    edit_config(folder, target_modules=["q_proj"])


def _rank_too_high(folder: Path) -> None:
    import torch

    def edit(made: Tensors) -> Tensors:
        return {key: torch.cat([t] * 128, dim=0 if ".lora_A." in key else 1) for key, t in made.items()}

    edit_weights(folder, edit)
    edit_config(folder, r=512)


FOUND_IN_FILES: dict[str, Corruption] = {
    "keys under a wrong prefix": Corruption(_wrong_prefix, "MODULE_UNKNOWN", "AS_BASE"),
    "layers that the base lacks": Corruption(_layers_out_of_range, "MODULE_UNKNOWN", "AS_BASE"),
    "half of the keys of a module missing": Corruption(_half_missing, "PAIR_INCOMPLETE", "REFUSED"),
    "a layer missing": Corruption(_layer_missing, "MODULE_MISSING", "OTHERWISE"),
    "keys of a wrong shape": Corruption(_misshapen, "SHAPE_MISMATCH", "OTHERWISE"),
    "a NaN": Corruption(_poisoned(math.nan), "NOT_FINITE", "NAN"),
    "an infinity": Corruption(_poisoned(math.inf), "NOT_FINITE", "NAN"),
    "another base's name": Corruption(_other_base, "WRONG_BASE", "AS_GOOD"),
    "target modules that differ from the weights": Corruption(_targets_differ, "TARGETS_MISMATCH", "AS_GOOD"),
    "a rank that no server takes": Corruption(_rank_too_high, "RANK_TOO_HIGH", "REFUSED"),
}


def _scaled(factor: float, parts: Iterable[str] = ("",)) -> Callable[[Path, Path], None]:
    def spoil(folder: Path, other: Path) -> None:
        def edit(made: Tensors) -> Tensors:
            return {key: t * factor if ".lora_B." in key and any(part in key for part in parts) else t for key, t in made.items()}

        edit_weights(folder, edit)

    return spoil


def _layers_swapped(folder: Path, other: Path) -> None:
    def edit(made: Tensors) -> Tensors:
        swap = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
        return {re.sub(r"layers\.[01]\.", lambda match: swap[match[0]], key): t for key, t in made.items()}

    edit_weights(folder, edit)


def _half_of_the_layers_zeroed(folder: Path, other: Path) -> None:
    def edit(made: Tensors) -> Tensors:
        layers = sorted({int(match[1]) for key in made if (match := re.search(r"layers\.(\d+)\.", key))})
        gone = {f"layers.{layer}." for layer in layers[: max(1, len(layers) // 2)]}
        return {key: t * 0 if ".lora_B." in key and any(part in key for part in gone) else t for key, t in made.items()}

    edit_weights(folder, edit)


def _halves_of_two(folder: Path, other: Path) -> None:
    from safetensors.torch import load_file

    theirs = load_file(other / WEIGHTS)
    edit_weights(folder, lambda made: {key: theirs[key] if ".lora_A." in key else t for key, t in made.items()})


def _noisy(share: float) -> Callable[[Path, Path], None]:
    def spoil(folder: Path, other: Path) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)

        def edit(made: Tensors) -> Tensors:
            noise = {key: torch.randn(t.shape, generator=generator) * share * t.float().std() for key, t in made.items()}
            return {key: (t.float() + noise[key]).to(t.dtype) for key, t in made.items()}

        edit_weights(folder, edit)

    return spoil


def _another(folder: Path, other: Path) -> None:
    for name in (WEIGHTS, CONFIG):
        (folder / name).write_bytes((other / name).read_bytes())


# Each takes the folder and that of another adapter of the same rank on the same base.
FOUND_BY_PROOF: dict[str, Callable[[Path, Path], None]] = {
    "another adapter": _another,
    "the base (weights of nothing)": _scaled(0.0),
    "weights at 3%": _scaled(0.03),
    "weights at 50%": _scaled(0.5),
    "weights at -100%": _scaled(-1.0),
    "weights at 200%": _scaled(2.0),
    "the first two layers swapped": _layers_swapped,
    "A of one and B of another": _halves_of_two,
    "half of the layers zeroed": _half_of_the_layers_zeroed,
    "noise of 100%": _noisy(1.0),
    "noise of 1%": _noisy(0.01),  # less than bfloat16 rounds: no proof finds it, and none has to
}
