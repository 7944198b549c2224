"""The environment of the five programs: the one place that sets it.

Programs get what they need to know, and what keeps torch, transformers and vLLM from reaching for the network or
spinning on idle cores. Workloads do not inherit it: the launcher hands them a clean environment, and the program that
launches them adds what they need.
"""

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from services.cli.home import ADDRESS_VARIABLES, PROGRAMS, Home
from services.cli.supervisor import Program
from services.common.transport.authentication import SERVICE_TOKEN

ACCELERATORS = ("auto", "cpu", "cuda")
NVIDIA_DEVICE = Path("/dev/nvidia0")
LIBRARIES = {
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",
}


def resolve(accelerator: str) -> str:
    """Return cpu or cuda for auto: cuda where the device is there and vLLM's CUDA build is installed."""
    if accelerator != "auto":
        return accelerator
    return "cuda" if NVIDIA_DEVICE.exists() and has_cuda_build() else "cpu"


def has_cuda_build() -> bool:
    """Whether the vLLM installed is the one for CUDA; that for CPUs is another distribution."""
    try:
        return bool(metadata.version("vllm"))
    except metadata.PackageNotFoundError:
        return False


def program_environment(name: str, home: Home, environ: Mapping[str, str], accelerator: str) -> dict[str, str]:
    """Return the whole environment of one program; what the user set for a library stays as it is."""
    environment = {**LIBRARIES, **environ}
    environment |= {variable: home.addresses[key] for key, variable in ADDRESS_VARIABLES.items()}
    environment |= {
        "AFINA_HOME": str(home.path),
        "AFINA_CACHE": environ.get("AFINA_CACHE") or str(home.cache),
        "OBJECT_STORE": home.object_store,
        "DATABASE": database(name, home, environ),
        "LAUNCHER": f"process://{home.processes(name)}?jobs=1",
        "GATEWAY_URL": home.gateway_url,
        "API_KEY_FILE": str(home.api_key),
        SERVICE_TOKEN: environ.get(SERVICE_TOKEN) or home.credential({}),
    }
    environment["AFINA_ACCELERATOR"] = accelerator
    if accelerator == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # reaches the workloads too
    return environment


def database(name: str, home: Home, environ: Mapping[str, str]) -> str:
    """Return where one program keeps its records: a schema of AFINA_DATABASE, or a file of its own."""
    shared = environ.get("AFINA_DATABASE", "")
    if not shared:
        return f"sqlite:///{home.databases / name}.db"
    return f"{shared}{'&' if '?' in shared else '?'}schema={name}"


def programs(home: Home, environ: Mapping[str, str], accelerator: str) -> list[Program]:
    """Return the five programs as the supervisor starts them."""
    return [
        Program(
            name=name,
            command=(sys.executable, "-m", f"services.{name}"),
            environment=program_environment(name, home, environ, accelerator),
            address=home.addresses[name],
        )
        for name in PROGRAMS
    ]
