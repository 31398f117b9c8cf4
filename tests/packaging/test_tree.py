"""What the repository's own files must be like."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_tracked_file_is_a_symlink():
    """A checkout without symlinks has the path of the target as the content of the file: no Python."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    links = [line.partition("\t")[2] for line in listed.splitlines() if line.startswith("120000 ")]
    assert listed and not links
