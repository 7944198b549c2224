"""A store that is away when a checkpoint is due costs that checkpoint, not the attempt; one that stays away is no crash."""

import dataclasses
import threading
from pathlib import Path

import pytest

from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import Unavailable
from services.trainer.worker import __main__ as program
from tests.learning.builders import Events, desk, recipe, uneven_chats

TOLD = recipe(epochs=2)


class StoreAwayAt(LocalObjectStore):
    """Is away for the manifests of some steps' checkpoints, and counts how often it was asked for them."""

    def __init__(self, root: Path, steps: set[int]) -> None:
        super().__init__(root)
        self._steps, self.refused_count = steps, 0

    def commit(self, key: str, data: bytes) -> bool:
        if "/checkpoints/" in key and int(key.rpartition("/")[2].partition("-")[0]) in self._steps:
            self.refused_count += 1
            raise Unavailable("The store does not answer.", reason="STORE_UNAVAILABLE")
        return super().commit(key, data)


def test_a_store_that_is_away_for_a_checkpoint_costs_no_attempt_and_no_bit(base: Path, tmp_path: Path) -> None:
    chats = uneven_chats(12), uneven_chats(3)
    straight = desk(tmp_path / "straight", base, *chats, TOLD).run(Events(), interval_s=1e9)
    job, events = desk(tmp_path / "job", base, *chats, TOLD), Events()
    away = StoreAwayAt(tmp_path / "job" / "store", {2, 3})
    manifest = dataclasses.replace(job, store=away).run(events)
    assert away.refused_count == 2
    assert [told["step"] for told in events.of("CHECKPOINT_FAILED")] == [2, 3]
    assert [told["step"] for told in events.of("CHECKPOINTED")] == [1, 4, 5]
    assert manifest.digest == straight.digest


class AbsentStore(LocalObjectStore):
    """Answers nothing."""

    def __init__(self, root: Path, reason: str) -> None:
        super().__init__(root)
        self._reason = reason

    def read(self, key: str) -> bytes:
        raise Unavailable("The store does not answer.", reason=self._reason)


@pytest.mark.parametrize(("reason", "exit_code"), [("STORE_UNAVAILABLE", 75), ("UNREACHABLE", 75), ("DISK_FULL", 1)])
def test_a_worker_that_is_cut_off_from_its_store_leaves_and_is_no_crash(tmp_path: Path, reason: str, exit_code: int) -> None:
    told = program.Settings(spec="spec", token="secret", store="", report_to="", cache=str(tmp_path))
    assert program.run(told, AbsentStore(tmp_path, reason), threading.Event()) == exit_code
