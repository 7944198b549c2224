"""ROUGE-1, ROUGE-2 and ROUGE-L of each item, as rouge-score computes them; the score is their mean."""

import re
from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from services.evaluator.bootstrap import Floats
from services.evaluator.scoring.answers import Answer
from services.evaluator.scoring.criteria import Rouge
from services.evaluator.scoring.graded import Graded, Key, ratio

NAMES = ("rouge1", "rouge2", "rougeL")


class AnyScript(Tokenizer):
    """Words of any script: the published tokenizer knows a-z and 0-9 alone."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text, folded."""
        return re.findall(r"\w+", text.casefold())


def grade(answers: Sequence[Answer], criterion: Rouge) -> Graded:
    """Grade by the F-measures. Source: Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries."""
    scorer = RougeScorer(NAMES, use_stemmer=criterion.stemmer, tokenizer=AnyScript() if criterion.unicode else None)
    rows = []
    for answer in answers:
        found = scorer.score(answer.reference, answer.answer)
        rows.append([1.0, *(found[name].fmeasure for name in NAMES)])
    stats = np.array(rows, dtype=np.float64).reshape(-1, 1 + len(NAMES))
    return Graded(stats, _scores, NAMES, {name: stats[:, place] for place, name in enumerate(NAMES, 1)})


def _scores(sums: Floats) -> dict[Key, Floats]:
    return {(name, ""): ratio(sums[..., place], sums[..., 0]) for place, name in enumerate(NAMES, 1)}
