"""A bit that a disk has flipped is found by who reads it, wherever it is, and the checkpoint before is used."""

import os
from pathlib import Path

import pytest

from services.common.ports.manifest import Manifest, fetch_folder
from services.trainer.worker import attempt
from services.trainer.worker.loop import Stopped
from tests.learning.builders import Desk, Events, desk, recipe, uneven_chats
from tests.learning.flips import CHECKPOINTS, tally, trained_job


def test_each_of_hundreds_of_damaged_files_is_found(base: Path, tmp_path: Path) -> None:
    tallies = tally(trained_job(tmp_path, base), count=20)
    print({what: counted.made for what, counted in tallies.items()})
    assert {what: counted.missed for what, counted in tallies.items()} == {what: [] for what in tallies}
    assert sum(counted.made for counted in tallies.values()) > 500


@pytest.fixture
def interrupted(base: Path, tmp_path: Path) -> Desk:
    """A job that was stopped after its fifth step of six, with two checkpoints."""
    job = desk(tmp_path, base, uneven_chats(12), uneven_chats(3), recipe(epochs=2, dropout=0.1))
    events = Events()
    with pytest.raises(Stopped):
        job.run(events, stop=lambda: len(events.of("STEP")) == 5)
    return job


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def checkpoints(job: Desk) -> list[Path]:
    return sorted(Path(job.store.url.removeprefix("file://"), CHECKPOINTS).glob("*.json"))


def test_where_both_checkpoints_are_damaged_training_starts_anew_and_says_so(interrupted: Desk) -> None:
    for manifest in checkpoints(interrupted):
        flip(manifest)
    events = Events()
    interrupted.run(events, number=2)
    assert len(events.of("CHECKPOINT_REJECTED")) == 2
    assert len(events.of("STARTED_ANEW")) == 1
    assert [data["step"] for data in events.of("STEP")] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_file_that_both_checkpoints_hold_is_damaged_in_one_alone(interrupted: Desk) -> None:
    newest, before = (Manifest.from_json(path.read_bytes()) for path in reversed(checkpoints(interrupted)))
    best = newest.file("best.safetensors")
    assert best.sha256 == before.file("best.safetensors").sha256
    flip(Path(interrupted.store.url.removeprefix("file://"), best.key))
    events = Events()
    interrupted.run(events, number=2)
    assert [data["step"] for data in events.of("RESUMED")] == [4]


def test_a_checkpoint_that_was_rejected_does_not_push_the_good_one_out(interrupted: Desk) -> None:
    damaged = checkpoints(interrupted)[-1]
    flip(damaged)
    events = Events()
    with pytest.raises(Stopped):
        interrupted.run(events, number=2, stop=lambda: len(events.of("STEP")) == 1)
    assert [path.stem for path in checkpoints(interrupted)] == ["00000004-0001", "00000005-0002"]


def test_a_file_that_an_attempt_left_damaged_is_written_anew_by_the_next(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, base, uneven_chats(8))
    first = job.run(Events())
    root = Path(job.store.url.removeprefix("file://"))
    weights = root / first.file("adapter_model.safetensors").key
    flip(weights)
    (root / job.spec.manifest_key).unlink()  # as if the attempt had been killed before it committed
    second = job.run(Events(), number=2)
    assert second.digest == first.digest
    fetch_folder(job.store, second, tmp_path / "fetched")


def test_a_file_in_the_cache_is_replaced_under_the_same_name(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, base, uneven_chats(4))
    manifest = Manifest.from_json(job.store.read(job.spec.base["manifest_key"]))
    folder = fetch_folder(job.store, manifest, job.cache)
    with (folder / "model.safetensors").open("rb") as held:
        flip(folder / "model.safetensors")
        damaged = held.read()
        before = os.stat(folder).st_ino
        attempt.load(job.spec, job.store, job.cache, Events())
        held.seek(0)
        assert held.read() == damaged  # who has it open keeps what it has
    assert (folder / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert os.stat(folder).st_ino == before


def test_other_threads_than_the_checkpoint_s_are_told(interrupted: Desk) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        events = Events()
        interrupted.run(events, number=2)
    finally:
        torch.set_num_threads(threads)
    (resumed,) = events.of("RESUMED")
    assert (resumed["is_exact"], resumed["threads"]) == (False, threads + 1)
    (text,) = [message for type, message, _ in events.events if type == "RESUMED"]
    assert f"not to the last bit (threads {threads + 1} instead of {threads})" in text
