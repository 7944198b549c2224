"""Which rows are asked where a suite asks only some: the same ones everywhere, whatever they say."""

import hashlib


def sample(row_count: int, max_items: int) -> frozenset[int]:
    """Return the places, from 0, of the rows that are asked; all where max_items is 0 or there are no more."""
    places = range(row_count)
    if not 0 < max_items < row_count:
        return frozenset(places)
    return frozenset(sorted(places, key=lambda place: hashlib.sha256(f"item:{place}".encode()).digest())[:max_items])
