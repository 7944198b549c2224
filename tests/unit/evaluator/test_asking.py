"""The worker asks patiently, and believes only the model that it meant to ask. Real HTTP, the real openai client."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.errors import InvalidInput, Unauthenticated, Unavailable
from services.evaluator.worker.asking import Gateway, open_client
from services.evaluator.worker.spec import Base, Subject
from tests.builders import eventually
from tests.unit.evaluator.scripted_gateway import ScriptedGateway

SUBJECT = Subject("models/base", "tiny", "d" * 64, ("zero-shot",), Base("manifests/bases/b.json"))
CHAT = [{"role": "user", "content": "hello"}]


class Pauses:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    async def sleep(self, pause_s: float) -> None:
        self.slept_s.append(pause_s)
        self.now_s += pause_s

    def clock(self) -> float:
        return self.now_s


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway(digests={"tiny": "d" * 64}).running() as scripted:
        yield scripted


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def gateway(scripted: ScriptedGateway, pauses: Pauses) -> AsyncIterator[Gateway]:
    client = open_client(scripted.url, "afina-key")
    yield Gateway(client, sleep=pauses.sleep, clock=pauses.clock)
    await client.close()


async def test_a_chat_is_asked_greedily_with_the_evaluations_key(scripted: ScriptedGateway, gateway: Gateway) -> None:
    scripted.say = lambda model, messages: f"{model} heard {messages[-1]['content']}"
    assert await gateway.answer(SUBJECT, CHAT, 17) == ("tiny heard hello", "stop")
    path, body, key = scripted.requests[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer afina-key")
    assert (body["model"], body["temperature"], body["max_tokens"], body["messages"]) == ("tiny", 0, 17, CHAT)


async def test_log_probabilities_are_asked_of_exactly_the_candidates(scripted: ScriptedGateway, gateway: Gateway) -> None:
    scripted.weigh = lambda model, prompt, token: -0.1 * token - len(prompt)
    assert await gateway.logprobs(SUBJECT, [1, 2], [3, 4]) == pytest.approx({3: -2.3, 4: -2.4})
    _, body, _ = scripted.requests[0]
    assert {k: body[k] for k in ("prompt", "max_tokens", "temperature", "logprobs", "logprob_token_ids")} == {
        "prompt": [1, 2],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "logprob_token_ids": [3, 4],
    }
    assert body["return_tokens_as_token_ids"] is True


@pytest.mark.parametrize("status", [429, 500, 502, 503, 0])
async def test_what_passes_by_itself_is_waited_for(
    scripted: ScriptedGateway, gateway: Gateway, pauses: Pauses, status: int
) -> None:
    scripted.failures = [(status, {}), (status, {})]
    assert await gateway.answer(SUBJECT, CHAT, 8) == ("positive", "stop")
    assert len(scripted.requests) == 3
    assert len(pauses.slept_s) == 2


async def test_the_server_may_say_how_long_to_wait(scripted: ScriptedGateway, gateway: Gateway, pauses: Pauses) -> None:
    scripted.failures = [(503, {"retry-after": "7"})]
    await gateway.answer(SUBJECT, CHAT, 8)
    assert pauses.slept_s == [7.0]


async def test_patience_ends_after_ten_minutes_with_the_last_error(
    scripted: ScriptedGateway, gateway: Gateway, pauses: Pauses
) -> None:
    scripted.failures = [(503, {"retry-after": "20"})] * 100
    with pytest.raises(Unavailable, match=r"tiny gave no answer within 600 s.*scripted 503"):
        await gateway.answer(SUBJECT, CHAT, 8)
    assert 580 <= sum(pauses.slept_s) <= 600


@pytest.mark.parametrize("answered", ["e" * 64, ""])
async def test_an_answer_of_another_model_is_never_taken(scripted: ScriptedGateway, gateway: Gateway, answered: str) -> None:
    scripted.digests = {"tiny": answered}
    for ask in (gateway.answer(SUBJECT, CHAT, 8), gateway.logprobs(SUBJECT, [1], [2])):
        with pytest.raises(InvalidInput) as caught:
            await ask
        assert caught.value.reason == "WRONG_MODEL_ANSWERED"
        assert caught.value.metadata["expected_digest"] == "d" * 64


async def test_a_refused_question_is_not_repeated(scripted: ScriptedGateway, gateway: Gateway) -> None:
    scripted.failures = [(400, {})]
    with pytest.raises(InvalidInput, match="scripted 400"):
        await gateway.answer(SUBJECT, CHAT, 8)
    assert len(scripted.requests) == 1


async def test_a_refused_key_is_no_fault_of_the_input(scripted: ScriptedGateway, gateway: Gateway) -> None:
    scripted.failures = [(401, {})]
    with pytest.raises(Unauthenticated, match="key"):
        await gateway.answer(SUBJECT, CHAT, 8)


async def test_a_server_that_leaves_a_candidate_out_is_not_believed(scripted: ScriptedGateway, gateway: Gateway) -> None:
    scripted.left_out = {4}
    with pytest.raises(InvalidInput) as caught:
        await gateway.logprobs(SUBJECT, [1], [3, 4])
    assert caught.value.reason == "LOGPROBS_UNSUPPORTED"


async def test_a_log_probability_that_is_no_number_is_not_believed(scripted: ScriptedGateway, gateway: Gateway) -> None:
    scripted.weigh = lambda model, prompt, token: float("nan")
    with pytest.raises(InvalidInput) as caught:
        await gateway.logprobs(SUBJECT, [1], [3])
    assert caught.value.reason == "LOGPROBS_INVALID"


async def test_many_questions_are_in_flight_and_never_more_than_the_limit(scripted: ScriptedGateway) -> None:
    client = open_client(scripted.url, "afina-key")
    gateway = Gateway(client, parallel=5)
    scripted.gate.clear()
    answers = asyncio.gather(*(gateway.answer(SUBJECT, CHAT, 8) for _ in range(12)))
    await eventually(lambda: scripted.in_flight == 5)
    scripted.gate.set()
    assert len(await answers) == 12
    assert scripted.most_in_flight == 5
    await client.close()
