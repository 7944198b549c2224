"""Whether an answer is the reference word for word, after folding what does not count."""

import re
import string

from services.evaluator.scoring.criteria import ExactMatch

FINAL_PUNCTUATION = ".!?…,;:。！？"
DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)


def is_exact_match(answer: str, reference: str, folded: ExactMatch) -> bool:
    """Whether the whole answer equals the reference after folding."""
    return fold(answer, folded) == fold(reference, folded)


def fold(text: str, folded: ExactMatch = ExactMatch()) -> str:  # noqa: B008 - frozen
    """Return a text without what does not count; one that would be empty then is left as it is.

    Source: with case folded, and punctuation and articles dropped, it is `normalize_answer` of the SQuAD 1.1 evaluation
    (Rajpurkar et al., 2016, EMNLP).
    """
    kept = text if folded.keep_case else text.casefold()
    if folded.drop_punctuation:
        kept = kept.translate(DROP_PUNCTUATION)
    if folded.drop_articles:
        kept = ARTICLES.sub(" ", kept)
    if not folded.keep_space:
        kept = " ".join(kept.split())
    if not folded.keep_final_punctuation:
        kept = kept.rstrip(FINAL_PUNCTUATION + ("" if folded.keep_space else " ")) or kept
    return kept
