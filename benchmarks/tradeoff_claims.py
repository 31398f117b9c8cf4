"""Whether figures bear the paper's claims out: yes, no or not decided. Pure functions.

A difference decides where it is two standard errors away from what would turn the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

YES, NO, OPEN = "yes", "no", "not decided"
ERRORS = 2.0
CLOSE = 0.1  # of BLT's score that D-4 may lose and be called close; the paper's 3B loses 6.5 % of it, its 1B 7.7 %
EQUAL = 0.99  # of texts that a verified decoding must share with `ar`: the rest are near-ties of two logits
STEADY = "blt-d confidence 0.7"  # the setting by which block sizes are compared

Difference = Callable[[tuple[str, str], tuple[str, str]], tuple[float, float]]


@dataclass
class Row:
    """A model's figures in one decoding.

    Attributes:
        score: the higher the better.
        decoder_calls, global_calls: a byte.
        traffic: of Eq. 8, a byte.
        equal_to_ar: share of texts that are those of the same weights under `ar`.
    """

    score: float
    decoder_calls: float
    global_calls: float
    traffic: float
    equal_to_ar: float


@dataclass
class Answer:
    """An answer, and the figures that decided it, a line each."""

    claim: str
    answer: str
    figures: list[str] = field(default_factory=list)


def above(gap: float, error: float, least: float = 0.0) -> str:
    """Whether a difference with its standard error is above `least`."""
    if gap - ERRORS * error > least:
        return YES
    return NO if gap + ERRORS * error < least else OPEN


def joint(answers: Sequence[str]) -> str:
    """The answer of all; not decided where they differ or there are none."""
    return answers[0] if answers and len(set(answers)) == 1 else OPEN


Rows = Mapping[tuple[str, str], Row]


def judge(rows: Rows, difference: Difference, sizes: Sequence[int]) -> list[Answer]:
    """The four claims.

    Args:
        rows: by model (`"base"`, `"blt"`, `"blt-d-4"`, ...) and decoding.
        difference: of two of these rows, how much the first scores above the second, and its standard error.
        sizes: block sizes of the family.
    """
    return [
        close_to_blt(rows, difference),
        falls_with_size(rows, difference, sizes),
        verified_above(rows, difference, sizes),
        free_of_training(rows),
    ]


def close_to_blt(rows: Rows, difference: Difference) -> Answer:
    """D-4 loses less than a tenth of BLT's score."""
    claim = f"BLT-D-4 is close to BLT: it loses less than {CLOSE:.0%} of its score ({STEADY})"
    plain, blocks = ("blt", "ar"), ("blt-d-4", STEADY)
    if plain not in rows or blocks not in rows:
        return Answer(claim, OPEN, ["no such rows"])
    gap, error = difference(blocks, plain)
    score = rows[plain].score
    told = f"{rows[blocks].score:.2f} against {score:.2f}: {gap:+.2f} ± {error:.2f}"
    return Answer(claim, above(gap, error, -CLOSE * score) if score > 0 else OPEN, [told])


def falls_with_size(rows: Rows, difference: Difference, sizes: Sequence[int]) -> Answer:
    """The largest block scores below the smallest, and no larger block above the next smaller."""
    claim = f"quality falls with block size ({STEADY})"
    found = [(f"blt-d-{size}", STEADY) for size in sorted(sizes) if (f"blt-d-{size}", STEADY) in rows]
    if len(found) < 2:
        return Answer(claim, OPEN, ["fewer than two block sizes"])
    figures, rises = [", ".join(f"{name} {rows[name, how].score:.2f}" for name, how in found)], []
    for smaller, larger in zip(found, found[1:], strict=False):
        gap, error = difference(smaller, larger)
        rises.append(above(gap, error) == NO)
        figures.append(f"{smaller[0]} above {larger[0]} by {gap:+.2f} ± {error:.2f}")
    gap, error = difference(found[0], found[-1])
    figures.append(f"{found[0][0]} above {found[-1][0]} by {gap:+.2f} ± {error:.2f}")
    return Answer(claim, NO if any(rises) else above(gap, error), figures)


def verified_above(rows: Rows, difference: Difference, sizes: Sequence[int]) -> Answer:
    """For each block size, the best `blt-d` of no more decoder calls than some `blt-dv` scores below that one."""
    claim = "BLT-DV is above BLT-D of the same weights at the same decoder calls"
    answers, figures = [], []
    for size in sorted(sizes):
        own = {how: row for (name, how), row in rows.items() if name == f"blt-d-{size}"}
        pairs = []
        for how, row in own.items():
            if how.startswith("blt-dv"):
                cheaper = [h for h, r in own.items() if is_plain_draft(h) and r.decoder_calls <= row.decoder_calls]
                pairs += [(how, max(cheaper, key=lambda h: own[h].score))] if cheaper else []
        if not pairs:
            figures.append(f"blocks of {size}: no blt-d has as few decoder calls as a blt-dv")
            continue
        # The verified texts of one model are all `ar`'s, so the fewest calls are the fair ones to compare at.
        verified, drafted = min(pairs, key=lambda pair: own[pair[0]].decoder_calls)
        name = f"blt-d-{size}"
        gap, error = difference((name, verified), (name, drafted))
        answers.append(above(gap, error))
        figures.append(
            f"blocks of {size}: {verified} at {own[verified].decoder_calls:.3f} decoder calls a byte above {drafted} "
            f"at {own[drafted].decoder_calls:.3f} by {gap:+.2f} ± {error:.2f} ({answers[-1]})"
        )
    return Answer(claim, joint(answers), figures)


def is_plain_draft(decoding: str) -> bool:
    """Whether a row is one of `blt-d`."""
    return decoding.split()[0] == "blt-d"


def free_of_training(rows: Rows) -> Answer:
    """`blt-s` of weights that never saw a block writes `ar`'s text with fewer global calls and less traffic."""
    claim = "BLT-S needs no training: it writes what ar writes with fewer global calls and less traffic"
    plain = rows.get(("base", "ar"))
    found = {how: row for (name, how), row in rows.items() if name == "base" and how.startswith("blt-s")}
    if plain is None or not found:
        return Answer(claim, OPEN, ["no such rows"])
    answers, figures = [], []
    for how, row in found.items():
        holds = row.equal_to_ar >= EQUAL and row.global_calls < plain.global_calls and row.traffic < plain.traffic
        answers.append(YES if holds else NO)
        figures.append(
            f"{how}: {row.equal_to_ar:.1%} of texts equal; global calls {row.global_calls:.3f} against "
            f"{plain.global_calls:.3f}, traffic {row.traffic / plain.traffic:.0%} of ar's ({answers[-1]})"
        )
    return Answer(claim, joint(answers), figures)
