"""The whole of an evaluation: every subject, each of its prompts, every item; then the constant answer beside them.

Subjects are asked one after the other, so that a server works on one model and one shared beginning at a time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from services.common.errors import AfinaError
from services.evaluator.scoring.score import MAJORITY, Answer, Way, judge, judge_logprobs, majority_label
from services.evaluator.worker.asking import Gateway
from services.evaluator.worker.label_trie import LabelTrie
from services.evaluator.worker.prompts import Row, draw_examples, messages_of
from services.evaluator.worker.spec import SCORE_LABELS, Prompt, Spec, Subject
from services.evaluator.worker.tokenizer import ChatTokenizer

OnAnswer = Callable[[str, str], None]  # told the model and the prompt after every answer; may raise to stop


class Stopped(AfinaError):
    """Somebody asked the worker to stop."""

    default_reason = "STOPPED"


class Questions:
    """The items of a spec, ready to be asked. `tokenizer` may be absent where no prompt scores labels."""

    def __init__(self, spec: Spec, train: Sequence[Row], items: Sequence[Row], tokenizer: ChatTokenizer | None) -> None:
        self._spec, self._train, self._items, self._tokenizer = spec, train, items, tokenizer
        used = {prompt for subject in spec.subjects for prompt in subject.prompts}
        self._chats = {  # every mistake in a prompt shows before the first question
            prompt.id: [messages_of(row, draw_examples(train, spec.labels, prompt.shots, prompt.seed)) for row in items]
            for prompt in spec.prompts.values()
            if prompt.id in used
        }
        self._trie = LabelTrie(*tokenizer.label_ids(spec.labels)) if tokenizer else None

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
        assert self._tokenizer is not None and self._trie is not None
        ids = self._tokenizer.prompt_ids(self._chats[prompt.id][item])
        read: dict[tuple[int, ...], dict[int, float]] = {}
        for step in self._trie.steps:
            told = await gateway.logprobs(subject, [*ids, *step.prefix], step.token_ids)
            read.setdefault(step.prefix, {}).update(told)
        totals = self._trie.totals(read)
        return judge_logprobs(item, self._items[item].reference, {label: totals[label] for label in self._spec.labels})

    def _majority(self) -> list[Way]:
        if not self._spec.labels:
            return []
        label = majority_label((row.reference for row in self._train), self._spec.labels)
        answers = [judge(item, row.reference, label, self._spec.labels) for item, row in enumerate(self._items)]
        return [Way("", MAJORITY, tuple(answers))]


async def _all(questions: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Await all, in order; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return [await task for task in tasks if task.done()] if all(_went_well(task) for task in tasks) else _raise_first(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _went_well(task: "asyncio.Task[Answer]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _raise_first(tasks: Sequence["asyncio.Task[Answer]"]) -> list[Answer]:
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
    raise asyncio.CancelledError
