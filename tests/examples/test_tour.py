"""The notebook: it runs from top to bottom, shrunken, and shows what it says."""

import re

import pytest

from tests.docs.blocks import ROOT

nbformat = pytest.importorskip("nbformat", reason="the extra `test` is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra `test` is not installed")

SHRUNKEN = {"STEPS, ROW = 40, 512": "STEPS, ROW = 2, 128", '"It was a cold evening, and", 120': '"It was", 12'}


@pytest.mark.slow
@pytest.mark.checkpoint
def test_the_tour_runs_from_top_to_bottom(tmp_path):
    source = (ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8")
    assert not re.search(r'"outputs": \[[^\]]', source)  # what it prints is not kept: it would be of one machine
    notebook = nbformat.reads(source, as_version=4)
    nbformat.validate(notebook)
    code = "\n".join(cell.source for cell in notebook.cells)
    assert all(code.count(long) == 1 for long in SHRUNKEN)
    for cell in notebook.cells:
        for long, short in SHRUNKEN.items():
            cell.source = cell.source.replace(long, short)
        cell.source = cell.source.replace('"runs/tour"', repr(str(tmp_path)))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    printed = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    )
    assert printed.count("the text of ar") == 3 and "|expectin|g" in printed
    assert re.search(r"held-out rows: \d\.\d\d before, \d\.\d\d after", printed)
