"""Bytes on their way: nothing grows with them, and a full disk is told as such."""

import resource
from collections.abc import Iterator

import pytest

from services.common.errors import Unavailable
from services.dataset.spool import Spool, stream_of


@pytest.fixture
def full_disk() -> Iterator[None]:
    """A disk on which no file of this process may grow beyond 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_is_read_from_the_start_each_time() -> None:
    with Spool() as spool:
        spool.write(b"ab")
        spool.write(b"cd")
        assert [spool.rewound().read(), spool.rewound().read()] == [b"abcd", b"abcd"]
        assert spool.size_bytes == 4


@pytest.mark.parametrize("part_bytes", [1 << 20, 5000])
def test_a_full_disk_is_unavailable_and_says_what_to_do(full_disk: None, part_bytes: int) -> None:
    def fill() -> None:
        with Spool() as spool:
            spool.write(b"x" * part_bytes)
            spool.rewound()

    with pytest.raises(Unavailable, match="make room") as refusal:
        fill()
    assert refusal.value.reason == "DISK_UNAVAILABLE"


def test_a_stream_of_parts_is_their_sum_and_makes_them_one_by_one() -> None:
    made = 0

    def parts() -> Iterator[bytes]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield b"x" * 100_000

    stream = stream_of(parts())
    assert stream.read(1000) == b"x" * 1000
    assert made < 20
    assert len(stream.read()) == 100 * 100_000 - 1000
    assert stream.read(1) == b""
