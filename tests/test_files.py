"""Folders that appear whole or not at all."""

from pathlib import Path

import pytest

from fblt.files import appearing_folder, publish


def test_a_folder_takes_the_place_of_an_earlier_one_when_it_is_filled(tmp_path):
    output = tmp_path / "deep" / "output"
    for text in ("first", "second"):
        with appearing_folder(output) as folder:
            (folder / "file").write_text(text)
            (folder / "link").symlink_to("../file-that-is-not-there")
            assert not output.exists() or (output / "file").read_text() == "first"
        assert (output / "file").read_text() == text and (output / "link").is_symlink()
    assert list(output.parent.iterdir()) == [output]


def test_a_failure_leaves_what_was_there(tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "file").write_text("first")
    with pytest.raises(KeyboardInterrupt), appearing_folder(output) as folder:
        (folder / "file").write_text("second")
        raise KeyboardInterrupt
    assert (output / "file").read_text() == "first" and list(tmp_path.iterdir()) == [output]


def test_an_earlier_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    written, final = tmp_path / "written", tmp_path / "final"
    for folder in (written, final):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == written:
            raise OSError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no"):
        publish(written, final)
    assert (final / "file").read_text() == "final"
