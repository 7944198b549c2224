"""A short seeded run of the fuzzer, and what it found before."""

import pytest

from tests.unit.dataset.fuzz_records import check, fuzz


@pytest.mark.parametrize("seed", [1, 2])
def test_the_reader_keeps_its_rules_whatever_happens_to_a_file(seed: int) -> None:
    count, good_count = fuzz(seed, lambda count: count < 1_000)
    assert count == 1_000
    assert 100 < good_count < 900  # else one half of the rules was not tried


@pytest.mark.parametrize(
    "unit", [b"[", b'{"a":', b'{"a": [,', b'"\\', b'{\n"a": ', b"}\n", b"[{", b'{"messages": [}\n', b"\xff\n"]
)
def test_reading_takes_seconds_at_most_however_it_is_broken(unit: bytes) -> None:
    check(unit * (60_000 // len(unit)), lambda: 4096)  # within MAX_CPU_S of processor time
