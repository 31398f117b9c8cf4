"""The most frequent form of each word in the training text: what restoration without context can do."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from ...data.restore.damage import PUNCTUATION, make_plain, strip_marks

FEWEST_OF_A_FORM = 3  # times a second form must stand in the training text for a word to be called ambiguous


def split_word(word: str) -> tuple[str, str, str]:
    """Punctuation before a word, the word, punctuation after it."""
    core = word.lstrip(PUNCTUATION)
    before = word[: len(word) - len(core)]
    inner = core.rstrip(PUNCTUATION)
    return before, inner, core[len(inner) :]


class FrequentForms:
    """Forms of words as they stand in the training lines of one language, by their damaged form.

    For `accents`, which leaves punctuation, forms are of the word without the punctuation around it; for `plain` and
    `typos` with it, for it is to be restored. Words that were never seen are left alone, as are, for `typos`, those
    that an error made unknown.

    Args:
        lines: the training lines of a language; the baseline is told which it is, a model is not.
    """

    def __init__(self, lines: Iterable[str]):
        words = Counter(word for line in lines for word in line.split())
        self.accents: dict[str, Counter] = defaultdict(Counter)
        self.plain: dict[str, Counter] = defaultdict(Counter)
        for word, count in words.items():
            core = split_word(word)[1]
            self.accents[strip_marks(core)][core] += count
            self.plain[make_plain(word)][word] += count
        self.best = {
            kind: {form: max(found, key=lambda word: (found[word], word)) for form, found in forms.items()}
            for kind, forms in (("accents", self.accents), ("plain", self.plain))
        }

    def restore(self, damaged: str, kind: str) -> str:
        """The line with every word replaced by its most frequent form."""
        if kind == "none":
            return damaged
        if kind != "accents":
            return " ".join(self.best["plain"].get(word, word) for word in damaged.split())
        parts = [split_word(word) for word in damaged.split()]
        return " ".join(before + self.best["accents"].get(core, core) + behind for before, core, behind in parts)

    def is_ambiguous(self, word: str, kind: str) -> bool:
        """Whether the training text has several restorations of a word's damaged form, the second not by accident."""
        if kind == "none":
            return False
        if kind == "accents":
            forms = self.accents.get(strip_marks(split_word(word)[1]), Counter())
        else:
            forms = self.plain.get(make_plain(word), Counter())
        return sum(count >= FEWEST_OF_A_FORM for count in forms.values()) > 1
