"""A base without a chat template: the catalogue may declare one, and otherwise the base is refused."""

import dataclasses
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from services.common.errors import InvalidInput
from services.trainer.worker.count import count
from services.trainer.worker.tokens import end_ids, load_tokenizer
from tests.learning.builders import Events, chat, desk, recipe, uneven_chats
from tests.tiny_model import CHATML, build_tiny_base, tiny_tokenizer

PLAIN = "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"


@pytest.fixture
def untold(tmp_path: Path) -> Path:
    """A base whose tokenizer has no chat template."""
    folder = build_tiny_base(tmp_path / "untold")
    (folder / "chat_template.jinja").unlink()
    return folder


def test_a_declared_template_is_what_is_trained_with(untold: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, untold, uneven_chats(4), told=recipe(epochs=1))
    job.spec = dataclasses.replace(job.spec, chat_template=PLAIN)
    manifest = job.run(Events(), interval_s=1e9)
    tokenizer = tiny_tokenizer(PLAIN)
    rendered = [tokenizer.apply_chat_template(messages, return_dict=False) for messages in uneven_chats(4)]
    assert manifest.data["trained_tokens"] == sum(map(len, rendered))


def test_a_declared_template_wins_over_the_bases_own(base: Path) -> None:
    own, declared = load_tokenizer(base), load_tokenizer(base, PLAIN)
    assert own.chat_template == CHATML
    assert declared.apply_chat_template(chat("one", "two"), tokenize=False) == "one<|im_end|>two<|im_end|>"


def test_a_base_without_any_template_is_refused_with_the_fix(untold: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="declare one with its catalogue entry") as caught:
        desk(tmp_path, untold, uneven_chats(4)).run(Events())
    assert caught.value.reason == "CHAT_TEMPLATE_MISSING"


def test_such_a_base_is_refused_when_its_tokens_are_counted_long_before_a_job_has_its_turn(untold: Path, tmp_path: Path) -> None:
    job = desk(tmp_path, untold, uneven_chats(4))
    spec = {"base": job.spec.base, "dataset": job.spec.dataset, "chat_template": ""}
    with pytest.raises(InvalidInput) as caught:
        count(job.store, spec, tmp_path / "counting")
    assert caught.value.reason == "CHAT_TEMPLATE_MISSING"


@pytest.mark.parametrize("has_settings", [True, False])
def test_what_ends_an_answer_is_what_generation_stops_at(tmp_path: Path, has_settings: bool) -> None:
    folder = build_tiny_base(tmp_path, eos_token_id=7)
    if not has_settings:
        (folder / "generation_config.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert end_ids(folder, tokenizer) == {0, 1, 2, 7}  # three special tokens, and the configuration's own
