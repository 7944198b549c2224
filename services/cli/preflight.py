"""What is looked at before anything starts, so that a machine that can't do it is told why, all at once and at once."""

import importlib.util
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from services.cli.environment import NVIDIA_DEVICE, has_cuda_build
from services.cli.home import ADDRESS_VARIABLES, Home
from services.cli.processes import holder_of
from services.common.errors import InvalidInput, Violation

MIN_FREE_BYTES = 2 << 30  # base in store and cache, its download, adapters, logs
ENOUGH_MEMORY_BYTES = 5 << 30  # the model server takes 3.2 GB, training beside it 1.5


def check(home: Home, accelerator: str, finders: Sequence[Callable[[Home], list[Violation]]] | None = None) -> None:
    """Look at everything. Raises: InvalidInput with a violation for each thing to mend."""
    violations = [violation for find in (CHECKS if finders is None else finders) for violation in find(home)]
    violations += cuda() if accelerator == "cuda" else []
    if violations:
        raise InvalidInput("Afina can't start on this machine yet.", reason="PREFLIGHT_FAILED", violations=violations)


def ports(home: Home) -> list[Violation]:
    """Every address can be bound."""
    return [found for key, variable in ADDRESS_VARIABLES.items() if (found := _port(variable, home.addresses[key]))]


def vllm(home: Home) -> list[Violation]:
    """The model server is installed."""
    if importlib.util.find_spec("vllm"):
        return []
    what = "vLLM is not installed, so no model could answer: pip install 'afina[server-cpu]' (a GPU: 'afina[server-cuda]')."
    return [Violation("vllm", "PACKAGE_MISSING", what)]


def cuda() -> list[Violation]:
    """What a GPU needs is there."""
    violations = []
    if not NVIDIA_DEVICE.exists():
        what = f"There is no {NVIDIA_DEVICE}: load the NVIDIA driver, or use --accelerator cpu."
        violations.append(Violation("accelerator", "DEVICE_MISSING", what))
    if not has_cuda_build():
        what = "vLLM for CUDA is not installed: pip install 'afina[all-cuda]' in a fresh environment, or use --accelerator cpu."
        violations.append(Violation("accelerator", "PACKAGE_MISSING", what))
    return violations


def torchvision(home: Home) -> list[Violation]:
    """Where torchvision is installed it loads: nothing here needs it, but vLLM and transformers import it if it is there."""
    if not importlib.util.find_spec("torchvision"):
        return []
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        return []
    why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    what = f"torchvision does not load beside this torch ({why}) and would keep vLLM from starting: pip uninstall -y torchvision"
    return [Violation("torchvision", "PACKAGE_BROKEN", what)]


def disk(home: Home) -> list[Violation]:
    """There is room for models."""
    free = shutil.disk_usage(home.path).free
    if free >= MIN_FREE_BYTES:
        return []
    what = (
        f"{home.path} has {free / 2**30:.1f} GiB free of {MIN_FREE_BYTES >> 30} needed: make room, or set AFINA_HOME elsewhere."
    )
    return [Violation("disk", "DISK_FULL", what)]


def memory_warning() -> str | None:
    """Return a sentence where memory may not suffice; it stops nobody."""
    try:
        with open("/proc/meminfo") as lines:
            available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    if available >= ENOUGH_MEMORY_BYTES:
        return None
    return f"{available / 2**30:.1f} GiB of memory are available; a model server and a training run beside it take about 5."


def _port(variable: str, address: str) -> Violation | None:
    host, _, text = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(text)))
            return None
        except (OSError, OverflowError) as error:
            holder = holder_of(int(text))
            why = f"{holder} has it: end that" if holder else f"it can't be bound ({error}): free it"
            return Violation(variable, "ADDRESS_IN_USE", f"{address}: {why}, or set {variable} to another host:port.")


CHECKS: list[Callable[[Home], list[Violation]]] = [ports, vllm, torchvision, disk]
