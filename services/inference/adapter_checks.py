"""What an adapter must not be before it may reach an engine: wrong files, wrong names, wrong shapes, wrong numbers.

vLLM takes several broken adapters in silence and answers as the base, or wrongly; one with a NaN poisons its neighbours'
answers through the shared cache. So each adapter is read here first, at registration and again inside the server, and
what is wrong is named all at once. Shapes are compared with the tensors of the base itself, so no architecture has to be
known. Only headers and bits are read: neither torch nor pickle is involved.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from services.common.errors import InvalidInput, Violation

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
KEY_PREFIX = "base_model.model."
HEADER_LIMIT_BYTES = 16 << 20  # the format allows 100 MB, a gigabyte once it is parsed; a hundred thousand tensors need 12 MB
UNSAFE_SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".pyc", ".so", ".npy", ".npz", ".h5", ".msgpack"}
)
# What PEFT can put into a config, changes what the adapter computes, and vLLM either lacks or has never been proven with here.
UNSUPPORTED_FEATURES = (
    "use_dora", "modules_to_save", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_bdlora", "use_qalora",
    "trainable_token_indices", "target_parameters", "megatron_config", "fan_in_fan_out",
)  # fmt: skip
HARMLESS_INITS = frozenset({"gaussian", "eva", "orthogonal"})  # the others move the base's weights too
# For each dtype: the unsigned type that carries its bits, the mask that drops the sign, and the smallest magnitude that is
# not finite once it is rounded to bfloat16. Source: IEEE 754; bfloat16 keeps the upper 16 bits of a float32.
FLOAT_BITS: Mapping[str, tuple[str, int, int]] = {
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F7F8000),
}
SCAN_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header. Units: `begin`, `end` are bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(stream: BinaryIO, size_bytes: int) -> dict[str, Tensor]:
    """Read a safetensors header and hold it to the file's length.

    Raises: InvalidInput (truncated, not safetensors, tensors that overlap or leave the file).
    """
    prefix = stream.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
    if not 0 < length <= min(HEADER_LIMIT_BYTES, size_bytes - 8):
        raise _not_safetensors("its header is longer than the file")
    try:
        raw = json.loads(stream.read(length))
        entries = {name: entry for name, entry in raw.items() if name != "__metadata__"}
        tensors = {name: _tensor(entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _not_safetensors(f"its header can't be read ({error!r})") from error
    position = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            raise _not_safetensors(f"tensor {name} does not begin where the one before ends")
        position = tensor.end
    if position != size_bytes:
        raise _not_safetensors(f"its tensors end at byte {position} and the file at {size_bytes}")
    return tensors


def base_modules(headers: Iterable[Mapping[str, Tensor]]) -> dict[str, tuple[int, int]]:
    """Return every two-dimensional weight of a base by module path. Shapes: (out, in)."""
    modules: dict[str, tuple[int, int]] = {}
    for header in headers:
        for name, tensor in header.items():
            if name.endswith(".weight") and len(tensor.shape) == 2:
                modules[name.removesuffix(".weight")] = (tensor.shape[0], tensor.shape[1])
    return modules


def folder_modules(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the modules of a base that lies in a folder of this machine. Raises: InvalidInput."""
    return base_modules(_file_header(path) for path in sorted(folder.glob("*.safetensors")))


def check_adapter(
    folder: Path, modules: Mapping[str, tuple[int, int]], *, base_digest: str, told_base_digest: str, max_rank: int
) -> list[Violation]:
    """Return everything that is wrong with a PEFT folder for a base; nothing means that an engine may have it.

    `told_base_digest` is what the manifest says the adapter was trained on. Shapes: modules (out, in).
    """
    found = [*_check_files(folder), *_check_base(base_digest, told_base_digest)]
    config = _read_config(folder, found)
    header = _read_weights(folder, found)
    if config is not None:
        found += _check_config(config, base_digest, max_rank)
    if header is not None:
        pairs = _pairs(header, found)
        found += _check_pairs(pairs, modules, max_rank)
        if config is not None:
            found += _check_targets(pairs, modules, config)
        found += _check_numbers(folder / WEIGHTS_FILE, header)
    return found


def check_weights(folder: Path) -> list[Violation]:
    """Return each tensor of whole weights that holds NaN or infinity; numbers that are no floats can't."""
    found: list[Violation] = []
    for path in sorted(folder.glob("*.safetensors")):
        header = {name: tensor for name, tensor in _file_header(path).items() if tensor.dtype in FLOAT_BITS}
        found += _check_numbers(path, header)
    return found


def adapter_rank(folder: Path) -> int:
    """Return the highest rank in a folder that has been checked."""
    header = _file_header(folder / WEIGHTS_FILE)
    return max(tensor.shape[0] for name, tensor in header.items() if name.endswith(".lora_A.weight"))


