"""The whole of an evaluation: every subject, each of its prompts, every item; then the constant answer beside them.

Subjects are asked one after the other, so that a server works on one model and one shared beginning at a time; the rows
that choose a subject's prompt before those that decide.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from services.common.errors import AfinaError
from services.evaluator.scoring.answers import MAJORITY, Answer, Way, judge, judge_logprobs
from services.evaluator.scoring.criteria import folding
from services.evaluator.scoring.labels import by_frequency
from services.evaluator.worker.asking import Gateway
from services.evaluator.worker.kept import BLOCK, Kept, Said
from services.evaluator.worker.label_trie import LabelTrie
from services.evaluator.worker.prompts import Message, Row, draw_examples, messages_of
from services.evaluator.worker.spec import SCORE_LABELS, Base, Prompt, Spec, Subject
from services.evaluator.worker.tokenizer import ChatTokenizer

OnAnswer = Callable[[str, str], None]  # told the model and the prompt after every answer; may raise to stop
T = TypeVar("T")


class Stopped(AfinaError):
    """Somebody asked the worker to stop."""

    default_reason = "STOPPED"


@dataclass(frozen=True)
class Asked:
    """All answers: to the rows that decide, and to those that choose; with the rows themselves, in the same order."""

    items: Sequence[Row]
    ways: Sequence[Way]
    choosing_items: Sequence[Row]
    choosing_ways: Sequence[Way]


class Questions:
    """The items of a spec, ready to be asked. `tokenizers` has one for each base whose models score labels."""

    def __init__(
        self,
        spec: Spec,
        train: Sequence[Row],
        items: Sequence[Row],
        choosing: Sequence[Row],
        tokenizers: Mapping[Base, ChatTokenizer],
    ) -> None:
        self._spec, self._tokenizers = spec, tokenizers
        self._items, self._choosing = items, choosing
        self._folding = folding(spec.criteria)
        self._labels = by_frequency((row.reference for row in train), spec.labels)
        self._examples = {
            prompt: draw_examples(train, spec.labels, spec.prompts[prompt].shots, spec.prompts[prompt].seed)
            for prompt in dict.fromkeys(prompt for subject in spec.subjects for prompt in subject.prompts)
        }
        for prompt in self._examples:  # now: a mistake in a prompt shows before the first question
            for row in (*items, *choosing):
                self._chat(spec.prompts[prompt], row)
        self._tries = {base: LabelTrie(*tokenizer.label_ids(spec.labels)) for base, tokenizer in tokenizers.items()}

    async def ask_all(self, gateway: Gateway, kept: Kept, on_answer: OnAnswer) -> Asked:
        """Ask everything; a way for each subject and prompt, then the majority's. Raises: AfinaError."""
        ways, choosing = [], []
        for number, subject in enumerate(self._spec.subjects):
            for prompt in (self._spec.prompts[prompt] for prompt in subject.prompts):
                asking = _Asking(self, gateway, kept, on_answer, subject, prompt, f"{number}-{prompt.id}")
                if subject.has_choice:
                    choosing.append(await asking.ask(self._choosing, "choosing"))
                ways.append(await asking.ask(self._items, "asked"))
        return Asked(
            self._items,
            [*ways, *self._majority(self._items)],
            self._choosing,
            [*choosing, *self._majority(self._choosing)] if choosing else [],
        )

    async def say(self, gateway: Gateway, subject: Subject, prompt: Prompt, row: Row) -> Said:
        """Ask a model one item."""
        chat = self._chat(prompt, row)
        if prompt.method == SCORE_LABELS:
            return Said(logprobs=await self._logprobs(gateway, subject, chat))
        return Said(*await gateway.answer(subject, chat, self._spec.max_tokens))

    def judge(self, item: int, row: Row, said: Said) -> Answer:
        """Read what was said to an item."""
        if said.logprobs is not None:
            return judge_logprobs(item, row.reference, said.logprobs)
        return judge(item, row.reference, said.text, self._spec.labels, self._folding, said.finish_reason)

    def _chat(self, prompt: Prompt, row: Row) -> list[Message]:
        return messages_of(row, self._examples[prompt.id], prompt, self._spec.labels)

    async def _logprobs(self, gateway: Gateway, subject: Subject, chat: list[Message]) -> dict[str, float]:
        trie = self._tries[subject.base]
        ids = self._tokenizers[subject.base].prompt_ids(chat)
        read: dict[tuple[int, ...], dict[int, float]] = {}
        for step in trie.steps:
            told = await gateway.logprobs(subject, [*ids, *step.prefix], step.token_ids)
            read.setdefault(step.prefix, {}).update(told)
        totals = trie.totals(read)
        return {label: totals[label] for label in self._labels}

    def _majority(self, rows: Sequence[Row]) -> list[Way]:
        if not self._spec.labels:
            return []
        said = Said(self._labels[0])
        return [Way("", MAJORITY, tuple(self.judge(item, row, said) for item, row in enumerate(rows)))]


@dataclass(frozen=True)
class _Asking:
    """One subject asked with one prompt; `name` is what its blocks are kept under."""

    questions: Questions
    gateway: Gateway
    kept: Kept
    on_answer: OnAnswer
    subject: Subject
    prompt: Prompt
    name: str

    async def ask(self, rows: Sequence[Row], part: str) -> Way:
        """Ask all rows, block by block, all blocks at once: the gateway's slots are handed out in order."""
        starts = range(0, len(rows), BLOCK)
        blocks = [self._block(rows, start, f"{self.name}-{part}-{start}.json") for start in starts]
        return Way(self.subject.model, self.prompt.id, tuple(answer for block in await _all(blocks) for answer in block))

    async def _block(self, rows: Sequence[Row], start: int, name: str) -> list[Answer]:
        asked = rows[start : start + BLOCK]
        said = await asyncio.to_thread(self.kept.find, name)
        if said is None:
            said = await _all([self._one(row) for row in asked])
            await asyncio.to_thread(self.kept.keep, name, said)
        else:
            for _ in said:
                self.on_answer(self.subject.model, self.prompt.id)
        return [self.questions.judge(item, row, one) for item, (row, one) in enumerate(zip(asked, said, strict=True), start)]

    async def _one(self, row: Row) -> Said:
        said = await self.questions.say(self.gateway, self.subject, self.prompt, row)
        self.on_answer(self.subject.model, self.prompt.id)
        return said


async def _all(questions: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all, in order; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
