"""What a set of texts is worth, with errors: words right of restored lines, BLEU of translations. Pure functions.

Both are functions of counts that add up over lines. So lines drawn with replacement, the same ones for two decodings,
tell the standard error of a score and of a difference of two.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from fblt.training.evaluation.restoration.measures import right_words
from sacrebleu.metrics import BLEU

DRAWS = 500
NGRAMS = 4


def word_counts(lines: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Words right and words, `[lines, 2]`."""
    rights = [right_words(line, text) for line, text in zip(lines, texts, strict=True)]
    return np.array([[sum(right), len(right)] for right in rights], dtype=np.int64).reshape(len(lines), 2)


def word_score(counts: np.ndarray) -> float:
    """Percent of words right of counts summed over lines, `[2]`."""
    return 100 * counts[0] / max(counts[1], 1)


def bleu_counts(lines: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Matching n-grams and n-grams of each order, and words of text and reference: `[lines, 10]`."""
    metric = BLEU(effective_order=True)
    found = [metric.sentence_score(text, [line]) for line, text in zip(lines, texts, strict=True)]
    rows = [[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found]
    return np.array(rows, dtype=np.int64).reshape(len(lines), 2 * NGRAMS + 2)


def bleu_score(counts: np.ndarray) -> float:
    """Sacrebleu's corpus BLEU of counts summed over lines, `[10]`."""
    *whole, text, reference = (int(count) for count in counts)
    return BLEU.compute_bleu(whole[:NGRAMS], whole[NGRAMS:], text, reference, smooth_method="exp").score


Measure = tuple[Callable[[Sequence[str], Sequence[str]], np.ndarray], Callable[[np.ndarray], float]]
MEASURES: Mapping[str, Measure] = {"words right": (word_counts, word_score), "BLEU": (bleu_counts, bleu_score)}


def drawn_scores(counts: np.ndarray, score: Callable[[np.ndarray], float], seed: int, draws: int = DRAWS) -> np.ndarray:
    """Scores of lines drawn with replacement, `[draws]`; equal seeds draw the same lines.

    Args:
        counts: `[lines, numbers]`.
    """
    lines = len(counts)
    generator = np.random.default_rng(seed)
    times = generator.multinomial(lines, np.full(lines, 1 / lines), size=draws)  # how often each line was drawn
    return np.array([score(row) for row in times @ counts])


def summary(counts: np.ndarray, score: Callable[[np.ndarray], float], seed: int) -> dict[str, float]:
    """The score of all lines and its standard error."""
    return {"score": float(score(counts.sum(0))), "error": float(drawn_scores(counts, score, seed).std(ddof=1))}


def difference(
    one: np.ndarray, other: np.ndarray, score: Callable[[np.ndarray], float], seed: int
) -> tuple[float, float]:
    """How much `one` scores above `other` on the same lines, and the standard error of that."""
    gap = score(one.sum(0)) - score(other.sum(0))
    draws = drawn_scores(one, score, seed) - drawn_scores(other, score, seed)
    return float(gap), float(draws.std(ddof=1))
