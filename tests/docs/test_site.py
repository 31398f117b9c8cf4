"""The site: MkDocs builds it without a warning, with every page, link and docstring that it names."""

import os
import subprocess
import sys

import pytest

from fblt.cli import COMMANDS
from tests.thorough import long_run

from .blocks import ROOT

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")


@long_run
@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "commands.html").read_text()
    assert all(f"fblt {name}" in commands for name in COMMANDS)
    assert "draft_length" in (tmp_path / "api" / "generation.html").read_text()
    assert (tmp_path / "images" / "architecture.svg").is_file()
