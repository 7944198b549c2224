"""The whole of an evaluation: every subject, each of its prompts, every item; then the constant answer beside them.

Subjects are asked one after the other, so that a server works on one model and one shared beginning at a time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from services.common.errors import AfinaError
from services.evaluator.scoring.score import MAJORITY, Answer, Way, by_frequency, judge, judge_logprobs
from services.evaluator.worker.asking import Gateway
from services.evaluator.worker.label_trie import LabelTrie
from services.evaluator.worker.prompts import Message, Row, draw_examples, messages_of
from services.evaluator.worker.spec import SCORE_LABELS, Prompt, Spec, Subject
from services.evaluator.worker.tokenizer import ChatTokenizer

OnAnswer = Callable[[str, str], None]  # told the model and the prompt after every answer; may raise to stop


class Stopped(AfinaError):
    """Somebody asked the worker to stop."""

    default_reason = "STOPPED"


class Questions:
    """The items of a spec, ready to be asked. `tokenizers` has one for each base whose models score labels, by manifest."""

    def __init__(self, spec: Spec, train: Sequence[Row], items: Sequence[Row], tokenizers: Mapping[str, ChatTokenizer]) -> None:
        self._spec, self._items, self._tokenizers = spec, items, tokenizers
        self._labels = by_frequency((row.reference for row in train), spec.labels)
        self._chats: dict[str, list[list[Message]]] = {}  # made now: a mistake in a prompt shows before the first question
        for prompt_id in dict.fromkeys(prompt for subject in spec.subjects for prompt in subject.prompts):
            prompt = spec.prompts[prompt_id]
            examples = draw_examples(train, spec.labels, prompt.shots, prompt.seed)
            self._chats[prompt_id] = [messages_of(row, examples) for row in items]
        self._tries = {key: LabelTrie(*tokenizer.label_ids(spec.labels)) for key, tokenizer in tokenizers.items()}

    async def ask_all(self, gateway: Gateway, on_answer: OnAnswer) -> list[Way]:
        """Ask everything and return one way for each subject and prompt, then the majority's. Raises: AfinaError."""
        ways = []
        for subject in self._spec.subjects:
            for prompt_id in subject.prompts:
                ways.append(await self._ask_way(gateway, subject, self._spec.prompts[prompt_id], on_answer))
        return ways + self._majority()

    async def _ask_way(self, gateway: Gateway, subject: Subject, prompt: Prompt, on_answer: OnAnswer) -> Way:
        async def ask(item: int) -> Answer:
            if prompt.method == SCORE_LABELS:
                answer = await self._score(gateway, subject, prompt, item)
            else:
                text = await gateway.answer(subject, self._chats[prompt.id][item], self._spec.max_tokens)
                answer = judge(item, self._items[item].reference, text, self._spec.labels)
            on_answer(subject.model, prompt.id)
            return answer

        return Way(subject.model, prompt.id, tuple(await _all([ask(item) for item in range(len(self._items))])))

    async def _score(self, gateway: Gateway, subject: Subject, prompt: Prompt, item: int) -> Answer:
        trie = self._tries[subject.base_manifest_key]
        ids = self._tokenizers[subject.base_manifest_key].prompt_ids(self._chats[prompt.id][item])
        read: dict[tuple[int, ...], dict[int, float]] = {}
        for step in trie.steps:
            told = await gateway.logprobs(subject, [*ids, *step.prefix], step.token_ids)
            read.setdefault(step.prefix, {}).update(told)
        totals = trie.totals(read)
        return judge_logprobs(item, self._items[item].reference, {label: totals[label] for label in self._labels})

    def _majority(self) -> list[Way]:
        if not self._spec.labels:
            return []
        answers = [judge(item, row.reference, self._labels[0], self._spec.labels) for item, row in enumerate(self._items)]
        return [Way("", MAJORITY, tuple(answers))]


async def _all(questions: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Await all, in order; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
