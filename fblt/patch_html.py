"""Patches as HTML: a bar of entropy over every byte, a dashed line at the threshold, a frame around every patch.

The text wraps like text, so it can be read on a phone, and it can be selected. Nothing is loaded from elsewhere.
"""

from html import escape

from .patches import Character, Patches, characters

# What cannot be seen is shown by these, and copied as them.
VISIBLE = {" ": "·", "\n": "↵", "\t": "→"}

STYLE = """
.patches { font: 15px/1.3 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.patches .patch { display: inline; }
.patches .char { display: inline-flex; flex-direction: column; min-width: 1ch; margin-bottom: 10px; color: var(--ink);
  border-bottom: 3px solid var(--patch); text-align: center; vertical-align: bottom; }
.patches .patch:nth-child(even) .char { border-bottom-color: var(--patch-even); }
.patches .bars { display: flex; position: relative; height: 46px; }
.patches .bars i { flex: 1; min-width: 1ch; --shown: var(--bar); padding: 0 .5px; box-sizing: border-box;
  background: linear-gradient(to top, var(--shown) var(--height), transparent 0) content-box; }
.patches .bars i.over { --shown: var(--over); }
.patches .bars i.start { box-shadow: -1px 0 0 var(--edge); }
.patches .bars::after { content: ""; position: absolute; inset: auto 0 var(--threshold) 0;
  border-top: 1px dashed var(--line); }
.patches .blank { color: var(--dim); }
"""

LIGHT = {
    "ink": "#1a202c",
    "paper": "#ffffff",
    "dim": "#a0aec0",
    "bar": "#a8c5e8",
    "over": "#d9660a",
    "line": "#718096",
    "patch": "#2b6cb0",
    "patch-even": "#38a169",
    "edge": "#cbd5e0",
}
DARK = {
    "ink": "#e2e8f0",
    "paper": "#11151c",
    "dim": "#5a6677",
    "bar": "#3b5b82",
    "over": "#f6923c",
    "line": "#a0aec0",
    "patch": "#63b3ed",
    "patch-even": "#68d391",
    "edge": "#3a4557",
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font-family: system-ui, sans-serif; line-height: 1.5; }}
h1 {{ font-size: 1.2rem; }}
.key {{ display: inline-block; width: .8em; height: .8em; border-radius: 2px; background: var(--bar); }}
.key.over {{ background: var(--over); }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}. {legend}</p>
{patches}
</body>
</html>
"""


def variables(colours: dict[str, str]) -> str:
    """Colours as CSS declarations."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def legend(patches: Patches) -> str:
    """What the picture shows, as HTML."""
    if patches.entropies is None:
        return "The model starts patches without entropies."
    cut = "" if patches.longest is None else f" A patch of {patches.longest} bytes is cut."
    return (
        '<span class="key"></span> How unsure the patcher is before each byte, in nats; '
        f'<span class="key over"></span> above the threshold of {patches.threshold:.2f} (dashed), where a patch starts.'
        f"{cut}"
    )


def patches_html(patches: Patches) -> str:
    """The text as one element; its colours are the CSS variables of `LIGHT`, its rules `STYLE`."""
    highest = scale(patches)
    starts, parts = set(patches.starts), []
    for character in characters(patches.content):
        if starts.intersection(range(character.start, character.end)) or not parts:
            parts.append([])
        parts[-1].append(_character(character, patches, starts, highest))
    threshold = 0.0 if patches.threshold is None else 100 * patches.threshold / highest
    inside = "".join(f'<span class="patch">{"".join(part)}</span>' for part in parts)
    return f'<div class="patches" style="--threshold: {threshold:.1f}%">{inside}</div>'


def scale(patches: Patches) -> float:
    """The entropy that a bar of full height stands for."""
    return max(patches.entropies or [0.0]) * 1.05 or 1.0


def _character(character: Character, patches: Patches, starts: set[int], highest: float) -> str:
    bars, told = "", []
    for i in range(character.start, character.end):
        words, entropy, kinds = f"byte {i + 1}, 0x{patches.content[i]:02x}", 0.0, []
        if patches.entropies is not None:
            entropy = patches.entropies[i]
            words += f": {entropy:.2f} nats"
            kinds += ["over"] * (entropy > patches.threshold)
        if i in starts:
            words += ", starts a patch"
            kinds.append("start")
        bars += f'<i class="{" ".join(kinds)}" style="--height:{100 * entropy / highest:.0f}%"></i>'
        told.append(words)
    shown = VISIBLE.get(character.text, character.text)
    blank = " blank" if character.text in VISIBLE else ""
    line = "<br>" if character.text == "\n" else ""
    title = escape("\n".join(told), quote=True)
    head = f'<span class="bars">{bars}</span>'
    return f'<span class="char{blank}" title="{title}">{head}<span>{escape(shown)}</span></span>{line}'


def patches_page(patches: Patches, title: str) -> str:
    """A whole HTML document."""
    return PAGE.format(
        title=escape(title),
        light=variables(LIGHT),
        dark=variables(DARK),
        style=STYLE,
        summary=escape(patches.summary),
        legend=legend(patches),
        patches=patches_html(patches),
    )
