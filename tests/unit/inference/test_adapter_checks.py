"""What must not reach the engine: each failure that vLLM takes in silence, and the ones that it refuses."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from services.common.errors import InvalidInput
from services.inference.adapter_checks import adapter_rank, base_modules, check_adapter, folder_modules, read_header
from tests.unit.inference.adapters import BASE, MODULES, Tensors, config, safetensors, tensors, write

FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def reasons(folder: Path, told_base: str = BASE, max_rank: int = 16) -> list[str]:
    """Return the reasons of all violations, each once."""
    found = check_adapter(folder, MODULES, base_digest=BASE, told_base_digest=told_base, max_rank=max_rank)
    return list(dict.fromkeys(violation.reason for violation in found))


def changed(name: str, value: Any, dtype: str = "F32") -> Tensors:
    return {**tensors(), name: (dtype, value)}


def without(*parts: str) -> Tensors:
    return {name: tensor for name, tensor in tensors().items() if not any(part in name for part in parts)}


def test_a_good_adapter_passes_and_tells_its_rank(tmp_path: Path) -> None:
    folder = write(tmp_path, tensors(), config())
    assert reasons(folder) == []
    assert adapter_rank(folder) == 2


def test_a_header_is_read_as_the_safetensors_library_writes_it() -> None:
    written = save({"a": np.zeros((3, 2), np.float32), "b.weight": np.zeros((5, 7), np.float16)})
    header = read_header(io.BytesIO(written), len(written))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.items()} == {
        "a": ("F32", (3, 2)),
        "b.weight": ("F16", (5, 7)),
    }
    assert base_modules([header]) == {"b": (5, 7)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3.4e38])
def test_a_number_that_is_not_finite_in_the_engines_bfloat16_is_found(tmp_path: Path, value: float) -> None:
    weights = np.full((2, 8), 0.5, np.float32)
    weights[1, 7] = value
    assert reasons(write(tmp_path, changed(FIRST, weights), config())) == ["NOT_FINITE"]


@pytest.mark.parametrize(
    ("bits", "is_finite"),
    [(0x7F80, False), (0xFF80, False), (0x7FC0, False), (0xFFC1, False), (0x7F7F, True), (0xFF7F, True), (0x8000, True)],
)
def test_bfloat16_is_judged_by_its_bits(tmp_path: Path, bits: int, is_finite: bool) -> None:
    weights = np.full((2, 8), 0x3F00, np.uint16)
    weights[0, 3] = bits
    found = reasons(write(tmp_path, changed(FIRST, weights, "BF16"), config()))
    assert found == ([] if is_finite else ["NOT_FINITE"])


@pytest.mark.parametrize(("value", "is_finite"), [(65504.0, True), (np.inf, False), (np.nan, False)])
def test_float16_is_judged_by_its_bits(tmp_path: Path, value: float, is_finite: bool) -> None:
    weights = np.full((2, 8), 0.5, np.float16)
    weights[0, 0] = value
    found = reasons(write(tmp_path, changed(FIRST, weights, "F16"), config()))
    assert found == ([] if is_finite else ["NOT_FINITE"])


def test_a_nan_far_inside_a_large_tensor_is_found(tmp_path: Path) -> None:
    modules = {"model.big": (1 << 21, 1)}
    b = np.zeros((1 << 21, 1), np.float32)
    b[-1, 0] = np.nan
    name = "base_model.model.model.big.lora_{}.weight"
    made: Tensors = {name.format("A"): ("F32", np.zeros((1, 1), np.float32)), name.format("B"): ("F32", b)}
    folder = write(tmp_path, made, config(r=1, target_modules=["big"]))
    found = check_adapter(folder, modules, base_digest=BASE, told_base_digest=BASE, max_rank=16)
    assert [violation.reason for violation in found] == ["NOT_FINITE"]


def test_a_wrong_key_prefix_is_found(tmp_path: Path) -> None:
    assert "KEY_UNEXPECTED" in reasons(write(tmp_path / "a", tensors(prefix=""), config()))
    assert "MODULE_UNKNOWN" in reasons(write(tmp_path / "b", tensors(prefix="base_model.model.base_model.model."), config()))


def test_a_layer_that_the_base_lacks_is_found(tmp_path: Path) -> None:
    made = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in tensors().items()}
    assert reasons(write(tmp_path, made, config())) == ["MODULE_UNKNOWN", "MODULE_MISSING"]


@pytest.mark.parametrize("shape", [(8, 2), (2, 9), (2, 4), (2,), (0, 8)])
def test_a_wrong_shape_is_found(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert "SHAPE_MISMATCH" in reasons(write(tmp_path, changed(FIRST, np.zeros(shape, np.float32)), config()))


@pytest.mark.parametrize("shape", [(9, 2), (4, 2), (8, 3), (8,), (2, 8)])
def test_a_wrong_shape_of_the_second_half_is_found(tmp_path: Path, shape: tuple[int, ...]) -> None:
    second = FIRST.replace("lora_A", "lora_B")
    assert reasons(write(tmp_path, changed(second, np.zeros(shape, np.float32)), config())) == ["SHAPE_MISMATCH"]


def test_a_missing_half_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path, without("layers.0.self_attn.q_proj.lora_B"), config())
    assert reasons(folder) == ["PAIR_INCOMPLETE"]


def test_missing_layers_and_missing_modules_are_found(tmp_path: Path) -> None:
    assert reasons(write(tmp_path / "a", without("layers.1."), config())) == ["MODULE_MISSING"]
    assert reasons(write(tmp_path / "b", without("v_proj"), config())) == ["TARGETS_MISMATCH", "MODULE_MISSING"]


def test_layers_that_were_left_out_on_purpose_are_not_missed(tmp_path: Path) -> None:
    assert reasons(write(tmp_path, without("layers.1."), config(layers_to_transform=[0]))) == []


def test_weights_that_the_config_does_not_name_are_found(tmp_path: Path) -> None:
    assert reasons(write(tmp_path / "a", tensors(), config(target_modules=["q_proj", "k_proj"]))) == ["TARGETS_MISMATCH"]
    assert reasons(write(tmp_path / "b", tensors(), config(target_modules=[]))) == ["TARGETS_MISMATCH"]
    assert reasons(write(tmp_path / "c", tensors(), config(target_modules=r".*\.(q|k|v)_proj"))) == []
    assert "TARGETS_MISMATCH" in reasons(write(tmp_path / "d", tensors(), config(target_modules="(")))


def test_a_rank_above_the_engines_is_found_in_config_and_weights(tmp_path: Path) -> None:
    assert reasons(write(tmp_path / "a", tensors(rank=32), config(r=32)), max_rank=16) == ["RANK_TOO_HIGH"]
    assert reasons(write(tmp_path / "b", tensors(rank=32), config(r=32)), max_rank=32) == []
    hidden = config(r=32, rank_pattern={"q_proj|k_proj|v_proj": 2})  # the engine makes room for what the config says
    assert reasons(write(tmp_path / "c", tensors(), hidden), max_rank=16) == ["RANK_TOO_HIGH"]


def test_a_rank_other_than_the_config_says_is_found_and_a_pattern_is_heeded(tmp_path: Path) -> None:
    assert reasons(write(tmp_path / "a", tensors(), config(r=4))) == ["SHAPE_MISMATCH"]
    assert reasons(write(tmp_path / "b", tensors(), config(r=4, rank_pattern={"q_proj|k_proj|v_proj": 2}))) == []


@pytest.mark.parametrize(
    "feature",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"lora_bias": True},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa"},
        {"layer_replication": [[0, 1]]},
    ],
)
def test_what_the_engine_does_not_compute_is_found(tmp_path: Path, feature: dict[str, Any]) -> None:
    assert reasons(write(tmp_path, tensors(), config(**feature))) == ["FEATURE_UNSUPPORTED"]


def test_another_base_is_found_in_the_manifest_and_in_the_config(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tensors(), config())
    assert reasons(folder, told_base="c" * 64) == ["WRONG_BASE"]
    assert reasons(folder, told_base="") == ["WRONG_BASE"]
    assert reasons(write(tmp_path / "b", tensors(), config(base_model_name_or_path=f"/cache/{'c' * 64}"))) == ["WRONG_BASE"]
    assert reasons(write(tmp_path / "c", tensors(), config(base_model_name_or_path=f"/cache/{BASE}"))) == []
    assert reasons(write(tmp_path / "d", tensors(), config(base_model_name_or_path="a-name"))) == []


@pytest.mark.parametrize("alpha", [None, "16", math.nan, math.inf])
def test_an_alpha_that_is_no_number_is_found(tmp_path: Path, alpha: Any) -> None:
    assert reasons(write(tmp_path, tensors(), config(lora_alpha=alpha))) == ["ALPHA_INVALID"]


def test_files_that_could_run_code_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path, tensors(), config())
    for name in ("adapter_model.bin", "modeling.py", "state.PT"):
        (folder / name).write_bytes(b"x")
    found = check_adapter(folder, MODULES, base_digest=BASE, told_base_digest=BASE, max_rank=16)
    assert [violation.field for violation in found] == ["adapter_model.bin", "modeling.py", "state.PT"]
    assert {violation.reason for violation in found} == {"UNSAFE_FILE"}


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_a_truncated_file_is_found(tmp_path: Path, cut: int) -> None:
    folder = write(tmp_path, tensors(), config())
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    assert reasons(folder) == ["SAFETENSORS_INVALID"]


def test_a_file_with_bytes_after_its_tensors_or_a_shape_that_does_not_fit_is_refused() -> None:
    good = safetensors(tensors())
    for bad in (good + b"\0" * 8, good.replace(b"[2, 8]", b"[2, 9]", 1)):
        with pytest.raises(InvalidInput):
            read_header(io.BytesIO(bad), len(bad))


def test_missing_files_and_broken_json_are_found(tmp_path: Path) -> None:
    tmp_path.joinpath("empty").mkdir()
    assert reasons(tmp_path / "empty") == ["CONFIG_INVALID", "SAFETENSORS_INVALID"]
    folder = write(tmp_path / "b", tensors(), config())
    (folder / "adapter_config.json").write_text("[1]")
    assert reasons(folder) == ["CONFIG_INVALID"]


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    weights = np.full((2, 8), np.nan, np.float32)
    folder = write(tmp_path, changed(FIRST, weights), config(use_dora=True, r=4))
    assert reasons(folder, told_base="c" * 64) == ["WRONG_BASE", "FEATURE_UNSUPPORTED", "SHAPE_MISMATCH", "NOT_FINITE"]


def test_the_modules_of_a_base_are_read_from_all_its_shards(tmp_path: Path) -> None:
    for shard, name in enumerate(("a", "b")):
        made: Tensors = {f"model.{name}.weight": ("F32", np.zeros((3, 2), np.float32))}
        (tmp_path / f"model-0000{shard}.safetensors").write_bytes(safetensors(made))
    assert folder_modules(tmp_path) == {"model.a": (3, 2), "model.b": (3, 2)}


def test_a_config_that_names_a_module_to_import_is_refused(tmp_path: Path) -> None:
    mapping = {"base_model_class": "Evil", "parent_library": "evil"}  # peft/auto.py imports the library to find the class
    assert reasons(write(tmp_path, tensors(), config(auto_mapping=mapping))) == ["REMOTE_CODE"]
