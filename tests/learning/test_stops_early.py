"""Training that stops when validation no longer improves, and the last epochs' adapters beside the result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from services.common.ports.manifest import Manifest, fetch_folder
from tests.learning.builders import Desk, Events, desk, learner_of, recipe, rows_of, uneven_chats

PATIENT = recipe(epochs=12, learning_rate=5e-2, schedule="constant", validation_interval_steps=1, early_stopping_patience=3)
PUBLISHING = recipe(epochs=3, published_checkpoint_count=2, dropout=0.1)  # 3 steps an epoch


class Killed(BaseException):
    """As abrupt as a signal."""


class Killing(Events):
    """Events that end the attempt at the first of a type, or at a step."""

    def __init__(self, at: str | int) -> None:
        super().__init__()
        self._at = at

    def __call__(self, type: str, message: str, data: Any = None, level: str = "INFO") -> None:
        super().__call__(type, message, data, level)
        if type == self._at or (type == "STEP" and data["step"] == self._at):
            raise Killed


def test_training_stops_after_as_many_validations_without_a_lower_loss_as_it_waits_for(base: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, base, uneven_chats(10), uneven_chats(14)[10:], PATIENT)
    events = Events()
    manifest = job.run(events, interval_s=1e9)
    losses = [measured["loss"] for measured in manifest.data["validation"]]
    steps, best = manifest.data["steps"], min(range(len(losses)), key=lambda at: losses[at])
    assert steps < 36
    assert len(losses) == steps == best + 1 + 3
    assert manifest.data["best_step"] == best + 1
    ((message, data),) = [(text, told) for type, text, told in events.events if type == "STOPPED_EARLY"]
    assert (data["step"], data["total_steps"], data["best_step"]) == (steps, 36, best + 1)
    assert f"after step {steps} of 36: 3 validations in a row" in message
    assert f"{losses[best]:.4f}" in message


def test_an_attempt_killed_after_it_had_stopped_early_does_not_train_on(base: Path, tmp_path: Path) -> None:
    chats, validation = uneven_chats(10), uneven_chats(14)[10:]
    straight = desk(tmp_path / "straight", base, chats, validation, PATIENT).run(Events(), interval_s=1e9)
    job = desk(tmp_path / "killed", base, chats, validation, PATIENT)
    with pytest.raises(Killed):
        job.run(Killing("STOPPED_EARLY"))
    events = Events()
    manifest = job.run(events, number=2)
    assert events.of("STEP") == []
    assert len(events.of("STOPPED_EARLY")) == 1
    assert manifest.digest == straight.digest


def test_without_validation_rows_training_goes_to_the_end(base: Path, tmp_path: Path) -> None:
    assert desk(tmp_path, base, uneven_chats(4), told=recipe(early_stopping_patience=1)).run(Events()).data["steps"] == 1


@pytest.fixture(scope="module")
def published(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Manifest]:
    job = desk(tmp_path_factory.mktemp("published"), base, uneven_chats(10), told=PUBLISHING)
    return job, job.run(Events(), interval_s=1e9)


def checkpoints(job: Desk, manifest: Manifest) -> dict[int, Manifest]:
    """Return what was published beside a result, by step."""
    told = manifest.data["published_checkpoints"]
    return {one["step"]: Manifest.from_json(job.store.read(one["manifest_key"])) for one in told}


def test_the_last_epochs_are_published_under_keys_of_their_own(published: tuple[Desk, Manifest]) -> None:
    job, manifest = published
    made = checkpoints(job, manifest)
    assert list(made) == [6, 9]
    keys = [key for key in job.store.list("jobs/1/checkpoints-published/") if key.endswith(".json")]
    assert keys == ["jobs/1/checkpoints-published/6.json", "jobs/1/checkpoints-published/9.json"]
    assert made[9].digest == manifest.digest  # without validation the last weights are the result
    assert made[6].digest != manifest.digest
    assert (made[6].kind, made[6].data["steps"], made[6].data["base"]) == ("adapter", 6, job.spec.base)
    told = manifest.data["published_checkpoints"][0]["metrics"]
    assert told == manifest.data["metrics"][5]


def test_a_published_checkpoint_has_the_weights_of_its_step(base: Path, tmp_path: Path, published: tuple[Desk, Manifest]) -> None:
    job, manifest = published
    folder = fetch_folder(job.store, checkpoints(job, manifest)[6], tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()
    golden = json.loads((folder / "golden.json").read_text())
    probe = golden["chats"][0]["probes"][0]
    with torch.no_grad():
        logprobs = model(torch.tensor([probe["prefix_token_ids"]])).logits[0, -1].log_softmax(-1)[probe["token_ids"]]
    assert torch.allclose(logprobs, torch.tensor(probe["adapter_logprobs"]), atol=1e-4)
    alone = desk(tmp_path / "alone", base, uneven_chats(10), told=recipe(epochs=3, dropout=0.1))
    assert alone.run(Events(), interval_s=1e9).digest == manifest.digest  # publishing changes nothing of the result


def test_a_killed_attempt_publishes_the_very_same_checkpoints(
    base: Path, tmp_path: Path, published: tuple[Desk, Manifest]
) -> None:
    job = desk(tmp_path, base, uneven_chats(10), told=PUBLISHING)
    with pytest.raises(Killed):
        job.run(Killing(8))  # after the end of an epoch whose weights are to be published
    manifest = job.run(Events(), number=2)
    assert {s: m.digest for s, m in checkpoints(job, manifest).items()} == {
        s: m.digest for s, m in checkpoints(*published).items()
    }


def test_the_end_of_a_published_epoch_is_validated(base: Path, tmp_path: Path) -> None:
    told = recipe(epochs=2, published_checkpoint_count=1, validation_interval_steps=100)
    manifest = desk(tmp_path, base, uneven_chats(10), uneven_chats(3), told).run(Events(), interval_s=1e9)
    assert [measured["step"] for measured in manifest.data["validation"]] == [3, 6]
    assert "validation_accuracy" in manifest.data["published_checkpoints"][0]["metrics"]


def test_the_accuracy_is_the_share_of_trained_tokens_that_plain_transformers_would_say(base: Path) -> None:
    learner, tokenizer = learner_of(base)
    rows = rows_of(uneven_chats(6), learner, tokenizer)
    hits = count = 0
    learner.model.eval()
    for row in rows:
        with torch.no_grad():
            said = learner.model.get_base_model()(input_ids=torch.tensor([row.ids])).logits[0, :-1].argmax(-1)
        asked = torch.tensor(row.has_loss[1:])
        hits += int((said == torch.tensor(row.ids[1:]))[asked].sum())
        count += int(asked.sum())
    assert learner.measure(rows)[1] == pytest.approx(hits / count)
    assert learner.measure(rows)[0] == pytest.approx(float(learner.token_losses(rows).detach().mean()), rel=1e-5)
