"""A port with a counter around it: what it is asked, how long it takes, and how it fails.

One wrapper serves all ports, because all that matters of a verb is its name, its time and its error; a verb that is added
to a port is measured without a line here. What else a verb tells – bytes, a place in the queue – is read from its result.
"""

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar, cast

from services.common.metrics import Metrics, PortMetrics, outcome_of
from services.common.ports.launcher import WorkloadState

Port = TypeVar("Port")
UNMEASURED = frozenset({"woken", "close", "plan", "environment"})  # waiting, or no operation
TELLING = frozenset({"put", "commit", "read", "open", "observe", "stop"})  # verbs whose results say more


def measured(port: Port, name: str, metrics: Metrics) -> Port:
    """Return the port with every verb measured as an operation of `name`."""
    return cast(Port, _Measured(port, metrics.ports[name], _Observer(metrics)))


class _Measured:
    def __init__(self, port: Any, metrics: PortMetrics, observer: "_Observer") -> None:
        self._port, self._metrics, self._observer = port, metrics, observer

    def __getattr__(self, verb: str) -> Any:
        attribute = getattr(self._port, verb)
        if verb.startswith("_") or verb in UNMEASURED or not callable(attribute):
            return attribute
        wrapped = self._awaited(verb, attribute) if inspect.iscoroutinefunction(attribute) else self._called(verb, attribute)
        self.__dict__[verb] = wrapped  # found without this function from now on
        return wrapped

    def _awaited(self, verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def call(*arguments: Any, **named: Any) -> Any:
            with _Operation(self._metrics, verb):
                result = await function(*arguments, **named)
            return self._seen(verb, function, arguments, named, result)

        return call

    def _called(self, verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with _Operation(self._metrics, verb):
                result = function(*arguments, **named)
            return self._seen(verb, function, arguments, named, result)

        return self._listed(verb, function) if inspect.isgeneratorfunction(function) else call

    def _listed(self, verb: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Iterator[Any]:
            with _Operation(self._metrics, verb):
                yield from function(*arguments, **named)

        return call

    def _seen(self, verb: str, function: Any, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> Any:
        if verb not in TELLING:
            return result
        return self._observer.see(verb, inspect.signature(function).bind(*arguments, **named).arguments, result)


class _Operation:
    """One use of a verb, timed and counted by its end."""

    def __init__(self, metrics: PortMetrics, verb: str) -> None:
        self._metrics, self._verb = metrics, verb

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._metrics.seconds.labels(self._verb).observe(time.perf_counter() - self._begin)
        self._metrics.operations.labels(self._verb, outcome_of(error)).inc()


class _Observer:
    """Reads from results what only they tell."""

    def __init__(self, metrics: Metrics) -> None:
        self._read, self._written = metrics.bytes.labels("read"), metrics.bytes.labels("written")
        self._queue_length = metrics.queue_length
        self._positions: dict[str, int] = {}  # of the jobs that waited when they were last observed

    def see(self, verb: str, given: Mapping[str, Any], result: Any) -> Any:
        """Count, and return the result, a stream with its bytes counted as they are read."""
        if verb == "put":
            self._written.inc(result.size_bytes)
        elif verb == "commit":
            self._written.inc(len(given["document"]) if result else 0)
        elif verb == "read":
            self._read.inc(len(result))
        elif verb == "open":
            return cast(BinaryIO, _CountedStream(result, self._read.inc))
        elif verb in ("observe", "stop"):
            waits = verb == "observe" and result.state is WorkloadState.PENDING and result.position
            self._positions.pop(given["key"], None)
            if waits:
                self._positions[given["key"]] = result.position
            self._queue_length.set(max(self._positions.values(), default=0))
        return result


class _CountedStream:
    """A stream that tells at its end how far it was read; bytes pass through it untouched."""

    def __init__(self, stream: BinaryIO, count: Callable[[float], None]) -> None:
        self._stream, self._count = stream, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def __enter__(self) -> "_CountedStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, and count; a second time does nothing."""
        if not self._stream.closed:
            self._count(self._stream.tell())
            self._stream.close()
