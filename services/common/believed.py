"""What somebody said of the last keys that were shown, for a second each: so not every call looks a key up."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

# A key revoked by another replica of the gateway is refused here after this long; by this one, at once.
BELIEVED_S = 1.0
MAX_BELIEVED = 4096
T = TypeVar("T")


class Believed(Generic[T]):
    """Answers by the hash of a secret."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, T | None]] = OrderedDict()
        self.revocations = 0  # so far; an answer that was asked for before one of them may be what it was before

    def get(self, secret_sha256: str) -> tuple[bool, T | None]:
        """Return whether there is an answer, and the answer: a key, or None for a hash that no key has."""
        until, key = self._known.get(secret_sha256, (0.0, None))
        return self._clock() < until, key

    def put(self, secret_sha256: str, key: T | None, revocations: int) -> None:
        """Believe an answer for a while, unless a key was revoked since it was asked for; the oldest are forgotten first."""
        if revocations != self.revocations:
            return
        self._known[secret_sha256] = (self._clock() + BELIEVED_S, key)
        self._known.move_to_end(secret_sha256)
        while len(self._known) > MAX_BELIEVED:
            self._known.popitem(last=False)

    def forget(self, secret_sha256: str) -> None:
        """Ask again next time, since a key was revoked."""
        self.revocations += 1
        self._known.pop(secret_sha256, None)
