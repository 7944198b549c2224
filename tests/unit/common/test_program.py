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
