"""How a program begins."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
from services.common.program import begin
from tests.unit.common.test_settings import Settings
begin("trainer", Settings)
"""
COMMAND = (sys.executable, "-c", SCRIPT)


def begin(**environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "STORE": "file:///x", "TOKEN": "geheim", **environment}
    return subprocess.run(COMMAND, env=given, capture_output=True, text=True, check=False, timeout=60)


def test_a_mistake_in_the_settings_ends_it_with_a_line_for_each() -> None:
    done = begin(STORE="", JOBS="many")
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("trainer: ")]) == 2


def test_settings_are_printed_without_their_secrets() -> None:
    done = begin()
    assert done.returncode == 0
    assert "file:///x" in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("address", ["0.0.0.0:50052", "[::]:50052", "10.0.0.5:50052", "example.org:50052"])
def test_an_address_that_other_machines_reach_is_refused_unless_the_network_is_trusted(address: str) -> None:
    refused = begin(TRAINER_ADDRESS=address)
    assert refused.returncode == 2
    assert "AFINA_TRUST_NETWORK" in refused.stderr
    assert begin(TRAINER_ADDRESS=address, AFINA_TRUST_NETWORK="1").returncode == 0


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:50052", "[::1]:50052"])
def test_an_address_of_this_machine_is_taken(address: str) -> None:
    assert begin(TRAINER_ADDRESS=address).returncode == 0


MAIN = """
from services.common import errors
from services.common.program import main
from tests.unit.common.test_settings import Settings
async def run(settings, program):
    raise errors.{kind}("What it is, and what to do.")
main("trainer", Settings, run)
"""


@pytest.mark.parametrize(("kind", "code"), [("WrongState", 2), ("InvalidInput", 2), ("Unavailable", 1)])
def test_what_a_program_can_not_begin_with_is_one_line_and_an_exit_code(kind: str, code: int) -> None:
    given = {**os.environ, "STORE": "file:///x", "TOKEN": "t"}
    command = (sys.executable, "-c", MAIN.format(kind=kind))
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == "trainer: What it is, and what to do."
    assert "Traceback" not in done.stderr
