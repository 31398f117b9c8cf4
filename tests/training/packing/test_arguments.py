"""What packing is asked to do: wrong arguments and sources are named before any work."""

import pytest

pytest.importorskip("datasets")

from fblt.training.packing.build import pack_corpus  # noqa: E402
from fblt.training.packing.pack import main  # noqa: E402

from tests.cli import refusal, succeed  # noqa: E402
from tests.training.packing.packs import contents  # noqa: E402


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "`--seed` is -1"),
        ({"workers": 0}, "`--workers` is 0"),
        ({"sequence_length": 1}, "`--sequence-length` is 1"),
        ({"sequence_length": 10**6}, "less than one row of `--sequence-length` 1000000"),
        ({"hold_out": 1.0}, "`--hold-out` is 1.0"),
        ({"model": None}, "Give one of `--model`, `--recipe` and `--patch-online`"),
        ({"prompt_column": "p"}, "`--prompt-column` and `--completion-column` together"),
        ({"text_column": "nosuch"}, "no column 'nosuch': it has"),
        ({"max_bytes": {"nosuch": 1}}, r"`--max-bytes` names \['nosuch'\], but the sources are \['code', 'prose'\]"),
        ({"license": {"nosuch": "MIT"}}, r"`--license` names \['nosuch'\]"),
        ({"source": ["no/such/file.txt"]}, "`--source` 'no/such/file.txt' does not exist"),
        ({"source": ["x=no/such/*.txt"]}, "matches no file"),
        ({"source": ["*.txt"]}, "needs a name"),
        ({"device": "nosuch"}, "`--device` 'nosuch'"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(options, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        pack_corpus(options(**changes))
    assert not (tmp_path / "packed").exists() and not (tmp_path / ".packed-partial" / "rows").exists()


def test_sources_that_cannot_be_used_are_named(options, documents, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "train.jsonl").write_text('{"text": null}\n')
    named = {"source": [str(mixed)], "license": {"mixed": "MIT"}}
    with pytest.raises(ValueError, match=r"`--license` is missing for \['mixed'\]"):
        pack_corpus(options(source=[str(mixed)]))
    with pytest.raises(ValueError, match="holds .*null.*, not strings"):
        pack_corpus(options(**named))
    (mixed / "train.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(ValueError, match="row 1 of split 'train' has no 'text'"):
        pack_corpus(options(**named, overwrite=True, output=tmp_path / "second"))
    (mixed / "other.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="name of 'train.jsonl' tells split 'train', but 1 others .* 'other.jsonl'"):
        pack_corpus(options(**named, output=tmp_path / "third"))
    (mixed / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"files of several kinds, \['json', 'text'\]"):
        pack_corpus(options(**named, output=tmp_path / "fourth"))
    with pytest.raises(ValueError, match=r"gives \['code', 'prose'\] twice"):
        pack_corpus(options(source=[str(documents), str(documents)]))


def test_training_text_needs_validation_text_or_a_word_about_it(options, tmp_path):
    (tmp_path / "a.txt").write_text("text " * 20)
    with pytest.raises(ValueError, match="`--hold-out` is missing"):
        pack_corpus(options(source=[str(tmp_path / "a.txt")], license={"a": "MIT"}))


def test_only_packed_rows_are_replaced_and_only_when_asked(options, tmp_path):
    arguments = [*options().recorded(), "--patch-online", "--output", str(options().output)]
    succeed(main, *arguments)
    before = contents(options().output)
    assert "exists: give another folder" in refusal(main, *arguments)
    succeed(main, *arguments, "--overwrite")
    assert contents(options().output) == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="holds no packed rows, so it stays"):
        pack_corpus(options(output=tmp_path / "mine", overwrite=True))
