"""The plugin: in a vLLM that Afina did not start it is not there."""

import subprocess
import sys


def test_registering_without_the_environment_imports_nothing_and_registers_nothing() -> None:
    script = "import sys; from services.inference.server.plugin import register; register(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={})
    loaded = set(done.stdout.split())
    assert "services.inference.server.plugin" in loaded
    assert not {"vllm", "torch", "numpy", "services.inference.adapter_checks"} & loaded
