"""The code that the bundled checkpoint carries is the package's, in real files; one command copies it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fblt.cli import main as fblt
from fblt.remote_code import BUNDLED, code_folder, copy_code, differences, main

CODE = Path(__file__).parents[2] / "modeling_fblt"
DEMO = Path(__file__).parents[2] / "checkpoints" / "fblt-demo"


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """A checkpoint without code, and code of three files."""
    checkpoint, code = tmp_path / "checkpoint", tmp_path / "code"
    checkpoint.mkdir()
    code.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (code / "__init__.py").write_text("from .a_fblt import a\n")
    for name in "abc":
        (code / f"{name}_fblt.py").write_text(f"{name} = 'é'\n", encoding="utf-8")
    return checkpoint, code


def test_bundled_checkpoints_carry_the_code_of_the_package():
    assert code_folder() == CODE and DEMO in BUNDLED
    for folder in BUNDLED:
        assert differences(folder, CODE) == {}, "run `python -m fblt.remote_code`"
        assert len(list(folder.glob("*.py"))) == len(list(CODE.glob("*_fblt.py"))) > 20


@pytest.mark.skipif(not (DEMO.parents[1] / ".git").exists(), reason="no checkout of git")
def test_a_checkout_without_symbolic_links_loads_the_bundled_checkpoint():
    """In git too the code is files: as links, it would be a path in a file where there are no links."""
    command = ["git", "ls-files", "--stage", "checkpoints"]
    listed = subprocess.run(command, cwd=DEMO.parents[1], capture_output=True, text=True, check=True).stdout
    assert "modeling_fblt.py" in listed
    assert [line for line in listed.splitlines() if line.startswith("120000")] == []


def test_copying_brings_changed_and_missing_files_and_removes_stale_ones(folders):
    checkpoint, code = folders
    (checkpoint / "a_fblt.py").write_text("old\n")
    (checkpoint / "gone_fblt.py").write_text("old\n")
    (checkpoint / "c_fblt.py").symlink_to(os.path.relpath(code / "c_fblt.py", checkpoint))
    (checkpoint / "README.md").write_text("the card")
    expected = {"a_fblt.py": "changed", "b_fblt.py": "missing", "c_fblt.py": "a link", "gone_fblt.py": "stale"}
    assert differences(checkpoint, code) == expected == copy_code(checkpoint, code)
    assert differences(checkpoint, code) == copy_code(checkpoint, code) == {}
    names = {"a_fblt.py", "b_fblt.py", "c_fblt.py", "README.md", "config.json"}
    assert {file.name for file in checkpoint.iterdir()} == names
    assert not (checkpoint / "c_fblt.py").is_symlink() and (code / "c_fblt.py").is_file()
    assert (checkpoint / "a_fblt.py").read_bytes() == (code / "a_fblt.py").read_bytes()


@pytest.mark.parametrize("command", [[main], [fblt, "sync-code"]])
def test_check_says_what_differs_and_changes_nothing(command, folders):
    checkpoint, _ = folders
    (checkpoint / "gone_fblt.py").write_text("old\n")
    call = lambda *options: CliRunner().invoke(command[0], [*command[1:], *options, str(checkpoint)])  # noqa: E731
    told = call("--check")
    assert told.exit_code == 1
    assert f"{checkpoint / 'gone_fblt.py'}: stale" in told.output
    assert f"{checkpoint / 'modeling_fblt.py'}: missing" in told.output
    assert {file.name for file in checkpoint.iterdir()} == {"config.json", "gone_fblt.py"}
    assert call().exit_code == 0
    assert call("--check").exit_code == 0 and differences(checkpoint, CODE) == {}


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    told = CliRunner().invoke(main, [str(tmp_path)])
    assert told.exit_code == 1 and "holds no config.json" in told.output and "Traceback" not in told.output
    assert list(tmp_path.iterdir()) == []


def test_the_command_needs_no_torch():
    script = "import sys, fblt.remote_code as r; r.code_folder(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=DEMO.parents[1], check=True)
