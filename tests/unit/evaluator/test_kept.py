"""What was answered is kept block by block; a later attempt asks the rest, and comes to the same result."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import InvalidInput
from services.common.ports.object_store import Artifact
from services.evaluator.scoring.criteria import ExactMatch
from services.evaluator.worker.asking import Gateway, open_client
from services.evaluator.worker.kept import BLOCK, Kept, Said
from services.evaluator.worker.prompts import Row
from services.evaluator.worker.questions import Asked, Questions, Stopped
from services.evaluator.worker.spec import Base, Prompt, Spec, Subject
from tests.unit.evaluator.scripted_gateway import ScriptedGateway

ROWS = [Row(({"role": "user", "content": f"q{n}"},), f"a{n}") for n in range(2 * BLOCK + 10)]
SUBJECT = Subject("models/tiny", "tiny", "d" * 64, ("p",), Base("manifests/bases/tiny.json"))
SPEC = Spec(
    evaluation="projects/default/evaluations/e",
    attempt=1,
    part="test",
    train=None,
    asked=Artifact("datasets/t", 1, "0" * 64),
    choosing=None,
    criteria=(ExactMatch(),),
    labels=(),
    max_tokens=8,
    prompts={"p": Prompt("p", "GENERATE")},
    subjects=(SUBJECT,),
    result_prefix="evaluations/e/files",
    manifest_key="evaluations/e/manifest.json",
)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway(say=lambda _, messages: messages[-1]["content"].replace("q", "a"), digests={"tiny": "d" * 64})
    async with gateway.running() as running:
        yield running


class Stop:
    """Asks to stop after so many answers."""

    def __init__(self, after: int = 10**9) -> None:
        self.after, self.answered = after, 0

    def __call__(self, model: str, prompt: str) -> None:
        self.answered += 1
        if self.answered >= self.after:
            raise Stopped("Enough.")


async def ask(scripted: ScriptedGateway, store: LocalObjectStore, attempt: int, stop: Stop) -> Asked:
    spec = replace(SPEC, attempt=attempt)
    client = open_client(scripted.url, "key")
    try:
        return await Questions(spec, [], ROWS, [], {}).ask_all(Gateway(client, parallel=1), Kept(store, spec), stop)
    finally:
        await client.close()


async def test_the_next_attempt_asks_what_was_not_kept_and_counts_what_was(
    scripted: ScriptedGateway, store: LocalObjectStore
) -> None:
    with pytest.raises(Stopped):
        await ask(scripted, store, 1, Stop(after=BLOCK + BLOCK // 2))
    kept = list(store.list("evaluations/e/kept/"))
    assert kept == ["evaluations/e/kept/0-p-asked-0.json"]
    scripted.requests.clear()
    progress = Stop()
    asked = await ask(scripted, store, 2, progress)
    questions = [body["messages"][-1]["content"] for _, body, _ in scripted.requests]  # which block comes first is open
    assert sorted(questions) == sorted(f"q{n}" for n in range(BLOCK, len(ROWS)))
    assert progress.answered == len(ROWS)
    answers = asked.ways[0].answers
    assert [answer.item for answer in answers] == list(range(len(ROWS)))
    assert all(answer.is_right and answer.finish_reason == "stop" for answer in answers)


async def test_a_first_attempt_believes_nothing_that_it_did_not_ask(scripted: ScriptedGateway, store: LocalObjectStore) -> None:
    Kept(store, SPEC).keep("0-p-asked-0.json", [Said("x")] * BLOCK)
    await ask(scripted, store, 1, Stop())
    assert len(scripted.requests) == len(ROWS)


async def test_an_answer_of_another_model_ends_it_and_keeps_no_block_that_holds_it(
    scripted: ScriptedGateway, store: LocalObjectStore
) -> None:
    scripted.digests["tiny"] = "e" * 64
    with pytest.raises(InvalidInput, match="answered by"):
        await ask(scripted, store, 1, Stop())
    assert list(store.list("evaluations/e/kept/")) == []


def test_a_block_comes_back_as_it_was_kept_to_the_next_attempt_alone(store: LocalObjectStore) -> None:
    kept = Kept(store, SPEC)
    said = [Said(logprobs={"yes": -0.5, "no": -1.25}), Said("é", "length")]
    kept.keep("0-p-asked-0.json", said)
    assert json.loads(store.read("evaluations/e/kept/0-p-asked-0.json"))[1]["text"] == "é"
    assert Kept(store, replace(SPEC, attempt=2)).find("0-p-asked-0.json") == said
    assert Kept(store, replace(SPEC, attempt=2)).find("0-p-asked-64.json") is None
    assert kept.find("0-p-asked-0.json") is None
