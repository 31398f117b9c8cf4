"""The one reader of texts: what it refuses, it names."""

from pathlib import Path

import pytest

pytest.importorskip("datasets")

from fblt.training.data.inputs import data_source, open_source, parse_source, read_streams  # noqa: E402

BAD_UTF8 = b"a line\n\xff\xfe\n"


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def read(location: str, scratch: Path, streaming: bool = False) -> None:
    opened = open_source(parse_source(f"mine={location}"), {"text": "text"}, ("train",), scratch, streaming)
    read_streams(opened, scratch, {})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"fine", "b.txt": BAD_UTF8, "c.txt": b"fine"}, r"'b.txt' cannot be read as text: .*utf-8"),
        (
            {"a.jsonl": b'{"text": "x"}\n', "b.jsonl": b'{"text": "x"}\n{"text": \n'},
            r"'b.jsonl' cannot be read as json",
        ),
        ({"a.parquet": b"no Parquet"}, r"'a.parquet' cannot be read as parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, files, message, streaming):
    with pytest.raises(ValueError, match=rf"`--source` .*: {message}"):
        read(write(tmp_path / "texts", files), tmp_path / "scratch", streaming)


def test_the_file_whose_name_tells_a_split_is_named_first(tmp_path):
    folder = write(tmp_path / "texts", {"notes.txt": b"x", "my_test.txt": b"x", "other.txt": b"x"})
    with pytest.raises(
        ValueError, match=r"'my_test.txt' tells split 'test', but 2 others .* 'notes.txt' first: rename"
    ):
        read(folder, tmp_path / "scratch")


def test_files_of_several_kinds_are_named(tmp_path):
    folder = write(tmp_path / "texts", {"b.py": b"x", "a.json": b"{}", "c.py": b"x"})
    with pytest.raises(ValueError, match=r"several kinds.*'a.json' as json, 'b.py' as text"):
        read(folder, tmp_path / "scratch")


@pytest.mark.parametrize("option", ["data", "--data"])
def test_messages_name_what_gave_the_texts(tmp_path, option):
    with pytest.raises(ValueError, match=f"`{option}` .*nowhere' does not exist: give a folder"):
        data_source(tmp_path / "nowhere", option)
    with pytest.raises(ValueError, match=f"`{option}` .*matches no file"):
        data_source(tmp_path / "*.txt", option)
    (tmp_path / "empty").mkdir()
    source = data_source(tmp_path / "empty", option)
    with pytest.raises(ValueError, match=f"`{option}` .*holds no files of text"):
        open_source(source, {"text": "text"}, None, tmp_path / "scratch")
