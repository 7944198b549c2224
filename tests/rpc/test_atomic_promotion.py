"""Promotion while production asks: real replicas of inference and real gateways, which freeze, die or are cut off."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
import pytest_asyncio

from services.common.errors import Unavailable
from tests.builders import eventually
from tests.rpc.endpoint_programs import DIGESTS, Gateway, Installation, running_installation

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
BELIEVED_S = 3.0
SLACK_S = 5.0  # of a machine that does other things, too
CLIENTS = 4  # of each gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """One installation for all tests here; which of the two models answers at first is whatever the test before left."""
    folder = tmp_path_factory.mktemp("installation")
    async with running_installation(folder, {"ROUTES_BELIEVED_S": f"{BELIEVED_S}"}) as running:
        yield running


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def digit(model: str) -> str:
    return DIGESTS[model][:1]


class Clients:
    """Clients that ask all the time, each one question after another; `answers` has when each was asked, and by what."""

    def __init__(self, gateways: list[Gateway]) -> None:
        self.answers: list[tuple[float, str]] = []
        self._tasks = [asyncio.ensure_future(self._ask(gateway)) for gateway in gateways for _ in range(CLIENTS)]

    async def _ask(self, gateway: Gateway) -> None:
        while True:
            begin = time.monotonic()
            self.answers.append((begin, await gateway.ask()))

    async def have_asked(self, count: int) -> None:
        """Wait for so many answers more."""
        goal = len(self.answers) + count
        await eventually(lambda: len(self.answers) >= goal or any(task.done() for task in self._tasks), timeout_s=60)

    async def stop(self) -> None:
        """Stop asking. Fails where a question was not answered."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def test_after_a_promotion_no_request_at_any_gateway_is_answered_by_the_model_before(installation: Installation) -> None:
    clients = Clients(installation.gateways)
    for _ in range(3):
        old, new = await installation.models()
        await clients.have_asked(50)
        asked_before = len(clients.answers)
        await installation.promote(new)
        end = time.monotonic()
        await clients.have_asked(100)
        seen = Counter(answer for _, answer in clients.answers[asked_before:])
        assert set(seen) <= {digit(old), digit(new)}
        later = Counter(answer for begin, answer in clients.answers if begin >= end)
        assert set(later) == {digit(new)}
        assert later.total() >= 50
    await clients.stop()


async def test_an_answer_that_has_begun_is_finished_by_the_model_that_began_it(installation: Installation) -> None:
    old, new = await installation.models()
    gateway, engine = installation.gateways[0], installation.engine
    engine.gate.clear()
    stream = await gateway.client.chat.completions.create(
        model="support", messages=[{"role": "user", "content": "one two three"}], stream=True
    )
    chunks = aiter(stream)
    seen = [await anext(chunks)]
    await installation.promote(new)
    engine.gate.set()
    seen += [chunk async for chunk in chunks]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen if chunk.choices).split() == ["one", "two", "three"]
    assert {chunk.system_fingerprint for chunk in seen} == {f"fp_{DIGESTS[old][:16]}"}
    assert await gateway.ask() == digit(new)


async def test_a_gateway_that_was_frozen_past_its_leave_wakes_up_with_the_new_model(installation: Installation) -> None:
    _, new = await installation.models()
    awake, asleep = installation.gateways
    with frozen(asleep.pid):
        begin = time.monotonic()
        await installation.promote(new)
        assert time.monotonic() - begin < BELIEVED_S + SLACK_S
        assert await awake.ask() == digit(new)
        queued = [asyncio.ensure_future(asleep.ask(60)) for _ in range(CLIENTS)]
        answered, _ = await asyncio.wait(queued, timeout=0.5)  # by then they wait at its door
        assert not answered
    assert set(await asyncio.gather(*queued)) == {digit(new)}


async def test_a_promotion_that_can_not_wait_for_a_frozen_gateway_says_so_and_waits_when_repeated(
    installation: Installation,
) -> None:
    _, new = await installation.models()
    before = await installation.endpoint()
    awake, asleep = installation.gateways
    with frozen(asleep.pid):
        with pytest.raises(Unavailable) as caught:
            await installation.promote(new, timeout_s=2.0)
        assert caught.value.reason == "GATEWAYS_BEHIND"
        assert asleep.programs.home.addresses["http"] in caught.value.message
        assert awake.programs.home.addresses["http"] not in caught.value.message
        promoted = await installation.promote(new)
    assert promoted.model == new
    assert promoted.promotion_count == (await installation.endpoint()).promotion_count == before.promotion_count + 1
    assert await asleep.ask() == digit(new)


async def test_a_gateway_that_died_without_a_word_costs_a_promotion_its_leave_and_no_more(installation: Installation) -> None:
    _, new = await installation.models()
    dead = installation.gateways[1]
    os.kill(dead.pid, signal.SIGKILL)
    begin = time.monotonic()
    await installation.promote(new)
    assert time.monotonic() - begin < BELIEVED_S + SLACK_S
    assert await dead.answers() == digit(new)  # it was started again


async def test_a_gateway_that_wakes_up_and_finds_no_inference_refuses_rather_than_answer_as_before(
    installation: Installation,
) -> None:
    _, new = await installation.models()
    cut_off = installation.gateways[1]
    cut_off.wire.cut()
    with frozen(cut_off.pid):
        await installation.promote(new)
    with pytest.raises(openai.InternalServerError) as refused:
        await cut_off.ask()
    assert refused.value.code == "routes_unconfirmed"
    cut_off.wire.mend()
    assert await cut_off.answers() == digit(new)


async def test_while_no_inference_answers_endpoints_are_refused_after_their_leave_and_all_else_goes_on(
    installation: Installation,
) -> None:
    old, new = await installation.models()
    cut_off = installation.gateways[1]
    cut_off.wire.cut()
    assert await cut_off.ask() == digit(old)  # its leave goes on for a time

    async def is_refused() -> openai.APIStatusError | None:
        try:
            assert await cut_off.ask() == digit(old)
        except openai.InternalServerError as error:
            return error
        return None

    begin = time.monotonic()
    await installation.promote(new)
    assert time.monotonic() - begin > BELIEVED_S / 2
    refusal = await is_refused()
    assert refusal is not None
    assert (refusal.status_code, refusal.code) == (503, "routes_unconfirmed")
    assert int(refusal.response.headers["retry-after"]) > 0
    named = await cut_off.client.chat.completions.create(
        model=f"ft:tiny:default::{old.rpartition('/')[2]}", messages=[{"role": "user", "content": "hi"}]
    )
    assert named.system_fingerprint == f"fp_{DIGESTS[old][:16]}"
    assert await installation.gateways[0].ask() == digit(new)
    cut_off.wire.mend()
    assert await cut_off.answers() == digit(new)
