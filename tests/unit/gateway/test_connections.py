"""Connections to model servers, over real sockets: what is kept, what is not, and every way an answer can fail to come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.gateway.connections import MAX_UNREAD_BYTES, Broken, Connections, Silent, request
from tests.builders import eventually, free_port

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Takes questions and gives the answer that a test wrote."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.accepted = 0
        self.questions: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.questions.append(head + await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0])))
                await self._answer(writer)
        writer.close()


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[Server, Connections]]:
    server, connections = Server(answer), Connections()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server, connections
        connections.close()


def says(*pieces: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


def says_and_leaves(piece: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(piece)
        writer.close()

    return answer


async def ask(server: Server, connections: Connections, idle_timeout_s: float = 10.0) -> bytes:
    connection = await connections.take(server.url)
    try:
        assert await connection.ask(request(server.url, "/v1/x", "key", b"{}", {"traceparent": "00-1"}), idle_timeout_s) == 200
        return await connection.read_all()
    finally:
        connections.give_back(server.url, connection)


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED])
async def test_one_connection_carries_one_question_after_another(answer: bytes) -> None:
    async with serving(says(answer)) as (server, connections):
        assert [await ask(server, connections) for _ in range(3)] == [b"hello"] * 3
        assert server.accepted == 1
        assert server.questions[0].startswith(b"POST /v1/x HTTP/1.1\r\n")
        assert b"\r\nAuthorization: Bearer key\r\n" in server.questions[0]


async def test_an_answer_is_the_same_wherever_it_is_cut() -> None:
    pieces = [CHUNKED[at : at + 1] for at in range(len(CHUNKED))]
    async with serving(says(*pieces)) as (server, connections):
        assert await ask(server, connections) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        says(WHOLE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")),
        says_and_leaves(WHOLE),
        says(WHOLE + b"HTTP/1.1 200 OK\r\n"),
        says(WHOLE + WHOLE.replace(b"hello", b"other")),
    ],
)
async def test_a_connection_that_the_server_gives_up_or_that_says_too_much_is_not_used_again(answer: Answer) -> None:
    async with serving(answer) as (server, connections):
        connection = await connections.take(server.url)
        await connection.ask(request(server.url, "/v1/x", "key", b"{}", {"traceparent": "00-1"}), 10.0)
        assert await connection.read_all() == b"hello"
        connections.give_back(server.url, connection)
        await eventually(lambda: not connection.is_reusable)  # its end is noticed when it comes
        assert await ask(server, connections) == b"hello"
        assert server.accepted == 2


async def test_a_connection_whose_answer_was_left_is_not_used_again() -> None:
    async with serving(says(CHUNKED[:-5])) as (server, connections):
        for _ in range(2):
            connection = await connections.take(server.url)
            await connection.ask(request(server.url, "/v1/x", "key", b"{}", {"traceparent": "00-1"}), 10.0)
            connections.give_back(server.url, connection)
        assert server.accepted == 2


@pytest.mark.parametrize("answer", [says_and_leaves(b""), says_and_leaves(WHOLE[:-1]), says(b"SSH-2.0-OpenSSH\r\n")])
async def test_an_answer_that_breaks_off_or_is_none_is_broken(answer: Answer) -> None:
    async with serving(answer) as (server, connections):
        with pytest.raises(Broken):
            await ask(server, connections)


@pytest.mark.parametrize("answer", [says(), says(WHOLE[:-1])])
async def test_silence_has_an_end(answer: Answer) -> None:
    async with serving(answer) as (server, connections):
        with pytest.raises(Silent):
            await ask(server, connections, idle_timeout_s=0.1)


async def test_where_nobody_listens_there_is_no_connection() -> None:
    with pytest.raises(Broken, match="no connection"):
        await Connections().take(f"http://127.0.0.1:{free_port()}")


async def test_a_server_that_is_faster_than_its_reader_waits_and_is_not_called_silent() -> None:
    size_bytes = 64 * MAX_UNREAD_BYTES
    is_written = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size_bytes + b"x" * size_bytes)
        await writer.drain()
        is_written.set()

    async with serving(answer) as (server, connections):
        connection = await connections.take(server.url)
        await connection.ask(request(server.url, "/v1/x", "key", b"{}", {"traceparent": "00-1"}), idle_timeout_s=0.1)
        await eventually(lambda: connection.is_paused)
        assert not is_written.is_set()
        is_late = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, is_late.set)  # three times what silence may last
        await is_late.wait()
        assert len(await connection.read_all()) == size_bytes
