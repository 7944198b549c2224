"""An attempt that ends early costs its time and nothing else."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.ports.manifest import Manifest
from services.common.ports.object_store import ObjectStore
from services.trainer.worker import checkpoint
from services.trainer.worker.loop import Stopped
from services.trainer.worker_environment import RECOMMENDED
from tests.learning.builders import Desk, Events, chat, desk, recipe, uneven_chats

TIMES = {"tokens_per_s"}
TOLD = recipe(epochs=2, dropout=0.1, learning_rate=2e-2)  # 6 steps, and random numbers in each


class Killed(BaseException):
    """Not an Exception, so that nothing on the way handles it: as abrupt as a signal."""


def kill_at(step: int) -> Events:
    def at_step(now: int) -> None:
        if now == step:
            raise Killed

    return Events(at_step)


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Desk:
    return desk(tmp_path, base, uneven_chats(12), uneven_chats(3), TOLD)


@pytest.fixture(scope="module")
def straight(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """What a run gives that nobody disturbs."""
    return desk(tmp_path_factory.mktemp("straight"), base, uneven_chats(12), uneven_chats(3), TOLD).run(Events(), interval_s=1e9)


def assert_same(manifest: Manifest, straight: Manifest) -> None:
    """The same bytes of weights and of golden answers, and the same numbers on the way."""
    assert manifest.digest == straight.digest
    for ours, theirs in zip(manifest.data["metrics"], straight.data["metrics"], strict=True):
        assert {k: v for k, v in ours.items() if k not in TIMES} == {k: v for k, v in theirs.items() if k not in TIMES}
    assert manifest.data["validation"] == straight.data["validation"]
    assert manifest.data["best_step"] == straight.data["best_step"]
    assert manifest.data["trained_tokens"] == straight.data["trained_tokens"]


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_killed_attempt_goes_on_to_the_very_same_weights(job: Desk, straight: Manifest, step: int) -> None:
    with pytest.raises(Killed):
        job.run(kill_at(step))
    events = Events()
    manifest = job.run(events, number=2)
    assert [data["step"] for data in events.of("RESUMED")] == ([step - 1] if step > 1 else [])
    assert_same(manifest, straight)


def test_a_stopped_attempt_goes_on_after_its_last_step(job: Desk, straight: Manifest) -> None:
    first, second = Events(), Events()
    with pytest.raises(Stopped):
        job.run(first, stop=lambda: len(first.of("STEP")) == 4, interval_s=1e9)
    assert_same(job.run(second, number=2, interval_s=1e9), straight)
    assert [data["step"] for data in second.of("STEP")] == [5, 6]


def test_an_attempt_that_is_stopped_while_it_loads_leaves_before_it_has_loaded(job: Desk, straight: Manifest) -> None:
    events = Events()
    with pytest.raises(Stopped):
        job.run(events, stop=lambda: True)
    assert (events.of("LOADED"), _manifests(job.store)) == ([], [])
    assert_same(job.run(Events(), number=2), straight)


def test_an_attempt_that_was_replaced_and_does_not_know_it_takes_nothing_from_the_next(job: Desk) -> None:
    first, second = Events(), Events()
    with pytest.raises(Stopped):
        job.run(first, stop=lambda: len(first.of("STEP")) == 3)
    half = job.store.put("jobs/1/checkpoints/00000004-0002", io.BytesIO(b"what the second attempt is writing"))
    with pytest.raises(Stopped):
        job.run(second, number=1, stop=lambda: len(second.of("STEP")) == 1)
    assert job.store.read_artifact(half) == b"what the second attempt is writing"


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(job: Desk, straight: Manifest) -> None:
    with pytest.raises(Killed):
        job.run(kill_at(4))
    newest = _manifests(job.store)[-1]
    assert newest.data["step"] == 3
    _damage(job, newest.file("optimizer.safetensors").key)
    events = Events()
    manifest = job.run(events, number=2)
    assert len(events.of("CHECKPOINT_REJECTED")) == 1
    assert events.of("RESUMED")[0]["step"] == 2
    assert_same(manifest, straight)


def test_a_manifest_that_can_not_be_read_is_passed_over_and_goes_with_the_next_save(job: Desk, straight: Manifest) -> None:
    with pytest.raises(Killed):
        job.run(kill_at(4))
    damaged = sorted(key for key in job.store.list("jobs/1/checkpoints/") if key.endswith(".json"))[-1]
    _damage(job, damaged)
    events = Events()
    assert_same(job.run(events, number=2), straight)
    assert len(events.of("CHECKPOINT_REJECTED")) == 1
    assert events.of("RESUMED")[0]["step"] == 2
    assert damaged not in job.store.list("jobs/1/checkpoints/")
    assert len(_manifests(job.store)) == 2


def test_only_the_last_two_checkpoints_and_their_files_are_kept(job: Desk) -> None:
    with pytest.raises(Killed):
        job.run(kill_at(5))
    manifests = _manifests(job.store)
    assert [manifest.data["step"] for manifest in manifests] == [3, 4]
    named = {file.artifact.key for manifest in manifests for file in manifest.files}
    kept = {key for key in job.store.list("jobs/1/checkpoints/") if not key.endswith(".json")}
    assert kept == named


def test_checkpoints_hold_no_pickle(job: Desk) -> None:
    with pytest.raises(Killed):
        job.run(kill_at(4))
    for file in _manifests(job.store)[-1].files:
        assert file.path.endswith((".safetensors", ".json"))
        assert job.store.read(file.artifact.key)[:2] not in (b"\x80\x02", b"PK")


def test_the_program_leaves_with_75_when_told_to_and_survives_being_killed(job: Desk) -> None:
    assert _run(job, signal="SIGTERM") == 75
    assert [manifest.data["step"] for manifest in _manifests(job.store)] == [1]
    assert _run(job, signal="SIGKILL") == -9
    assert [manifest.data["step"] for manifest in _manifests(job.store)] == [1, 2]
    assert _run(job) == 0
    published = Manifest.from_json(job.store.read(job.spec.manifest_key))
    assert published.data["steps"] == len(published.data["metrics"]) == 6


def test_what_can_not_work_ends_with_64_and_says_why(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, base, uneven_chats(4), told=recipe(target_modules=("c_attn",)))
    assert _run(job) == 64
    told = json.loads(job.store.read("jobs/1/error-1.json"))
    assert told["reason"] == "TARGET_MODULES_UNKNOWN"
    assert told["violations"][0]["field"] == "recipe.target_modules"


def test_of_many_mistakes_fifty_are_told_and_all_are_counted(base: Path, tmp_path: Path) -> None:
    long = chat("nobody answered my letter " * 20, "one")
    job = desk(tmp_path, base, [long] * 60, told=recipe(max_length=50))
    assert _run(job) == 64
    told = json.loads(job.store.read("jobs/1/error-1.json"))
    assert (told["reason"], told["metadata"], len(told["violations"]), told["violation_count"]) == ("ROWS_INVALID", {}, 50, 60)


def test_a_checkpoint_of_another_kind_is_rejected_not_believed(job: Desk) -> None:
    job.store.commit("jobs/1/checkpoints/00000001-0001.json", Manifest("checkpoint", (), {"step": 1, "attempt": 1}).to_json())
    found, rejected = checkpoint.newest(job.store, "jobs/1/checkpoints")
    assert found is None
    assert "not a checkpoint of this version" in rejected[0]


def _run(job: Desk, signal: str | None = None) -> int:
    """Run the program as a launcher does; with a signal, it gets that after its first checkpoint."""
    environment = {
        **os.environ,
        **RECOMMENDED,
        "AFINA_SPEC": "jobs/1/spec-1.json",
        "AFINA_ATTEMPT_TOKEN": "token",
        "OBJECT_STORE": job.store.url,
        "AFINA_REPORT_TO": "127.0.0.1:1",  # nobody is there: progress is lost, the result is not
        "AFINA_CACHE": str(job.cache),
        "AFINA_CHECKPOINT_INTERVAL_S": "0",
    }
    signalled = ["-c", f"import signal, sys; from tests.learning.killed import main; sys.exit(main(signal.{signal}))"]
    command = [sys.executable, *(signalled if signal else ["-m", "services.trainer.worker"])]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(ended.stderr)  # shown where the test fails
    return ended.returncode


def _manifests(store: ObjectStore) -> list[Manifest]:
    keys = [key for key in store.list("jobs/1/checkpoints/") if key.endswith(".json")]
    return [Manifest.from_json(store.read(key)) for key in sorted(keys)]


def _damage(job: Desk, key: str) -> None:
    path = Path(job.store.url.removeprefix("file://")) / key
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
