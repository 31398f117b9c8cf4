"""The table of docs/works-with.md: every row has a test that is there, and the version that is pinned."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "works-with.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    table = PAGE[PAGE.index("| caller |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_every_row_names_a_test_that_is_there():
    assert len(rows()) >= 22
    for row in rows():
        path = re.search(r"\]\(\.\./(tests/\S+\.py)\)", row[-1]).group(1)
        assert (ROOT / path).is_file(), row


def test_versions_are_those_that_are_pinned():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    packages = ("TRL", "PEFT", "torchao", "optimum-quanto", "bitsandbytes", "openai", "huggingface_hub")
    packages += ("Gradio", "sentence-transformers")
    for row in rows():
        for name in packages:
            if row[0].startswith(name):
                pinned = pins.get(name, pins.get(name.lower()))
                assert pinned.startswith(row[1]), row