def is_unsafe(path: str) -> bool:
    """Whether a file could run code when it is loaded: only safetensors and text are taken."""
    return PurePosixPath(path).suffix.lower() in UNSAFE_SUFFIXES


@dataclass
class _Pair:
    """The two halves of one module's adapter. Shapes: A [R, in], B [out, R]."""

    a: tuple[int, ...] | None = None
    b: tuple[int, ...] | None = None


def _tensor(entry: Mapping[str, Any], data_begin: int) -> Tensor:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    if not 0 <= begin <= end or any(size < 0 for size in shape):
        raise ValueError("negative sizes")
    bits = FLOAT_BITS.get(entry["dtype"])
    if bits is not None and math.prod(shape) * np.dtype(bits[0]).itemsize != end - begin:
        raise ValueError("a shape that does not fit its bytes")
    return Tensor(entry["dtype"], shape, data_begin + begin, data_begin + end)


def _not_safetensors(why: str) -> InvalidInput:
    return InvalidInput(f"This is not a whole safetensors file: {why}.", reason="SAFETENSORS_INVALID")


def _file_header(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as stream:
        return read_header(stream, path.stat().st_size)


def _check_files(folder: Path) -> Iterator[Violation]:
    for path in sorted(folder.rglob("*")):
        if is_unsafe(path.name):
            yield Violation(path.relative_to(folder).as_posix(), "UNSAFE_FILE", f"{path.name} could run code; leave it out.")


def _check_base(base_digest: str, told: str) -> Iterator[Violation]:
    if told != base_digest:
        yield Violation("base.digest", "WRONG_BASE", f"It was trained on base {told or 'unknown'}, this is {base_digest}.")


def _read_config(folder: Path, found: list[Violation]) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError) as error:
        found.append(Violation(CONFIG_FILE, "CONFIG_INVALID", f"{CONFIG_FILE} is missing or not JSON ({error})."))
        return None
    if not isinstance(config, dict):
        found.append(Violation(CONFIG_FILE, "CONFIG_INVALID", f"{CONFIG_FILE} has to hold an object."))
        return None
    return config


def _read_weights(folder: Path, found: list[Violation]) -> dict[str, Tensor] | None:
    try:
        header = _file_header(folder / WEIGHTS_FILE)
    except OSError:
        found.append(Violation(WEIGHTS_FILE, "SAFETENSORS_INVALID", f"There is no {WEIGHTS_FILE}; save the adapter with PEFT."))
        return None
    except InvalidInput as error:
        found.append(Violation(WEIGHTS_FILE, error.reason, error.message))
        return None
    if not header:
        found.append(Violation(WEIGHTS_FILE, "MODULE_MISSING", "It holds no tensor at all."))
    return header


