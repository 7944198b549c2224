"""Each promise of the Launcher port, on every backend."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.launcher.shim import read_json, write_json
from services.common.backends.measured import measured
from services.common.errors import InvalidInput
from services.common.metrics import Metrics
from services.common.ports.launcher import Launcher, Workload, WorkloadState
from tests.builders import eventually
from tests.fakes import ScriptedLauncher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "processes"


@pytest.fixture(params=["process"])
def launcher(request: pytest.FixtureRequest, folder: Path) -> ProcessLauncher:
    return ProcessLauncher(folder, max_jobs=1, grace_s=1.0)


@pytest.fixture(params=["process", "scripted"])
def any_launcher(request: pytest.FixtureRequest, launcher: ProcessLauncher) -> Launcher:
    """The backends, and the double for the promises that it can keep."""
    return measured(launcher, "launcher", Metrics()) if request.param == "process" else ScriptedLauncher()


def job(key: str, script: str, kind: str = "job", **environment: str) -> Workload:
    return Workload(key, kind, ("sh", "-c", script), environment)


async def state(launcher: Launcher, key: str) -> WorkloadState:
    return (await launcher.observe(key)).state


async def ended(launcher: Launcher, key: str) -> bool:
    return (await launcher.observe(key)).has_ended


async def test_a_job_runs_with_its_environment_and_ends_with_its_exit_code_and_output(launcher: ProcessLauncher) -> None:
    await launcher.launch(launcher.plan(job("good", "echo $WORD", WORD="hello")))
    await launcher.launch(launcher.plan(job("bad", "echo oh; exit 64")))
    await eventually(lambda: ended(launcher, "good"))
    await eventually(lambda: ended(launcher, "bad"))
    good, bad = await launcher.observe("good"), await launcher.observe("bad")
    assert (good.state, good.exit_code, await launcher.logs("good")) == (WorkloadState.SUCCEEDED, 0, (b"hello\n", 6))
    assert (bad.state, bad.exit_code) == (WorkloadState.FAILED, 64)


async def test_launching_twice_is_one_launch_even_after_it_has_ended(launcher: ProcessLauncher, tmp_path: Path) -> None:
    manifest = launcher.plan(job("once", f"echo x >> {tmp_path}/count"))
    await asyncio.gather(*(launcher.launch(manifest) for _ in range(5)))
    await eventually(lambda: ended(launcher, "once"))
    await launcher.launch(manifest)
    assert (tmp_path / "count").read_text() == "x\n"


async def test_a_launch_whose_service_died_while_staging_it_is_never_started(
    launcher: ProcessLauncher, folder: Path, tmp_path: Path
) -> None:
    (folder / ".launch-left").mkdir()
    write_json(
        folder / ".launch-left" / "manifest.json", {**launcher.plan(job("left", f"touch {tmp_path}/ran")), "launch_time_ns": 1}
    )
    await launcher.launch(launcher.plan(job("next", "true")))
    await eventually(lambda: ended(launcher, "next"))
    assert launcher.keys() == ["next"]
    assert not (tmp_path / "ran").exists()


async def test_the_never_launched_is_gone_and_stopping_it_succeeds(any_launcher: Launcher) -> None:
    await any_launcher.stop("absent")
    assert await state(any_launcher, "absent") == WorkloadState.GONE
    assert await any_launcher.logs("absent") == (b"", 0)


async def test_a_launch_adopts_what_runs_and_what_has_ended(any_launcher: Launcher) -> None:
    manifest = any_launcher.plan(job("kept", "sleep 60"))
    assert any_launcher.plan(job("kept", "sleep 60")) == manifest
    assert await state(any_launcher, "kept") == WorkloadState.GONE
    for _ in range(2):
        await any_launcher.launch(manifest)
        assert await state(any_launcher, "kept") == WorkloadState.RUNNING
    await any_launcher.stop("kept")
    await eventually(lambda: ended(any_launcher, "kept"))
    seen = await any_launcher.observe("kept")
    await any_launcher.launch(manifest)
    await any_launcher.stop("kept")
    assert await any_launcher.observe("kept") == seen
    assert seen.state == WorkloadState.FAILED


async def test_a_second_job_waits_with_its_position_and_begins_when_the_first_has_ended(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await launcher.launch(launcher.plan(job("first", f"cat {gate}")))
    await launcher.launch(launcher.plan(job("second", "true")))
    await launcher.launch(launcher.plan(job("third", "true")))
    waiting = [await launcher.observe("second"), await launcher.observe("third")]
    assert [(w.state, w.position) for w in waiting] == [(WorkloadState.PENDING, 1), (WorkloadState.PENDING, 2)]
    gate.write_text("go")
    await eventually(lambda: ended(launcher, "third"))
    assert await state(launcher, "second") == WorkloadState.SUCCEEDED


async def test_servers_are_not_counted_among_jobs(launcher: ProcessLauncher) -> None:
    await launcher.launch(launcher.plan(job("server", "sleep 60", kind="server")))
    await launcher.launch(launcher.plan(job("work", "true")))
    await eventually(lambda: ended(launcher, "work"))
    assert await state(launcher, "server") == WorkloadState.RUNNING
    await launcher.stop("server")
    await eventually(lambda: ended(launcher, "server"))


async def test_an_errand_does_not_wait_for_a_job_and_errands_wait_for_one_another(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await launcher.launch(launcher.plan(job("work", "sleep 60")))
    await launcher.launch(launcher.plan(job("first", f"cat {gate}", kind="errand")))
    await launcher.launch(launcher.plan(job("waiting", "true")))
    await launcher.launch(launcher.plan(job("second", "true", kind="errand")))
    assert await state(launcher, "first") == WorkloadState.RUNNING
    assert (await launcher.observe("second")).position == 1
    gate.write_text("go")
    await eventually(lambda: ended(launcher, "second"))
    assert await state(launcher, "work") == WorkloadState.RUNNING
    await launcher.stop("waiting")
    await launcher.stop("work")
    await eventually(lambda: ended(launcher, "work"))


async def test_stop_terms_first_and_kills_what_does_not_heed_it_with_its_children(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    polite, deaf = (
        "trap 'exit 75' TERM; while :; do sleep 0.1; done",
        f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait; sleep 60",
    )
    await launcher.launch(launcher.plan(job("polite", polite, kind="server")))
    await launcher.launch(launcher.plan(job("deaf", deaf, kind="server")))
    await eventually(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    await launcher.stop("polite")
    await launcher.stop("deaf")
    await eventually(lambda: ended(launcher, "polite"))
    await eventually(lambda: ended(launcher, "deaf"))
    assert (await launcher.observe("polite")).exit_code == 75
    assert (await launcher.observe("deaf")).exit_code == 128 + signal.SIGKILL
    child = int((tmp_path / "child").read_text())
    await eventually(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


async def test_a_waiting_job_that_is_stopped_never_begins(launcher: ProcessLauncher, tmp_path: Path) -> None:
    await launcher.launch(launcher.plan(job("first", "sleep 60")))
    await launcher.launch(launcher.plan(job("second", f"touch {tmp_path}/ran")))
    await launcher.stop("second")
    assert (await launcher.observe("second")).has_ended
    await launcher.stop("first")
    await eventually(lambda: ended(launcher, "first"))
    assert not (tmp_path / "ran").exists()


async def test_a_workload_outlives_the_service_that_launched_it(folder: Path, launcher: ProcessLauncher) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from services.common.backends.launcher.process import ProcessLauncher\n"
        "from services.common.ports.launcher import Workload\n"
        "launcher = ProcessLauncher(Path(sys.argv[1]))\n"
        "work = Workload('long', 'job', ('sh', '-c', 'sleep 1; exit 7'))\n"
        "asyncio.run(launcher.launch(launcher.plan(work)))\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert await state(launcher, "long") == WorkloadState.RUNNING
    await eventually(lambda: ended(launcher, "long"))
    assert (await launcher.observe("long")).exit_code == 7


async def test_a_shim_that_was_killed_is_seen_through_its_workload(launcher: ProcessLauncher, folder: Path) -> None:
    await launcher.launch(launcher.plan(job("orphan", "sleep 60")))
    process = read_json(folder / "orphan" / "process.json")
    assert process is not None
    os.kill(process["shim_pid"], signal.SIGKILL)
    assert await state(launcher, "orphan") == WorkloadState.RUNNING
    await launcher.stop("orphan")
    await eventually(lambda: ended(launcher, "orphan"))
    seen = await launcher.observe("orphan")
    assert (seen.state, seen.exit_code) == (WorkloadState.FAILED, None)


async def test_a_command_that_does_not_exist_fails_in_words(launcher: ProcessLauncher) -> None:
    await launcher.launch(launcher.plan(Workload("none", "job", ("/no/such/program",))))
    await eventually(lambda: ended(launcher, "none"))
    seen = await launcher.observe("none")
    assert seen.exit_code == 127
    assert "could not be started" in seen.message


async def test_an_environment_that_no_process_can_have_fails_in_words(launcher: ProcessLauncher) -> None:
    await launcher.launch(launcher.plan(job("nul", "true", WORD="a\0b")))
    await eventually(lambda: ended(launcher, "nul"))
    seen = await launcher.observe("nul")
    assert seen.exit_code == 127
    assert "could not be started" in seen.message


def test_a_workload_that_can_not_be_recorded_is_not_run(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"command": ["touch", "ran"], "environment": {}, "grace_s": 1.0})
    (tmp_path / "process.json").mkdir()  # so that nothing can be put in its place
    subprocess.run([sys.executable, "-m", "services.common.backends.launcher.shim", str(tmp_path)], capture_output=True)
    assert (read_json(tmp_path / "exit.json") or {})["exit_code"] == 127
    assert not (tmp_path / "ran").exists()


def test_a_workload_whose_shim_is_killed_before_it_is_recorded_is_not_run(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from services.common.backends.launcher import shim\n"
        "shim.hold(['touch', 'ran'], dict(os.environ), sys.argv[1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True)  # returns when both have left
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "ran").exists()


async def test_a_workload_that_has_ended_leaves_no_secrets_behind(launcher: ProcessLauncher, folder: Path) -> None:
    await launcher.launch(launcher.plan(job("secret", "true", TOKEN="t0p")))
    await eventually(lambda: ended(launcher, "secret"))
    await eventually(lambda: (read_json(folder / "secret" / "manifest.json") or {})["environment"] == {})


async def test_secrets_in_the_environment_stay_with_the_owner(launcher: ProcessLauncher, folder: Path) -> None:
    await launcher.launch(launcher.plan(job("secret", "true", TOKEN="t0p")))
    assert (folder / "secret" / "manifest.json").stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("key", ["", "../x", "UPPER", "a" * 64, "a/b", "-a"])
def test_a_key_that_is_not_one_is_refused(launcher: ProcessLauncher, key: str) -> None:
    with pytest.raises(InvalidInput):
        launcher.plan(job(key, "true"))
