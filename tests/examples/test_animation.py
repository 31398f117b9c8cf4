"""The animation of the decodings: what it shows at each time is what was known then."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from examples import animation
from examples.animation import Moment, Panel, animated_svg, cells, lifetimes
from fblt.drafts import Kind
from tests.cli import refusal, succeed

from .test_demo import checkpoint, ids  # noqa: F401

P, K, C = Kind.PROMPT, Kind.KEPT, Kind.CORRECTED
MOMENTS = [
    Moment(0.0, ids("ab"), [P, P], []),
    Moment(1.0, ids("ab"), [P, P], ids("cdx")),
    Moment(2.0, ids("abcde"), [P, P, K, K, C], []),
    Moment(3.0, ids("abcde"), [P, P, K, K, C], ids("f")),
]


def test_every_moment_can_be_read_off_the_lifetimes():
    lives = lifetimes(MOMENTS)
    for moment in MOMENTS:
        alive = {cell for cell, start, end in lives if start <= moment.seconds < (end or 99)}
        assert alive == set(cells(moment))


def test_the_svg_gives_every_cell_its_time():
    root = ElementTree.fromstring(animated_svg([Panel("ar", MOMENTS, "told")], "caption", slower=2.0, rest=1.0))
    texts = [element for element in root if element.tag.endswith("text")]
    drafted = next(element for element in texts if element.text == "cdx")
    assert drafted.get("visibility") == "hidden"
    assert (drafted[0].get("begin"), drafted[0].get("dur")) == ("l.begin+2.00s", "2.00s")
    kept = next(element for element in texts if element.text == "cd" and element.get("class") == "k")
    assert kept.get("visibility") is None and kept[0].get("dur") == "4.00s"
    assert any(element.text == "e" and element.get("class") == "c" for element in texts)


def test_lines_that_do_not_fit_are_left_out():
    long = Moment(0.0, ids("x" * 500), [P] * 500, [])
    assert {line for line, *_ in cells(long)} == set(range(animation.ROWS))
    assert max(column for _, column, *_ in cells(long)) == animation.COLUMNS - 1


def test_the_command_draws_every_decoding(checkpoint, tmp_path):  # noqa: F811
    picture = tmp_path / "new" / "decodings.svg"
    told = succeed(animation.main, "--model", checkpoint, "--prompt", "ab", "--max-new-bytes", 8, "--output", picture)
    drawn = picture.read_text()
    assert all(f"{name}: " in drawn and f"{name}: " in told for name in ("ar", "blt-s", "blt-d", "blt-dv"))
    assert len(re.findall(r'class="t"', drawn)) == 4
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


def test_a_damaged_line_is_restored_greedily(checkpoint, tmp_path):  # noqa: F811
    picture = tmp_path / "restoring.svg"
    succeed(animation.main, "--model", checkpoint, "--text", "eine zeile", "--output", picture)
    assert "eine zeile" in picture.read_text().replace("\u00a0", " ") and "greedy" in picture.read_text()


@pytest.mark.parametrize("output", ["decodings.gif", "decodings"])
def test_another_format_is_refused(output):
    assert "ends in .svg" in refusal(animation.main, "--model", "nowhere", "--output", output)
