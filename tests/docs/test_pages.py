"""What the documentation promises a reader: short lines, links that lead somewhere, examples that run."""

import re

import pytest
from click.testing import CliRunner

from fblt.cli import main

from .blocks import FENCE, ROOT, blocks, commands

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "conversion/README.md",
    "training/README.md",
]
PAGES += sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def anchors(page: str) -> set[str]:
    """The fragments that its headings can be linked by, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_prose_are_short(page):
    assert not [line for line in prose(page).splitlines() if len(line) > 120 and not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(str(file.resolve().relative_to(ROOT))), target


@pytest.mark.checkpoint
def test_the_readmes_python_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = blocks("README.md", "python")
    exec(compile(code.replace("max_new_tokens=120", "max_new_tokens=12"), "README.md", "exec"), {})
    assert "def read_lines(path):" in capsys.readouterr().out


@pytest.mark.checkpoint
def test_the_decoding_guides_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for arguments in commands("docs/decoding.md"):
        if "--output" in arguments:
            arguments[-1] = str(tmp_path / arguments[-1])
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0 and "bytes in" in result.output, result.output
