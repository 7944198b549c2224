"""Free text is graded as sacrebleu and rouge-score grade it, whole and resampled."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from services.evaluator.bootstrap import resampled_sums
from services.evaluator.scoring import bleu, chrf
from services.evaluator.scoring.criteria import Bleu, Chrf, Criterion, Rouge
from services.evaluator.scoring.score import score
from tests.unit.evaluator.ways import written

TEXT = "The a cat, dog sat on; mat house red Blue green quickly ran over under it was 3.5 déjà"
WORDS = TEXT.split()


def corpus(count: int, change: float, seed: int = 1) -> tuple[list[str], list[str]]:
    """Answers and references: sentences of one to thirty words, in which some are changed or missing."""
    draw = random.Random(seed)
    references = [" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 30))) for _ in range(count)]

    def changed(sentence: str) -> str:
        kept = [word if draw.random() > change else draw.choice(WORDS) for word in sentence.split() if draw.random() > 0.1]
        return " ".join(kept)

    return [changed(sentence) for sentence in references], references


@pytest.mark.parametrize("criterion", [Bleu(), Bleu("char"), Bleu("zh"), Bleu("intl", lowercase=True), Bleu("none")])
def test_bleu_is_sacrebleus(criterion: Bleu) -> None:
    answers, references = corpus(60, 0.3)
    [graded] = written(answers, references, criterion).graded
    metric = BLEU(tokenize=criterion.tokenizer, lowercase=criterion.lowercase)
    assert 100 * graded.scores["bleu", ""] == pytest.approx(metric.corpus_score(answers, [references]).score)
    single = BLEU(tokenize=criterion.tokenizer, lowercase=criterion.lowercase, effective_order=True)
    expected = [single.sentence_score(a, [r]).score for a, r in zip(answers, references, strict=True)]
    assert (100 * graded.items["bleu"]).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answers", "references"),
    [
        (["a b"], ["a b"]),  # too short for an order: 0 for a corpus, as sacrebleu says
        (["x"], ["a b c d e"]),  # nothing in common
        ([""], ["a b c d"]),
        (["a b c q"], ["a b c d"]),  # an order without a hit is smoothed
        (["a q c d e"], ["a b c d e"]),
    ],
)
def test_bleu_is_sacrebleus_at_its_edges(answers: list[str], references: list[str]) -> None:
    [graded] = written(answers, references, Bleu()).graded
    assert 100 * graded.scores["bleu", ""] == pytest.approx(BLEU().corpus_score(answers, [references]).score, abs=1e-9)
    expected = BLEU(effective_order=True).sentence_score(answers[0], references).score
    assert 100 * graded.items["bleu"][0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("criterion", [Chrf(), Chrf(words=True), Chrf(lowercase=True)])
def test_chrf_is_sacrebleus(criterion: Chrf) -> None:
    answers, references = corpus(60, 0.3)
    answers[0], references[1] = "", "x"
    [graded] = written(answers, references, criterion).graded
    metric = CHRF(word_order=2 if criterion.words else 0, lowercase=criterion.lowercase)
    assert 100 * graded.scores["chrf", ""] == pytest.approx(metric.corpus_score(answers, [references]).score)
    expected = [metric.sentence_score(a, [r]).score for a, r in zip(answers, references, strict=True)]
    assert (100 * graded.items["chrf"]).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_rouge_scores(stemmer: bool) -> None:
    answers, references = corpus(40, 0.3)
    answers[0] = ""
    [graded] = written(answers, references, Rouge(stemmer=stemmer)).graded
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    found = [scorer.score(r, a) for a, r in zip(answers, references, strict=True)]
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = [one[name].fmeasure for one in found]
        assert graded.items[name].tolist() == pytest.approx(expected)
        assert graded.scores[name, ""] == pytest.approx(np.mean(expected))


def test_rouge_sees_other_scripts_only_where_it_is_told_to() -> None:
    answers, references = ["кошка сидит дома"], ["кошка спит дома"]
    assert written(answers, references, Rouge()).value("rouge1") == 0.0
    assert written(answers, references, Rouge(unicode=True)).value("rouge1") == pytest.approx(2 / 3)


@pytest.mark.parametrize(("criterion", "metric"), [(Bleu(), BLEU()), (Chrf(), CHRF())])
def test_each_resample_has_the_score_that_sacrebleu_gives_its_sentences(criterion: Criterion, metric: BLEU | CHRF) -> None:
    answers, references = corpus(25, 0.4)
    [graded] = written(answers, references, criterion).graded
    weights = resampled_sums(np.eye(len(answers)), resamples=20).astype(int)
    found = (bleu.bleu if isinstance(criterion, Bleu) else chrf.chrf)(resampled_sums(graded.stats, resamples=20))
    for drawn, value in zip(weights, found, strict=True):
        said = [answer for answer, times in zip(answers, drawn, strict=True) for _ in range(times)]
        meant = [reference for reference, times in zip(references, drawn, strict=True) for _ in range(times)]
        assert 100 * value == pytest.approx(metric.corpus_score(said, [meant]).score)


def test_every_graded_score_has_an_interval_around_it() -> None:
    answers, references = corpus(200, 0.3)
    result = score(written(answers, references, Bleu(), Chrf(), Rouge()))
    assert [metric.name for metric in result.metrics] == ["bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    for metric in result.metrics:
        assert metric.low < metric.value < metric.high
        assert metric.high - metric.low < 0.15
        assert metric.interval == "INTERVAL_BOOTSTRAP"