def _check_config(config: Mapping[str, Any], base_digest: str, max_rank: int) -> Iterator[Violation]:
    if config.get("peft_type") != "LORA":
        yield Violation("peft_type", "FEATURE_UNSUPPORTED", f"peft_type is {config.get('peft_type')}; only LORA is served.")
    if config.get("auto_mapping"):  # PEFT imports the module that it names, to find the base's class there
        yield Violation("auto_mapping", "REMOTE_CODE", "auto_mapping names code to import; save the adapter without it.")
    for feature in UNSUPPORTED_FEATURES:
        if config.get(feature):
            yield Violation(feature, "FEATURE_UNSUPPORTED", f"The engine does not serve {feature}; train without it.")
    if config.get("bias", "none") != "none":
        yield Violation("bias", "FEATURE_UNSUPPORTED", "The engine does not serve trained biases; use bias none.")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in HARMLESS_INITS:
        yield Violation("init_lora_weights", "FEATURE_UNSUPPORTED", f"{init} changes the base's weights; convert to plain LoRA.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        yield Violation("r", "RANK_INVALID", f"The rank is {rank}; it has to be a whole number from 1 to {max_rank}.")
    elif rank > max_rank:
        yield Violation("r", "RANK_TOO_HIGH", f"The rank is {rank}; the engine takes at most {max_rank}.")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        yield Violation("lora_alpha", "ALPHA_INVALID", f"lora_alpha is {alpha}; it has to be a number.")
    named = re.findall(r"[0-9a-f]{64}", str(config.get("base_model_name_or_path") or ""))
    if named and base_digest not in named:
        yield Violation("base_model_name_or_path", "WRONG_BASE", f"Its config names base {named[0]}, this is {base_digest}.")


def _pairs(header: Mapping[str, Tensor], found: list[Violation]) -> dict[str, _Pair]:
    """Sort the tensors by module path, and name the ones that PEFT would not have written."""
    pairs: dict[str, _Pair] = {}
    for name, tensor in header.items():
        match = re.fullmatch(re.escape(KEY_PREFIX) + r"(.+)\.lora_(A|B)\.weight", name)
        if match is None:
            found.append(Violation(name, "KEY_UNEXPECTED", f"{name} is not {KEY_PREFIX}<module>.lora_A|B.weight."))
            continue
        pair = pairs.setdefault(match[1], _Pair())
        if match[2] == "A":
            pair.a = tensor.shape
        else:
            pair.b = tensor.shape
    return pairs


def _check_pairs(pairs: Mapping[str, _Pair], modules: Mapping[str, tuple[int, int]], max_rank: int) -> Iterator[Violation]:
    for module, pair in pairs.items():
        if module not in modules:
            yield Violation(module, "MODULE_UNKNOWN", f"The base has no module {module}; check key prefix and layer number.")
            continue
        if pair.a is None or pair.b is None:
            yield Violation(module, "PAIR_INCOMPLETE", f"{module} has only one of lora_A and lora_B.")
            continue
        out_width, in_width = modules[module]
        rank = pair.a[0] if pair.a else 0
        if rank < 1 or pair.a != (rank, in_width) or pair.b != (out_width, rank):
            told = f"A {list(pair.a)}, B {list(pair.b)}"
            yield Violation(
                module, "SHAPE_MISMATCH", f"{module} has {told}; the base needs A [R, {in_width}], B [{out_width}, R]."
            )
        elif rank > max_rank:
            yield Violation(module, "RANK_TOO_HIGH", f"{module} has rank {rank}; the engine takes at most {max_rank}.")


def _check_targets(
    pairs: Mapping[str, _Pair], modules: Mapping[str, tuple[int, int]], config: Mapping[str, Any]
) -> Iterator[Violation]:
    """Hold the weights to what the config says was trained, by PEFT's own rule for names.

    Source: peft.tuners.tuners_utils.check_target_module_exists and peft.utils.other.get_pattern_key.
    """
    targets = config.get("target_modules")
    if not isinstance(targets, str | list) or not targets:
        yield Violation("target_modules", "TARGETS_MISMATCH", "target_modules is empty; name the modules that were trained.")
        return
    for module in pairs:
        if not _is_target(module, targets):
            yield Violation(module, "TARGETS_MISMATCH", f"{module} has weights but is not among target_modules.")
    if isinstance(targets, list):
        for target in targets:
            if not any(_is_target(module, [target]) for module in pairs):
                yield Violation("target_modules", "TARGETS_MISMATCH", f"target_modules names {target}, which has no weights.")
    if not config.get("exclude_modules") and not config.get("layers_to_transform"):
        for module in modules:
            if _is_target(module, targets) and module not in pairs and targets != "all-linear":
                yield Violation(module, "MODULE_MISSING", f"target_modules covers {module}, which has no weights.")
    yield from _check_ranks(pairs, config)


def _check_ranks(pairs: Mapping[str, _Pair], config: Mapping[str, Any]) -> Iterator[Violation]:
    patterns = config.get("rank_pattern") or {}
    for module, pair in pairs.items():
        told = next((rank for key, rank in patterns.items() if _matches(rf"(.*\.)?({key})$", module)), config.get("r"))
        if pair.a and pair.a[0] != told:
            yield Violation(module, "SHAPE_MISMATCH", f"{module} has rank {pair.a[0]}, its config says {told}.")


def _is_target(module: str, targets: str | list[str]) -> bool:
    if isinstance(targets, str):
        return targets == "all-linear" or _matches(targets, module)
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.fullmatch(pattern, module) is not None
    except re.error:
        return False


def _check_numbers(path: Path, header: Mapping[str, Tensor]) -> Iterator[Violation]:
    """Look at the bits of every number, a piece at a time: bfloat16 has no type in numpy."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for name, tensor in header.items():
        if tensor.dtype not in FLOAT_BITS:
            allowed = ", ".join(FLOAT_BITS)
            yield Violation(name, "DTYPE_UNSUPPORTED", f"{name} is {tensor.dtype}; save the adapter as {allowed}.")
            continue
        kind, mask, limit = FLOAT_BITS[tensor.dtype]
        step = SCAN_ELEMENTS * np.dtype(kind).itemsize
        pieces = (data[start : min(start + step, tensor.end)] for start in range(tensor.begin, tensor.end, step))
        if any(bool(((np.frombuffer(piece.tobytes(), kind) & mask) >= limit).any()) for piece in pieces):
            yield Violation(name, "NOT_FINITE", f"{name} holds NaN or infinity; the training run broke, repeat it.")
