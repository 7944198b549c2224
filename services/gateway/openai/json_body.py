"""JSON bodies where every mistake is told: a key that stands twice in one object is refused, not decided by order.

The two inference paths do without: a second reading would cost every chat, and there the last one wins, as at OpenAI.
"""

import json
from typing import Any

from services.common.errors import InvalidInput
from services.gateway.openai.errors import parse_json


def parse_strictly(body: bytes) -> dict[str, Any]:
    """Return a request's JSON object. Raises: InvalidInput."""
    parsed = parse_json(body)
    json.loads(body, object_pairs_hook=_once, parse_int=str, parse_float=str)  # str: a number of any length is no work
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a key that stands twice. Raises: InvalidInput."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            told = f"The key '{name[:100]}' stands twice in one object of the body; send it once."
            raise InvalidInput(told, reason="JSON_INVALID", metadata={"param": name[:100]})
        seen.add(name)
