"""HTML and Mallard pages -> the text of their blocks."""

import html
import re
from collections.abc import Iterator

# What holds no prose. Comments first: they may hold anything.
_LEFT_OUT = re.compile(
    r"<!--.*?-->|<(head|script|style|pre|code|screen|programlisting|footer|nav|svg|info|credit)\b[^>]*>.*?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_BLOCK = re.compile(
    r"</?(?:p|div|h[1-6]|li|ul|ol|dl|dt|dd|td|th|tr|table|body|br|hr|section|title|item|list|steps|terms|note|"
    r"figure|figcaption|blockquote|page|media|desc|cite|article|header|form|input|label|option|select)\b[^>]*>",
    re.IGNORECASE,
)
_INLINE = re.compile(r"<[^>]*>")


def blocks_of_markup(source: str) -> Iterator[str]:
    """The blocks of a page in order, without tags; program text, menus' scripts and footers are left out.

    A block from which program text was cut within a sentence would no longer be one, so it is left out as a whole.
    """
    hole = "\0"
    source = _LEFT_OUT.sub(lambda match: hole if (match[1] or "").lower() == "code" else " ", source)
    for block in _BLOCK.split(source):
        text = html.unescape(_INLINE.sub("", block)).strip()
        if text and hole not in text:
            yield text
