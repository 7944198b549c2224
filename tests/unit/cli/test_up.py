"""What is looked at before anything starts, where an installation is found, and what programs are told."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.cli import environment, preflight, processes, workloads
from services.cli.home import ADDRESS_VARIABLES, find, with_free_probes
from services.cli.sampler import MemorySampler
from services.cli.up import bring_down
from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.launcher.shim import read_json, start_time, write_json
from services.common.errors import InvalidInput, Violation
from services.common.ports.launcher import Workload
from tests.builders import eventually, free_port


def environ(folder: Path, **more: str) -> dict[str, str]:
    """An installation of its own, on ports that nobody has."""
    ports = {variable: f"127.0.0.1:{free_port()}" for variable in ADDRESS_VARIABLES.values()}
    return {"AFINA_HOME": str(folder / "home"), **ports, **more}


def test_a_port_that_is_taken_is_told_with_its_holder_and_the_variable_to_change(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        [violation] = preflight.ports(find(environ(tmp_path, TRAINER_ADDRESS=address)))
    assert violation.field == "TRAINER_ADDRESS"
    assert address in violation.description
    if sys.platform == "linux":
        assert f"pid {os.getpid()}" in violation.description


def test_free_ports_are_no_violation(tmp_path: Path) -> None:
    assert preflight.ports(find(environ(tmp_path))) == []


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    finders = [lambda home: [Violation("disk", "DISK_FULL", "a")], lambda home: [Violation("vllm", "PACKAGE_MISSING", "b")]]
    with pytest.raises(InvalidInput) as caught:
        preflight.check(find(environ(tmp_path)), "cpu", finders)
    assert [violation.field for violation in caught.value.violations] == ["disk", "vllm"]


@pytest.mark.skipif(environment.NVIDIA_DEVICE.exists(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_refused_and_auto_takes_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        preflight.check(find(environ(tmp_path)), "cuda", [])
    assert caught.value.violations[0].field == "accelerator"
    assert environment.resolve("auto") == "cpu"


def test_the_environment_comes_first_then_what_up_wrote_then_the_usual_ports(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    record = {
        "pid": os.getpid(),
        "start_time": start_time(os.getpid()),
        "addresses": {"dataset": "127.0.0.1:1", "trainer": "h:2"},
    }
    write_json(home / "up.json", {**record, "gateway_url": "http://h:9", "object_store": "file:///elsewhere"})
    found = find({"AFINA_HOME": str(home), "TRAINER_ADDRESS": "127.0.0.1:3"})
    assert found.addresses["dataset"] == "127.0.0.1:1"
    assert found.addresses["trainer"] == "127.0.0.1:3"
    assert found.addresses["inference"] == "127.0.0.1:50054"
    assert (found.gateway_url, found.object_store) == ("http://h:9", "file:///elsewhere")
    assert find({"AFINA_HOME": str(home)}, fresh=True).addresses["dataset"] == "127.0.0.1:50051"


def test_an_address_without_a_port_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="DATASET_ADDRESS=nowhere"):
        find({"AFINA_HOME": str(tmp_path), "DATASET_ADDRESS": "nowhere"})


def test_every_program_gets_a_database_of_its_own_and_all_addresses(tmp_path: Path) -> None:
    given = environ(tmp_path, OMP_WAIT_POLICY="active")
    programs = environment.programs(find(given), given, "cpu")
    assert [program.name for program in programs] == ["dataset", "trainer", "evaluator", "inference", "gateway"]
    assert len({program.environment["DATABASE"] for program in programs}) == 5
    for program in programs:
        assert all(program.environment[variable] == given[variable] for variable in ADDRESS_VARIABLES.values())
        assert program.environment["AFINA_ACCELERATOR"] == "cpu"
        assert program.environment["CUDA_VISIBLE_DEVICES"] == ""
        assert program.environment["OMP_WAIT_POLICY"] == "active"
        assert program.command[1:] == ("-m", f"services.{program.name}")


def test_on_one_postgresql_every_program_has_a_schema_of_its_own(tmp_path: Path) -> None:
    given = environ(tmp_path, AFINA_DATABASE="postgresql://h/db", OBJECT_STORE="s3://b/p", AWS_ACCESS_KEY_ID="k")
    for program in environment.programs(find(given), given, "cpu"):
        assert program.environment["DATABASE"] == f"postgresql://h/db?schema={program.name}"
        assert (program.environment["OBJECT_STORE"], program.environment["AWS_ACCESS_KEY_ID"]) == ("s3://b/p", "k")
    given["AFINA_DATABASE"] += "?sslmode=require"
    assert environment.database("trainer", find(given), given) == "postgresql://h/db?sslmode=require&schema=trainer"


def test_the_home_is_closed_to_other_users(tmp_path: Path) -> None:
    home = find(environ(tmp_path))
    home.make()
    assert home.path.stat().st_mode & 0o077 == 0


async def test_down_ends_the_workloads_that_a_killed_supervisor_left_behind(tmp_path: Path) -> None:
    home = find(environ(tmp_path))
    home.make()
    launcher = ProcessLauncher(home.processes("inference"), grace_s=2)
    command = (sys.executable, "-c", "import signal; signal.pause()")
    await launcher.launch(launcher.plan(Workload("server-1", "server", command)))
    [running] = workloads.running(home)
    assert (running.key, running.kind) == ("server-1", "inference.server")
    assert processes.memory_bytes(processes.descendants([running.pid])) > 0
    left = subprocess.Popen(command)
    record: dict[str, Any] = {"pid": 2**22 + 1, "start_time": 1, "is_ready": True}
    record["programs"] = {"dataset": {"pid": left.pid, "start_time": start_time(left.pid)}}
    write_json(home.record, record)
    reaped = eventually(lambda: left.poll() is not None)
    stopped = await bring_down(home)
    assert await reaped
    assert stopped == ["dataset", "server-1"]
    assert workloads.running(home) == []
    assert read_json(home.record) is None
    assert await bring_down(home) == []


def test_descendants_are_found_by_their_parents() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        found = processes.descendants([os.getpid()])
    finally:
        child.kill()
        child.wait()
    assert os.getpid() in found
    assert child.pid in found


async def test_the_sampler_keeps_the_most_that_it_saw_and_what_an_earlier_run_saw(tmp_path: Path) -> None:
    home = find(environ(tmp_path))
    home.make()
    with MemorySampler(home, {"inference.server": 7, "demo": 1}, interval_s=0.01) as sampler:
        await eventually(lambda: sampler.peaks["demo"] > 1)
    assert sampler.peaks["inference.server"] == 7


def test_probes_whose_usual_port_is_taken_get_another_unless_it_was_asked_for_by_name(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        known = find({"AFINA_HOME": str(tmp_path)})
        home = replace(known, addresses={**known.addresses, "trainer probes": taken})
        moved = with_free_probes(home, {})
        assert moved.addresses["trainer probes"] != taken
        assert moved.addresses["trainer"] == home.addresses["trainer"]
        assert moved.probes_url("trainer") == f"http://{moved.addresses['trainer probes']}"
        asked = with_free_probes(home, {"TRAINER_METRICS_ADDRESS": taken})
        assert asked.addresses["trainer probes"] == taken  # the preflight says who has it
