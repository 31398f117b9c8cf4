"""What kind of mistake a wrong word is: a pure classification, so that errors can be counted and not only shown."""

from collections import Counter
from collections.abc import Iterable

from ...data.restore.damage import PUNCTUATION, make_plain, strip_marks

KINDS = ("marks", "case", "punctuation", "several of these", "letters", "words joined or split")
_WITHOUT_PUNCTUATION = str.maketrans("", "", PUNCTUATION)


def kind_of_error(wanted: str, found: str) -> str:
    """How two different words differ: in marks, case or punctuation alone, in several of these, or in letters."""
    if strip_marks(wanted) == strip_marks(found):
        return "marks"
    if wanted.lower() == found.lower():
        return "case"
    if wanted.translate(_WITHOUT_PUNCTUATION) == found.translate(_WITHOUT_PUNCTUATION):
        return "punctuation"
    return "several of these" if make_plain(wanted) == make_plain(found) else "letters"


def errors_of(line: str, restored: str) -> list[tuple[str, str, str]]:
    """Kind, wanted and found word of each wrong word of a line.

    Where the restored line has another number of words, nothing tells which stands for which: that is one error, of the
    whole line.
    """
    wanted, found = line.split(), restored.split()
    if len(wanted) != len(found):
        return [(KINDS[-1], line, restored)]
    return [(kind_of_error(*pair), *pair) for pair in zip(wanted, found, strict=True) if pair[0] != pair[1]]


def count_errors(lines: Iterable[str], restored: Iterable[str]) -> dict[str, int]:
    """Errors of all lines by kind, in the order of `KINDS`."""
    counts = Counter(kind for pair in zip(lines, restored, strict=True) for kind, *_ in errors_of(*pair))
    return {kind: counts[kind] for kind in KINDS}
