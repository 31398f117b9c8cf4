"""The data builder: text rules, container formats, splits and manifest, on samples made here (no network)."""

import gzip
import hashlib
import json
import struct
import zlib

import pytest

pytest.importorskip("datasets")

from datasets import load_from_disk  # noqa: E402
from fblt.training.data import prepare  # noqa: E402
from fblt.training.data.formats import (  # noqa: E402
    DataFormatError,
    decompress_lzw,
    parse_r_strings,
    read_bible_data,
    read_r_lazy_data,
)
from fblt.training.data.packages import Package, PackageError, find_deb  # noqa: E402
from fblt.training.data.readers import (  # noqa: E402
    BIBLE_BOOKS,
    LEXICOGRAPHER_FILES,
    Document,
    novel_chapters,
    parse_synset,
    read_bible,
    read_python,
)
from fblt.training.data.sources import SOURCES, DemoSource, HoldOut  # noqa: E402
from fblt.training.data.splits import HoldOutError, assign_splits, drop_repeated, shared_lines  # noqa: E402
from fblt.training.data.text import clean_text, join_paragraphs, spaces_to_tabs  # noqa: E402

from tests.cli import refusal, succeed  # noqa: E402


def pack_lzw(data: bytes, clear_at: int | None = None) -> bytes:
    """Writes `data` as a headerless .Z stream, as `compress` does; sends a clear code after `clear_at` codes."""
    codes: list[tuple[int, int]] = []  # (code, width in bits); padding has code 0
    table, width, group = {bytes([b]): b for b in range(256)}, 9, 0
    next_code, known, first = 257, b"", True

    def pad() -> None:
        nonlocal group
        while (len(codes) - group) % 8:
            codes.append((0, width))
        group = len(codes)

    def emit(code: int) -> None:
        # The reader's table is one entry behind the writer's, so the width follows the reader's count.
        nonlocal width, next_code, first
        codes.append((code, width))
        if not first and next_code < 1 << 16:
            next_code += 1
        first = False
        if next_code >= 1 << width and width < 16:
            pad()
            width += 1

    new = 257
    for value in data:
        longer = known + bytes([value])
        if longer in table:
            known = longer
            continue
        emit(table[known])
        if new < 1 << 16:
            table[longer] = new
            new += 1
        known = bytes([value])
        if clear_at is not None and len(codes) >= clear_at:
            clear_at = None
            emit(table[known])
            codes.append((256, width))
            pad()
            table, width, new, next_code, first, known = {bytes([b]): b for b in range(256)}, 9, 257, 257, True, b""
    if known:
        emit(table[known])
    total = position = 0
    for code, bits in codes:
        total |= code << position
        position += bits
    return total.to_bytes((position + 7) // 8, "little")


def r_string(text: str | None) -> bytes:
    data = (text or "").encode()
    return struct.pack(">ii", 0x00040009, -1 if text is None else len(data)) + data


def r_strings(strings: list[str | None]) -> bytes:
    header = b"X\n" + struct.pack(">3i", 3, 0x040201, 0x030500) + struct.pack(">i", 5) + b"UTF-8"
    return header + struct.pack(">ii", 16, len(strings)) + b"".join(map(r_string, strings))


def test_four_leading_spaces_become_a_tab():
    assert spaces_to_tabs("    a\n        b    c\n      d\n  e\n") == "\ta\n\t\tb    c\n\t  d\n  e\n"


def test_clean_text():
    assert clean_text("\r\n    x = 1  \r\n\r\ne\u0301\f\n\n\n") == "\tx = 1\n\né\n"


def test_paragraphs_are_joined_and_verse_is_kept():
    lines = [
        "Chapter 1",
        "",
        "",
        "She was very  ",
        "fond of him.  Indeed",
        "she was.",
        "",
        "    A short verse",
        "      line",
    ]
    assert (
        join_paragraphs(lines)
        == "Chapter 1\n\nShe was very fond of him. Indeed she was.\n\n    A short verse\n      line"
    )


def test_indented_prose_is_joined():
    long = "     this line of a letter was wrapped at the margin by hand"
    assert join_paragraphs([long, "     and goes on."]) == long.strip() + " and goes on."


@pytest.mark.parametrize("clear_at", [None, 700])
def test_lzw(clear_at):
    data = b"".join(hashlib.sha256(bytes([i % 7, i // 50])).digest()[: i % 30] + b"abab" for i in range(400))
    assert decompress_lzw(pack_lzw(data, clear_at)) == data


def test_damaged_lzw_is_reported():
    with pytest.raises(DataFormatError, match="damaged"):
        decompress_lzw(b"\xff" * 9)


def test_bible_data_and_documents(tmp_path):
    text = b"Title.\nGe1:1 In the beginning\nGe1:2 And the earth\nGe2:1 Thus\nExo1:1 Now these\n"
    windows = [pack_lzw(text[:30]), pack_lzw(text[30:])]
    header = b"EC02Compressed Data File".ljust(0x50, b"\0") + struct.pack(">3I", 0, 65536, 2)
    start = len(header) + 8
    data = header + struct.pack(">2I", start, start + len(windows[0])) + b"".join(windows)
    path = tmp_path / "usr/lib/bible.data"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert read_bible_data(path).encode() == text
    assert list(read_bible(tmp_path)) == [
        Document("Genesis", "Genesis 1\n\n1 In the beginning\n2 And the earth\n"),
        Document("Genesis", "Genesis 2\n\n1 Thus\n"),
        Document("Exodus", "Exodus 1\n\n1 Now these\n"),
    ]
    assert len(BIBLE_BOOKS) == 66


def test_r_strings():
    assert parse_r_strings(r_strings(["EMMA", "", None, "£20"])) == ["EMMA", "", "", "£20"]
    with pytest.raises(DataFormatError, match="type 13"):
        parse_r_strings(b"X\n" + struct.pack(">5i", 2, 0, 0, 13, 0))


def test_r_lazy_data(tmp_path):
    novels = {"emma": ["EMMA", "x"], "other": ["y"]}
    data, pairs = b"", b""
    for strings in novels.values():
        record = b"\0\0\0\0" + zlib.compress(r_strings(strings))
        pairs += struct.pack(">4i", 13, 2, len(data), len(record))
        data += record
    names = (
        struct.pack(">ii", 0x402, 1) + r_string("names") + struct.pack(">ii", 16, 2) + b"".join(map(r_string, novels))
    )
    index = r_strings([])[:-8] + struct.pack(">4i", 0x213, 3, 0x213, 2) + pairs + names
    (tmp_path / "Rdata.rdb").write_bytes(data)
    (tmp_path / "Rdata.rdx").write_bytes(gzip.compress(index))
    assert read_r_lazy_data(tmp_path / "Rdata") == novels


def test_novel_chapters_leave_out_front_matter_and_notes():
    lines = ["EMMA", "VOLUME I", "CHAPTER I", "a", "CHAPTER 2", "a volume of", "A NOTE ON THE TEXT", "modern words"]
    assert list(novel_chapters(lines)) == [["CHAPTER I", "a"], ["CHAPTER 2", "a volume of"]]


def test_synset():
    record = '00001740 00 a 02 able(p) 0 well_off 0 001 = 05200169 n 0000 | having money;  "an able man"  '
    assert parse_synset(record) == ("adj.all", 'able, well off: having money; "an able man"')
    assert len(LEXICOGRAPHER_FILES) == 45


def test_python_files_leave_out_tests_and_tables(tmp_path):
    library = tmp_path / "usr/lib/python3.11"
    for name in ("a.py", "test/b.py", "encodings/cp1.py", "json/c.py", "html/entities.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(f"def f():\n    return {name!r}\n")
    (library / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    documents = {document.group: document.text for document in read_python(tmp_path)}
    assert sorted(documents) == ["a.py", "json/c.py", "latin.py"]
    assert documents["a.py"] == "def f():\n\treturn 'a.py'\n"
    assert "é" in documents["latin.py"]


def documents(count: int) -> list[Document]:
    return [Document(f"file{i}", f"a line that only file {i} part {j} has\n") for i in range(count) for j in range(2)]


def test_splits_hold_out_whole_groups_and_follow_the_seed():
    rule = HoldOut(validation=2, test=3)
    splits = assign_splits("s", documents(20), rule, seed=0)
    assert sorted(splits.values()).count("test") == 3 and sorted(splits.values()).count("validation") == 2
    assert splits == assign_splits("s", documents(20)[::-1], rule, seed=0)
    assert splits != assign_splits("s", documents(20), rule, seed=1)


def test_near_copies_and_wrong_sizes_are_not_held_out():
    body = "".join(f"this is line number {i} of the copy\n" for i in range(10))
    items = [Document("copy", body), Document("original", body + "and one more line stands here\n")]
    items += [Document("tiny", "x\n"), Document("good", "a line that stands nowhere else\n" * 3)]
    assert shared_lines({item.group: item.text for item in items})["copy"] == 1.0
    assert assign_splits("s", items, HoldOut(0, 1, sizes=(10, 1000)), seed=0)["good"] == "test"
    with pytest.raises(HoldOutError, match="2 groups of 10 to 1000 bytes wanted for test, 1 found"):
        assign_splits("s", items, HoldOut(0, 2, sizes=(10, 1000)), seed=0)


def test_named_groups():
    splits = assign_splits("s", documents(4), HoldOut(("file1",), ("file3",)), seed=5)
    assert splits == {"file0": "train", "file1": "validation", "file2": "train", "file3": "test"}
    with pytest.raises(HoldOutError, match="no group 'nope'"):
        assign_splits("s", documents(4), HoldOut((), ("nope",)), seed=0)


def test_large_sources_are_cut_by_whole_training_groups(monkeypatch):
    monkeypatch.setattr("fblt.training.data.splits.MAX_SOURCE_BYTES", 800)
    splits = assign_splits("s", documents(20), HoldOut(2, 3), seed=0)
    assert list(splits.values()).count("test") == 3
    assert sum(len(d.text) for d in documents(20) if d.group in splits) <= 800


def test_repeated_documents_are_dropped():
    items = [Document("a", "x"), Document("b", "y"), Document("c", "x")]
    assert drop_repeated(items) == items[:2]


@pytest.fixture
def tiny_sources(monkeypatch, tmp_path):
    """One source whose package is a fake: the tools that would fetch and unpack it are replaced."""
    source = DemoSource(
        "tiny", ("pkg",), "CC0-1.0", "made here", ("none",), lambda root: iter(documents(20)), HoldOut(2, 3)
    )
    monkeypatch.setattr(prepare, "SOURCES", (source,))
    monkeypatch.setattr(prepare, "check_tools", lambda download: None)
    monkeypatch.setattr(prepare, "read_package", lambda name, folder: Package(name, "1.0-1", "ab" * 32, folder))

    def unpack(package, folder):
        notice = folder / "usr/share/doc/pkg/copyright"
        notice.parent.mkdir(parents=True)
        notice.write_text("free")

    monkeypatch.setattr(prepare, "unpack", unpack)
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "pkg_1.0-1_all.deb").touch()
    return folder


def test_data_set_and_manifest(tiny_sources, tmp_path):
    output = tmp_path / "out"
    arguments = ["demo", "--output", str(output), "--packages", str(tiny_sources), "--seed", "3"]
    succeed(prepare.main, *arguments)
    data = load_from_disk(str(output))
    groups = {split: set(data[split]["group"]) for split in data}
    assert [len(groups[split]) for split in ("train", "validation", "test")] == [15, 2, 3]
    assert len(set.union(*groups.values())) == 20
    assert data["test"].column_names == ["source", "group", "license", "split", "text"]
    assert set(data["test"]["split"]) == {"test"}

    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["seed"], manifest["script_version"]) == (3, prepare.SCRIPT_VERSION)
    (source,) = manifest["sources"]
    assert source["packages"] == [{"name": "pkg", "version": "1.0-1", "sha256": "ab" * 32}]
    assert source["license"] == "CC0-1.0"
    assert source["held_out_groups"]["test"] == sorted(groups["test"])
    sizes = sum(len(text.encode()) for text in data["test"]["text"])
    assert source["splits"]["test"] == {"documents": 6, "bytes": sizes}
    assert str(tmp_path) not in json.dumps(manifest)
    assert (output / "licenses/pkg.txt").read_text() == "free"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    assert "exists already" in refusal(prepare.main, *arguments)
    succeed(prepare.main, *arguments, "--overwrite")
    assert json.loads((output / "manifest.json").read_text()) == manifest


def test_failure_leaves_nothing_behind(tiny_sources, tmp_path, monkeypatch):
    def fail(*_):
        raise PackageError("no")

    monkeypatch.setattr(prepare, "unpack", fail)
    refusal(prepare.main, "demo", "--output", tmp_path / "out", "--packages", tiny_sources)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--seed", "-1"], "--seed -1"),
        (["--packages", "absent-folder"], "--packages absent-folder: no such folder"),
    ],
)
def test_wrong_arguments_are_named(tiny_sources, tmp_path, extra, message):
    arguments = ["demo", "--output", str(tmp_path / "out"), "--packages", str(tiny_sources), *extra]
    assert message in refusal(prepare.main, *arguments)


def test_missing_and_doubled_packages_are_named(tiny_sources, tmp_path):
    (tiny_sources / "pkg_2.0_all.deb").touch()
    with pytest.raises(PackageError, match="holds 2 files of package 'pkg'"):
        find_deb("pkg", tiny_sources)
    for path in tiny_sources.iterdir():
        path.unlink()
    assert "lacks pkg" in refusal(prepare.main, "demo", "--output", tmp_path / "out", "--packages", tiny_sources)


def test_issue_wants_are_in_the_table():
    rules = {source.name: source.hold_out for source in SOURCES}
    assert rules["python"].test >= 20 and rules["python"].validation >= 12
    assert all(source.licence and source.packages for source in SOURCES)
