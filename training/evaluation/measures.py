"""The measures of an evaluation: pure functions over ids and counts."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch

from modeling_fblt.configuration_fblt import BYTE_OFFSET

BLANKS = tuple(byte + BYTE_OFFSET for byte in b" \t\n")
BOOTSTRAP_SAMPLES = 1000


def is_blank(ids: torch.Tensor) -> torch.Tensor:
    """Which ids are a space, a tab or a newline. Shape kept."""
    return torch.isin(ids, torch.tensor(BLANKS, device=ids.device))


def share(part: float | None, whole: float | None) -> float | None:
    """`part / whole`; None if one of them is missing or `whole` is 0."""
    return part / whole if part is not None and whole else None


def leading_correct(draft: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """How many drafted bytes equal the real text before the first that does not: `[rows, r]` twice -> `[rows]`."""
    return (draft == real).long().cumprod(dim=1).sum(dim=1)


class AccuracyByOffset:
    """Share of right bytes per block offset, over all bytes and over those whose target is not blank."""

    def __init__(self, offsets: int):
        self.hits = {"all": torch.zeros(offsets), "non_blank": torch.zeros(offsets)}
        self.counts = {"all": torch.zeros(offsets), "non_blank": torch.zeros(offsets)}

    def add(self, predicted: torch.Tensor, real: torch.Tensor) -> None:
        """Counts `[rows, offsets]` predictions of `real` bytes."""
        right, solid = predicted == real, ~is_blank(real)
        for name, counted in (("all", torch.ones_like(solid)), ("non_blank", solid)):
            self.hits[name] += (right & counted).sum(0).cpu()
            self.counts[name] += counted.sum(0).cpu()

    def report(self) -> dict[str, list[float | None]]:
        """`all` and `non_blank`: one share per offset, None where nothing was counted."""
        return {
            name: [share(*pair) for pair in zip(hits.tolist(), self.counts[name].tolist(), strict=True)]
            for name, hits in self.hits.items()
        }


def summary(values: Sequence[int], largest: int) -> dict:
    """Mean, its standard error, and a histogram of how often each of `0 .. largest` occurs."""
    array = np.asarray(values)
    error = float(array.std(ddof=1) / len(array) ** 0.5) if len(array) > 1 else None
    return {
        "mean": float(array.mean()),
        "standard_error": error,
        "histogram": np.bincount(array, minlength=largest + 1).tolist(),
    }


def ratio_of_means(above: Sequence[int], below: Sequence[int], seed: int) -> dict[str, float | None]:
    """Ratio of two paired measures' means, with a 95 % bootstrap interval (None where the denominator is 0)."""
    pair = np.asarray([above, below], dtype=np.float64)
    low = high = None
    if pair[1].sum() > 0:
        rows = np.random.default_rng(seed).integers(0, pair.shape[1], (BOOTSTRAP_SAMPLES, pair.shape[1]))
        sums = pair[:, rows].sum(-1)
        drawn = sums[0][sums[1] > 0] / sums[1][sums[1] > 0]
        low, high = (float(value) for value in np.quantile(drawn, (0.025, 0.975)))
    return {"ratio": share(*pair.sum(1).tolist()), "low": low, "high": high}


def ngram_counts(text: Sequence[Hashable], n: int) -> tuple[int, int]:
    """How many different n-grams a text has, and how many in all."""
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    return len(set(grams)), len(grams)


def distinct_ngrams(ids: Sequence[Hashable], n: int = 8) -> float | None:
    """Distinct n-grams / all n-grams of one text: 1 without any repetition; None for a text of fewer than `n` ids."""
    return share(*ngram_counts(ids, n))


def distinct_ngrams_together(texts: Sequence[Sequence[Hashable]], n: int = 8) -> float:
    """Distinct n-grams / all n-grams, where both are counted text by text and summed: long texts weigh more.

    Returns:
        A share between 0 and 1; 1.0 where no text has `n` ids.
    """
    counts = [ngram_counts(text, n) for text in texts]
    total = sum(every for _, every in counts)
    return sum(distinct for distinct, _ in counts) / total if total else 1.0


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there."""
    present = [value for value in values if value is not None]
    return share(sum(present), len(present))


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """First index at which two texts differ, where one has ended if it is a prefix; None if they are equal."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def in_proportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Whole shares of `total` in proportion to `sizes` (largest remainders); they sum to `total`."""
    whole = sum(sizes.values())
    exact = {name: total * size / whole for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares
