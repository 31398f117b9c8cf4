"""A run over packed rows is the run over their documents: packed beforehand, or patched online."""

import pytest

pytest.importorskip("datasets")

from fblt.training.packing.pack import main  # noqa: E402
from fblt.training.recipe import load_recipe  # noqa: E402
from fblt.training.run import run  # noqa: E402

from tests.cli import succeed  # noqa: E402
from tests.training.runs import LENGTH, losses, write_recipe  # noqa: E402


@pytest.mark.parametrize("online", [False, True])
def test_packed_rows_train_and_rows_of_another_patcher_are_refused(tmp_path, online):
    recipe = write_recipe(tmp_path, "whole")
    packed = tmp_path / "packed"
    command = ["--source", f"words={tmp_path / 'data'}", "--output", str(packed), "--sequence-length", str(LENGTH)]
    command += ["--license", "words=CC0-1.0", *(["--patch-online"] if online else ["--recipe", str(recipe)])]
    succeed(main, *command)
    runs = [load_recipe(write_recipe(tmp_path, name, data=str(packed))) for name in ("one", "two")]
    for settings in runs:
        run(settings)
    # The same rows give the same losses; the row order is that of the packed folder, not of the documents'.
    assert losses(tmp_path / "one") == losses(tmp_path / "two") and len(losses(tmp_path / "one")) == 4
    if online:
        return
    (tmp_path / "patcher/patching.json").write_text('{"threshold": 1.25}')
    with pytest.raises(ValueError, match=r"`data`.*packed for another model.*fblt pack"):
        run(load_recipe(write_recipe(tmp_path, "other", data=str(packed))))
