"""Every program and both workers can be imported whole, which is what an image is proven by."""

import subprocess
import sys
from pathlib import Path

PROGRAMS = ("dataset", "trainer", "trainer.worker", "evaluator", "evaluator.worker", "inference", "gateway")


def test_each_program_checks_itself_without_settings_and_leaves() -> None:
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    bare = {"PYTHONPATH": f"{root}:{root / 'proto' / 'gen'}"}  # this tree, whichever is installed
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"services.{name}", "--check"], cwd=root, env=bare, stdout=pipe, stderr=pipe
        )
        for name in PROGRAMS
    }
    said = {name: process.communicate() for name, process in started.items()}
    assert {name: (process.returncode, *said[name]) for name, process in started.items() if process.returncode} == {}


def test_every_program_is_among_those_that_check_themselves() -> None:
    services = Path(__file__).parents[2] / "services"
    mains = {".".join(path.relative_to(services).parts[:-1]) for path in services.rglob("__main__.py")}
    assert mains - {"cli"} == set(PROGRAMS)
