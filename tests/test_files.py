"""Folders that appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

import fblt.files
from fblt.files import appearing_file, appearing_folder, exchange, publish, write_text_atomically


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
    monkeypatch.setattr("fblt.files.exchange", lambda one, other: False)
    with pytest.raises(OSError, match="no"):
        publish(written, final)
    assert (final / "file").read_text() == "final"


def test_a_new_folder_takes_the_place_of_none(tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    with appearing_folder(output, new=True) as folder:
        (folder / "file").write_text("first")
    with pytest.raises(FileExistsError, match="exists"), appearing_folder(output, new=True):
        raise AssertionError("refused too late")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="link"), appearing_folder(tmp_path / "link", new=True):
        raise AssertionError("refused too late")
    # One that appeared in the meantime is kept too.
    with pytest.raises(FileExistsError), appearing_folder(tmp_path / "late", new=True) as folder:
        (folder / "file").write_text("ours")
        (tmp_path / "late").mkdir()
        (tmp_path / "late" / "file").write_text("theirs")
    assert (tmp_path / "late" / "file").read_text() == "theirs" and (output / "file").read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {"output", "link", "late"}


def test_what_is_written_has_the_permissions_of_new_files(tmp_path):
    mask = os.umask(0o027)
    try:
        with appearing_folder(tmp_path / "output") as folder:
            (folder / "inner").mkdir(mode=0o700)
            (folder / "inner" / "file").write_text("from elsewhere")
            (folder / "inner" / "file").chmod(0o400)
    finally:
        os.umask(mask)
    modes = [stat.S_IMODE((tmp_path / "output" / name).stat().st_mode) for name in ("", "inner", "inner/file")]
    assert modes == [0o750, 0o750, 0o640]


def filled(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


def test_an_earlier_folder_is_replaced_at_one_moment(tmp_path, monkeypatch):
    """No rename takes the earlier folder away from its name before the new one has it."""
    written, final = filled(tmp_path / "written", "new"), filled(tmp_path / "final", "old")
    if not exchange(written, final):
        pytest.skip("this system does not exchange folders")
    exchange(written, final)
    monkeypatch.setattr(Path, "rename", lambda self, target: pytest.fail(f"{self} was renamed"))
    publish(written, final)
    assert (final / "file").read_text() == "new" and list(tmp_path.iterdir()) == [final]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(("exchanges", "steps"), [(True, 0), (False, 0), (False, 1), (False, 2), (False, 3)])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path, monkeypatch, exchanges, steps):
    """The process ends before a renaming or deletion; the next start finds a whole folder and deletes the leftovers."""
    output = filled(tmp_path / "output", "old")
    if not exchanges:
        monkeypatch.setattr("fblt.files.exchange", lambda one, other: False)
    child = os.fork()
    if child == 0:
        done = []

        def dies(step):
            def do(*arguments):
                if len(done) == steps:
                    os._exit(1)
                done.append(step(*arguments))

            return do

        with appearing_folder(output) as folder:
            (folder / "file").write_text("new")
            Path.rename = dies(Path.rename)
            fblt.files._delete = dies(fblt.files._delete)
        os._exit(0)
    assert os.waitpid(child, 0)[1] != 0
    with pytest.raises(KeyboardInterrupt), appearing_folder(output):
        raise KeyboardInterrupt
    assert (output / "file").read_text() == ("old" if (exchanges, steps) in [(False, 0), (False, 1)] else "new")
    assert list(tmp_path.iterdir()) == [output]


def test_a_folder_that_another_process_makes_is_left_to_it(tmp_path):
    with appearing_folder(tmp_path / "output") as folder:
        (folder / "file").write_text("ours")
        with pytest.raises(ValueError, match="Another process"), appearing_folder(tmp_path / "output"):
            raise AssertionError("refused too late")
    assert (tmp_path / "output/file").read_text() == "ours" and len(list(tmp_path.iterdir())) == 1


def test_what_killed_writers_of_a_file_left_is_deleted_and_nothing_else(tmp_path):
    child = os.fork()
    if child == 0:
        with appearing_file(tmp_path / "result.json") as partial:
            partial.write_text("half")
            os._exit(1)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    for name in (".result.json-mine", ".other.json-1-x"):
        (tmp_path / name).write_text("kept")
    with appearing_file(tmp_path / "result.json") as other:  # of a process that is alive
        write_text_atomically(tmp_path / "result.json", "whole")
        assert other.exists() and not left.exists()
    write_text_atomically(tmp_path / "result.json", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", ".result.json-mine", ".other.json-1-x"}
    assert (tmp_path / "result.json").read_text() == "whole"
