"""Manual pages in roff's `man` macros -> the text of their paragraphs."""

import re
from collections.abc import Iterator

_NAMED = {
    "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "aq": "'", "dq": '"', "Bq": "„", "bq": "‚", "Fo": "«", "Fc": "»",
    "em": "—", "en": "–", "hy": "-", "bu": "•", "co": "©", "rg": "®", "tm": "™", "ti": "~", "ha": "^", "rs": "\\",
    "aa": "´", "ga": "`", "mi": "-", "pl": "+", "ss": "ß", "ae": "æ", "oe": "œ", "->": "→", "<-": "←", "de": "°",
    "mu": "×", "ps": "¶", "sc": "§", "Eu": "€", "Po": "£", "12": "½", "at": "@", "sh": "#", "ba": "|", "sl": "/",
}  # fmt: skip
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", ":": "\u0308", "~": "\u0303", ",": "\u0327", "o": "\u030a"}
_ESCAPE = re.compile(
    r"\\(?:"
    r'(?P<comment>["#]).*'
    r"|[fFm](?:\[[^\]]*\]|\(..|.)"
    r"|s[+-]?(?:\[[^\]]*\]|'[^']*'|\d{1,2})"
    r"|\*(?:\[[^\]]*\]|\(..|.)"
    r"|[hvwlLDkoXbZz]'[^']*'"
    r"|\[(?P<long>[^\]]*)\]"
    r"|\((?P<two>..)"
    r"|(?P<one>.)"
    r")"
)
_FONTS = {"B", "I", "SM", "SB", "R"}
_ALTERNATING = {"BR", "RB", "IR", "RI", "BI", "IB"}
_BREAKS = {"PP", "P", "LP", "SH", "SS", "TP", "TQ", "IP", "RS", "RE", "HP", "br", "sp", "SY", "YS", "OP", "in", "ti"}
_OPENED = {"nf": "fi", "EX": "EE", "TS": "TE", "de": ".", "ig": ".", "PS": "PE", "EQ": "EN"}


def paragraphs_of_man(source: str) -> Iterator[str]:
    """The filled paragraphs of a manual page, joined again; headings, examples, tables and synopses are left out.

    Pages in the `mdoc` macros, whose words are arguments, yield nothing.
    """
    lines = source.split("\n")
    if any(line.startswith((".Dd", ".Sh")) for line in lines):
        return
    gathered: list[str] = []
    until: str | None = None  # the macro that ends what is being skipped
    tag = False  # the next line is the tag of a `.TP`
    for line in [*lines, ".PP"]:
        name, rest = _macro(line)
        if until is not None:
            if name == until:
                until = None
            continue
        if name is None or name in _FONTS or name in _ALTERNATING:
            if tag:
                tag = False
            elif text := _plain(line if name is None else _arguments(rest, "" if name in _ALTERNATING else " ")):
                gathered.append(text)
            continue
        if name in _OPENED or name in _BREAKS:
            if gathered:
                yield " ".join(gathered)
            gathered = []
        tag = name in ("TP", "TQ")
        if name in _OPENED:
            until = _OPENED[name]
        elif name in ("UR", "MT") and rest:
            continue


def _macro(line: str) -> tuple[str | None, str]:
    """A control line's macro and the rest; None for a text line. A bare `.` is called `.`."""
    if not line.startswith((".", "'")):
        return None, line
    name, _, rest = line[1:].lstrip().partition(" ")
    return name.strip() or ".", rest


def _arguments(rest: str, joint: str) -> str:
    words = re.findall(r'"((?:[^"]|"")*)"?|((?:\\.|[^\s"\\])(?:\\.|[^\s\\])*)', rest)
    return joint.join(quoted.replace('""', '"') or bare for quoted, bare in words)


def _plain(text: str) -> str:
    """Text without escapes. What has no plain form leaves a NUL, by which the line is left out later."""

    def replace(match: re.Match) -> str:
        if match["comment"]:
            return ""
        if (one := match["one"]) is not None:
            return {"-": "-", "e": "\\", "\\": "\\", " ": " ", "~": " ", "0": " ", "'": "´", "`": "`"}.get(one, "")
        if (long := match["long"] or match["two"]) is not None:
            return _special(long)
        return "\0" if match[0].startswith(("\\*", "\\D", "\\o", "\\w", "\\X")) else ""

    return _ESCAPE.sub(replace, text).strip()


def _special(name: str) -> str:
    if name in _NAMED:
        return _NAMED[name]
    if name.startswith("u") and re.fullmatch(r"u[0-9A-F]{4,6}", name):
        return chr(int(name[1:], 16))
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        return name[1] + _ACCENTS[name[0]]
    return "\0"
