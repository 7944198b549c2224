"""The counts that are known before training are those that training sees, made by the program itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.errors import InvalidInput
from services.trainer.worker import batches
from services.trainer.worker.count import count
from tests.learning.builders import Desk, Events, chat, desk, learner_of, recipe, rows_of, uneven_chats


def spec_of(job: Desk, **changes: object) -> dict[str, object]:
    """What the trainer writes for an errand."""
    return {"base": job.spec.base, "dataset": job.spec.dataset, "chat_template": "", "result_key": "counts/1.json", **changes}


def test_what_is_counted_is_what_is_trained(base: Path, tmp_path: Path) -> None:
    train, validation = uneven_chats(9), uneven_chats(3)
    job = desk(tmp_path, base, train, validation, recipe(epochs=2))
    counted = count(job.store, spec_of(job), tmp_path / "counting")
    learner, tokenizer = learner_of(base)
    for part, chats in (("train", train), ("validation", validation)):
        rows = rows_of(chats, learner, tokenizer)
        assert counted[part]["lengths"] == [len(row.ids) for row in rows]
        assert counted[part]["trained_token_count"] == sum(row.loss_count for row in rows)
    trained = job.run(Events(), interval_s=1e9).data["trained_tokens"]
    assert trained == 2 * sum(counted["train"]["lengths"])


def test_the_program_commits_the_counts_and_needs_no_weights(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, base, uneven_chats(5))
    job.store.commit("counts/spec.json", json.dumps(spec_of(job)).encode())
    cache = tmp_path / "counting"
    environment = {**os.environ, "AFINA_SPEC": "counts/spec.json", "OBJECT_STORE": job.store.url, "AFINA_CACHE": str(cache)}
    command = [sys.executable, "-m", "services.trainer.worker.count"]
    subprocess.run(command, env=environment, check=True, timeout=120, capture_output=True)
    assert len(json.loads(job.store.read("counts/1.json"))["train"]["lengths"]) == 5
    assert not list(cache.rglob("*.safetensors"))


def test_every_row_that_the_base_can_not_read_is_told_by_its_number(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, base, [chat("one", "two"), chat("one"), chat("one", "two")], [chat("three")])
    with pytest.raises(InvalidInput) as caught:
        count(job.store, spec_of(job), tmp_path / "counting")
    assert [violation.field for violation in caught.value.violations] == ["train[2]", "validation[1]"]
    assert caught.value.violation_count == 2


def test_a_declared_template_is_counted_with(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, base, [chat("one", "two")])
    plain = "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"
    counted = count(job.store, spec_of(job, chat_template=plain), tmp_path / "counting")
    _, tokenizer = learner_of(base)
    tokenizer.chat_template = plain
    assert counted["train"]["lengths"] == [len(batches.render(chat("one", "two"), tokenizer))]
