"""A fuzzer of the record reader: seeded, structure-aware, or guided by coverage where atheris is installed.

    python -m tests.unit.dataset.fuzz_records --seconds 600 [--seed 1]
    pip install atheris && python -m tests.unit.dataset.fuzz_records --guided -max_total_time=600

It takes good files of every shape and container, changes bytes, tokens, encodings and lines, and checks what has to hold
for any bytes at all (`check`). What breaks a rule is printed as a Python literal, for a test of its own.
"""

import argparse
import gzip
import io
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from services.dataset.faults import Fault
from services.dataset.records import Record, Records

MAX_CPU_S = 5.0  # for some kilobytes, which take milliseconds
MAX_UNPACKED_BYTES = 1 << 20
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\n",
    b"\r",
    b"\0",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"9" * 30,
]
TOKENS += [
    b"\\ud800",
    b"\\u0000",
    b"\\u0022",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"[" * 300,
    b'{"messages": ',
    b'"role": "tool"',
    b"\x1f\x8b",
]
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "cp1251", "utf-7"]


class Dripping(io.RawIOBase):
    """A stream that gives some bytes at a time, as a network does."""

    def __init__(self, content: bytes, sizes: Callable[[], int]) -> None:
        self._rest, self._sizes = memoryview(content), sizes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        part = self._rest[: min(len(target), self._sizes())]
        target[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)


def read(stream: Any) -> list[Record | Fault]:
    """Read a file to its end."""
    return list(Records(stream, max_unpacked_bytes=MAX_UNPACKED_BYTES))


def check(content: bytes, sizes: Callable[[], int] = lambda: 1) -> list[Record | Fault]:
    """Fail where bytes break a rule: what the rules are, the assertions say."""
    begin_s = time.process_time()
    found = read(io.BytesIO(content))
    assert time.process_time() - begin_s < MAX_CPU_S, "reading takes too long"
    line_count = 1 + (content if content[:2] != b"\x1f\x8b" else b"\n" * MAX_UNPACKED_BYTES).count(b"\n")
    for fault in (one for one in found if isinstance(one, Fault)):
        assert 0 <= fault.line <= line_count + 1, f"{fault} is on no line"
        assert fault.column is None or fault.column >= 1
        assert fault.reason.isupper(), fault
        assert fault.description.endswith("."), fault
        fault.to_json()
        fault.to_violation().description.encode()
    drips = read(Dripping(content, sizes))
    assert drips == found, f"another answer in pieces: {drips} for {found}"
    records = [one for one in found if isinstance(one, Record)]
    lines = b"".join(record.chat.to_json() for record in records)
    again = read(io.BytesIO(lines))
    assert b"".join(one.chat.to_json() for one in again if isinstance(one, Record)) == lines, f"not the same again: {again}"
    assert len(again) == len(records), f"accepted once, refused then: {again}"
    if not found:
        text = content if content[:2] != b"\x1f\x8b" else gzip.decompress(content)
        assert b"".join(text.removeprefix(b"\xef\xbb\xbf").split()) in (b"", b"[]"), "neither a record nor a mistake"
    return found


def good(rng: random.Random) -> bytes:
    """Write some good rows of one shape in one container."""
    word = lambda: rng.choice(["a", "é", "x y", "\U0001f600", 'say "no"', "\u2028", "{", "[1]", "\\n", "7"])  # noqa: E731
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    shape = rng.choice(
        [
            lambda: {"messages": [{"role": "user", "content": word()}, {"role": "assistant", "content": word(), "weight": 1}]},
            lambda: {
                "messages": [
                    {"role": "system", "content": word()},
                    {"role": "assistant", "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "c1", "content": word()},
                    {"role": "assistant", "content": [{"type": "text", "text": word()}]},
                ],
                "tools": [{"type": "function", "function": {"name": "f"}}],
            },
            lambda: {"instruction": word(), "input": word(), "output": word()},
            lambda: {"prompt": word(), "completion": word()},
            lambda: {"question": word(), "answer": word()},
            lambda: {"input": word(), "label": rng.choice([word(), 1, True])},
            lambda: {"text": word()},
        ]
    )
    rows = [shape() for _ in range(rng.randrange(1, 6))]
    indent, is_ascii = rng.choice([None, 0, 2]), rng.random() < 0.5
    written = [json.dumps(row, indent=indent, ensure_ascii=is_ascii) for row in rows]
    text = rng.choice(["\n", "\r\n", "\n\n"]).join(written) if rng.random() < 0.7 else "[" + ",\n".join(written) + "]"
    return text.encode()


def changed(content: bytes, rng: random.Random) -> bytes:
    """Change a file in one way."""
    at, to = sorted((rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)))
    kind = rng.randrange(8)
    if kind == 0:
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + content[to:]
    if kind == 2:
        return content[:to] + content[at:to] * rng.randrange(1, 4) + content[to:]
    if kind in (3, 4):
        return content[:at] + rng.choice(TOKENS) + content[at + rng.randrange(2) :]
    if kind == 5:
        return content[:at]
    if kind == 6:
        text = content.decode("utf-8", "replace").encode(rng.choice(ENCODINGS), "replace")
        return text if rng.random() < 0.5 else content[:at] + text
    packed = bytearray(gzip.compress(content, 1, mtime=0))
    if rng.random() < 0.5:
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
    return bytes(packed)


def fuzz(seed: int, goes_on: Callable[[int], bool]) -> tuple[int, int]:
    """Check changed files while told to; return how many, and how many of them were good as a whole."""
    rng = random.Random(seed)
    count = good_count = 0
    while goes_on(count):
        content = good(rng)
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            content = changed(content, rng)
        try:
            found = check(content, lambda: rng.choice([1, 1, 2, 7, 64]))
        except BaseException:
            print(f"seed {seed}, file {count}: {content!r}", file=sys.stderr)
            raise
        count += 1
        good_count += bool(found) and all(isinstance(one, Record) for one in found)
    return count, good_count


def main() -> None:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by coverage; all else is for libFuzzer")
    told, others = parser.parse_known_args()
    if told.guided:
        import atheris  # type: ignore[import-not-found,import-untyped]  # not among our tools

        atheris.instrument_all()
        atheris.Setup([sys.argv[0], *others], lambda content: check(content) and None)
        atheris.Fuzz()
    end_s = time.monotonic() + told.seconds
    count, good_count = fuzz(told.seed, lambda _: time.monotonic() < end_s)
    print(f"{count:,} files, {good_count:,} of them good: every rule held.")


if __name__ == "__main__":
    main()
