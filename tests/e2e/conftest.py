"""One installation for all end-to-end tests: made by the README's own command, on addresses of its own."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

from tests.builders import free_port

ROOT = Path(__file__).parents[2]
VARIABLES = (
    "DATASET_ADDRESS",
    "TRAINER_ADDRESS",
    "EVALUATOR_ADDRESS",
    "INFERENCE_ADDRESS",
    "GATEWAY_ADDRESS",
    "GATEWAY_HTTP_ADDRESS",
)


@dataclass
class Demo:
    """A demo that ran, and left its programs running."""

    home: Path
    environment: dict[str, str]
    output: str

    @property
    def gateway(self) -> str:
        return f"http://{self.environment['GATEWAY_HTTP_ADDRESS']}"

    def openai(self) -> OpenAI:
        """The unmodified SDK, with the first key."""
        return OpenAI(base_url=f"{self.gateway}/v1", api_key=(self.home / "api_key").read_text().strip(), timeout=120)

    def run(self, command: Sequence[str], timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would, in the clone."""
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def afina(self, *arguments: str) -> str:
        """Run the CLI and return what it prints."""
        done = self.run([str(ROOT / ".venv/bin/afina"), *arguments])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def readme_commands() -> list[str]:
    """The commands of the README's first block, as printed."""
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return [line.split("#")[0].strip() for line in block[1].splitlines()]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    home = tmp_path_factory.mktemp("e2e") / "home"
    environment = {**os.environ, "AFINA_HOME": str(home), "COLUMNS": "120"}
    environment |= {variable: f"127.0.0.1:{free_port()}" for variable in VARIABLES}
    demo = Demo(home, environment, "")
    try:
        done = demo.run(readme_commands()[0].split(), timeout_s=1500)
        demo.output = done.stdout + done.stderr
        assert done.returncode == 0, demo.output[-6000:] + logs(home)
        yield demo
    finally:
        demo.run(["make", "stop"])


def logs(home: Path) -> str:
    """The last lines of every log: what one would have asked for."""
    told = []
    for path in sorted([*home.glob("logs/*"), *home.glob("processes/*/*/output.log")]):
        told.append(f"\n== {path.relative_to(home)}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
    return "".join(told)
