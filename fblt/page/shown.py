"""What the page shows, as HTML: texts coloured by how their bytes came, and counters in two columns."""

from html import escape
from itertools import groupby

from ..drafts import Kind, spans
from ..patch_html import DARK as PATCHES_DARK
from ..patch_html import LIGHT as PATCHES_LIGHT
from ..patch_html import STYLE as PATCHES_STYLE
from ..patch_html import variables
from .race import Run

CLASSES = {
    Kind.PROMPT: "prompt",
    Kind.DRAFTED: "drafted",
    Kind.KEPT: "kept",
    Kind.CORRECTED: "corrected",
    Kind.WRITTEN: "written",
}
LIGHT = PATCHES_LIGHT | {
    "drafted": "#a16207",
    "drafted-paper": "#fef3c7",
    "kept": "#15803d",
    "corrected": "#b91c1c",
    "corrected-paper": "#fcd9d9",
    "written": "#1d4ed8",
    "frame": "#d6dce5",
}
DARK = PATCHES_DARK | {
    "drafted": "#fde68a",
    "drafted-paper": "#4d3b06",
    "kept": "#86efac",
    "corrected": "#fecaca",
    "corrected-paper": "#7f1d1d",
    "written": "#93c5fd",
    "frame": "#374151",
}
STYLE = f"""
.fblt {{ {variables(LIGHT)} }}
.dark .fblt {{ {variables(DARK)} }}
.fblt .legend span, .fblt .text span {{ border-radius: 3px; }}
.fblt .legend {{ display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .85rem; }}
.fblt .text {{ font: 14px/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; border: 1px solid var(--frame); border-radius: 8px; padding: .7rem; min-height: 9rem; }}
.fblt h3 {{ margin: .2rem 0 .5rem; font-size: 1rem; }}
.fblt h3 small {{ font-weight: normal; color: var(--line); }}
.fblt .prompt {{ color: var(--line); }}
.fblt .drafted {{ color: var(--drafted); background: var(--drafted-paper); font-style: italic; }}
.fblt .kept {{ color: var(--kept); }}
.fblt .corrected {{ color: var(--corrected); background: var(--corrected-paper); }}
.fblt .written {{ color: var(--written); }}
.fblt table {{ width: 100%; border-collapse: collapse; font-size: .9rem; }}
.fblt table, .fblt thead, .fblt tbody, .fblt tr {{ border: 0 !important; }}
.fblt th, .fblt td {{ padding: .25rem .5rem !important; border: 0 !important; text-align: right;
  border-bottom: 1px solid var(--frame) !important; }}
.fblt th:first-child, .fblt td:first-child {{ text-align: left; font-weight: normal; }}
.fblt .key {{ display: inline-block; width: .8em; height: .8em; border-radius: 2px; background: var(--bar); }}
.fblt .key.over {{ background: var(--over); }}
{PATCHES_STYLE}
.fblt .patches .char {{ margin-bottom: 10px !important; }}
"""


def framed(html: str) -> str:
    """The element that the colours hold for."""
    return f'<div class="fblt">{html}</div>'


def legend() -> str:
    told = {
        Kind.PROMPT: "prompt",
        Kind.DRAFTED: "drafted, not judged yet",
        Kind.KEPT: "drafted and kept",
        Kind.CORRECTED: "corrected a draft",
        Kind.WRITTEN: "not drafted",
    }
    return framed(
        '<div class="legend">'
        + "".join(f'<span class="{CLASSES[kind]}">{words}</span>' for kind, words in told.items())
        + "</div>"
    )


def text(title: str, run: Run | None) -> str:
    """What a run wrote so far, its pending draft at the end."""
    if run is None:
        return framed(f'<h3>{escape(title)}</h3><div class="text"></div>')
    streamer, parts = run.streamer, []
    pending = [] if run.ended else streamer.draft
    kinds = streamer.kinds + [Kind.DRAFTED] * len(pending)
    for kind, group in groupby(spans(streamer.ids + pending, kinds), key=lambda span: span.kind):
        shown = "".join(span.text for span in group)
        if kind is Kind.CORRECTED:  # a corrected line break would be invisible
            shown = shown.replace("\n", "↵\n")
        parts.append(f'<span class="{CLASSES[kind]}">{escape(shown)}</span>')
    state = "done" if run.ended else "writes"
    return framed(f'<h3>{escape(title)} <small>{state}</small></h3><div class="text">{"".join(parts)}</div>')


def counters(columns: dict[str, Run], greedy: bool) -> str:
    """The counters of runs, one column for each by its title; `greedy` texts are compared with that of `ar`."""
    shown = {title: _counts(run) for title, run in columns.items()}
    plain = columns.get("ar")
    for title, run in columns.items():
        if greedy and plain is not None and run is not plain and plain.ended and run.ended:
            shown[title]["same text as ar"] = "yes" if run.streamer.ids == plain.streamer.ids else "no"
    labels = list(dict.fromkeys(label for counts in shown.values() for label in counts))
    head = "".join(f"<th>{escape(title)}</th>" for title in shown)
    rows = "".join(
        f"<tr><td>{label}</td>{''.join(f'<td>{counts.get(label, chr(8211))}</td>' for counts in shown.values())}</tr>"
        for label in labels
    )
    return framed(f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>")


def _counts(run: Run) -> dict[str, str]:
    """Label and value of what is known of a run so far; calls of networks once it has ended."""
    kinds = run.streamer.kinds
    written = sum(kind is not Kind.PROMPT for kind in kinds)
    kept = sum(kind is Kind.KEPT for kind in kinds)
    seconds = max(run.seconds, 1e-9)
    counts = {
        "bytes written": str(written),
        "of them drafted": str(kept),
        "bytes per second": f"{written / seconds:.0f}",
    }
    if run.output is not None:
        rounds, total = int(run.output.iterations[0]), max(written, 1)
        counts["rounds"] = str(rounds)
        counts["bytes per round"] = f"{written / max(rounds, 1):.2f}"
        for name in ("decoder", "global", "encoder", "patcher"):
            counts[f"{name} calls per byte"] = f"{int(getattr(run.output, f'{name}_nfe')[0]) / total:.2f}"
    return counts
