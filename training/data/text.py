"""Text clean-up shared by every data source: UTF-8, newlines, tabs, paragraphs."""

import re
import unicodedata

LEADING_FOURS = re.compile(r"^(?: {4})+", re.MULTILINE)
TRAILING_BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)
# Shorter indented lines are verse, signatures or addresses; longer ones are prose that was wrapped and indented.
SHORT_LINE = 44


def spaces_to_tabs(text: str) -> str:
    """Replaces each group of four leading spaces of a line by one tab; one to three left-over spaces stay."""
    return LEADING_FOURS.sub(lambda match: "\t" * (len(match[0]) // 4), text)


def clean_text(text: str) -> str:
    """Returns `text` in NFC with `\\n` newlines, tabs for indents, no trailing blanks and one final newline."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = TRAILING_BLANKS.sub("", text.replace("\f", "").replace("\0", ""))
    return spaces_to_tabs(text.strip("\n")) + "\n"


def join_paragraphs(lines: list[str]) -> str:
    """Undoes hard wrapping: one line per paragraph, blank line between paragraphs, short indented lines kept apart."""
    paragraphs: list[str] = []
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            paragraphs.append(_join_block(block))
            block = []
    return "\n\n".join(paragraphs)


def _join_block(block: list[str]) -> str:
    joined = [block[0]]
    for previous, line in zip(block, block[1:], strict=False):
        if line.startswith(" ") and len(previous.strip()) < SHORT_LINE:
            joined.append(line)
        else:
            joined[-1] = f"{joined[-1].strip()} {line.strip()}"
    return "\n".join(_single_blanks(line) for line in joined)


def _single_blanks(line: str) -> str:
    # The novels mix one and two spaces after a full stop; indentation is not touched.
    body = line.lstrip(" ")
    return line[: len(line) - len(body)] + re.sub(r" {2,}", " ", body)
