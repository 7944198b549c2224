"""Which of several labels would a model say? Asked of the tokens in which they differ, not of what it writes.

A label's score is the log-probability that the answer begins with the shortest token prefix that no other label has. So
labels whose first tokens differ cost one request, and longer ones one for each place at which they still go together.
Where one label is the beginning of another ("very", "very good"), the end of the turn tells them apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import InvalidInput

WIDTH = 16  # token ids that one request may ask for

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One request: what follows the prompt, and the candidates for the next token. Shapes: [T], [K], K <= 16."""

    prefix: Prefix
    token_ids: tuple[int, ...]


class LabelTrie:
    """The token sequences of some labels, cut where each one is told from all others."""

    def __init__(self, sequences: Mapping[str, Sequence[int]], end_of_turn: int) -> None:
        whole = {label: tuple(ids) for label, ids in sequences.items()}
        if len(whole) < 2 or any(not ids for ids in whole.values()) or len(set(whole.values())) < len(whole):
            raise InvalidInput(
                f"Label scoring needs at least two labels that differ in their tokens; it got {', '.join(map(repr, whole))}.",
                reason="LABELS_INVALID",
            )
        closed = {label: ids + (end_of_turn,) if _begins_another(ids, whole) else ids for label, ids in whole.items()}
        self.paths = {label: _shortest_own_prefix(label, closed) for label in closed}
        self.steps = self._steps()

    def totals(self, read: Mapping[Prefix, Mapping[int, float]]) -> dict[str, float]:
        """Sum what was read after each prefix into one log-probability per label. Units: nats."""
        return {label: sum(read[path[:place]][token] for place, token in enumerate(path)) for label, path in self.paths.items()}

    def _steps(self) -> tuple[Step, ...]:
        wanted: dict[Prefix, dict[int, None]] = {}
        for path in self.paths.values():
            for place, token in enumerate(path):
                wanted.setdefault(path[:place], {})[token] = None
        steps = []
        for prefix, tokens in wanted.items():
            ids = list(tokens)
            steps += [Step(prefix, tuple(ids[start : start + WIDTH])) for start in range(0, len(ids), WIDTH)]
        return tuple(steps)


def _begins_another(ids: Prefix, whole: Mapping[str, Prefix]) -> bool:
    return any(len(other) > len(ids) and other[: len(ids)] == ids for other in whole.values())


def _shortest_own_prefix(label: str, sequences: Mapping[str, Prefix]) -> Prefix:
    ids = sequences[label]
    others = [other for name, other in sequences.items() if name != label]
    for length in range(1, len(ids) + 1):
        if all(other[:length] != ids[:length] for other in others):
            return ids[:length]
    raise InvalidInput(f"The label {label!r} can't be told from the others by its tokens.", reason="LABELS_INVALID")
