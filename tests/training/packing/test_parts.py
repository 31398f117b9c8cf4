"""Rows that several machines pack in parts are those that one packs, bit for bit."""

import shutil
from dataclasses import replace

import pytest
from fblt.training.packing import build
from fblt.training.packing.build import pack_corpus
from fblt.training.packing.parts import Part

from tests.training.packing.packs import ROW_BYTES, contents


@pytest.fixture
def whole(options, tmp_path) -> dict[str, bytes]:
    pack_corpus(options(output=tmp_path / "whole" / "packed"), ROW_BYTES)
    return contents(tmp_path / "whole" / "packed")


def test_parts_in_any_order_are_the_whole(options, whole, tmp_path, monkeypatch):
    given = options()
    for number in (3, 1, 2):
        assert pack_corpus(replace(given, part=Part(number, 3)), ROW_BYTES) is None
        assert not given.output.exists()
    made = []
    monkeypatch.setattr(build, "make_shards", _noting(build.make_shards, made))
    pack_corpus(given, ROW_BYTES)
    assert made == [0]  # nothing was left to do but to join
    assert contents(given.output) == whole
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".packed")]


def _noting(make_shards, made: list[int]):
    def noting(packer, shards, workers):
        made.append(sum(not shard.folder(packer.work).is_dir() for shard in shards))
        make_shards(packer, shards, workers)

    return noting


def test_what_no_part_has_is_made_when_they_are_joined(options, whole, tmp_path):
    given = options()
    pack_corpus(replace(given, part=Part(2, 3)), ROW_BYTES)
    pack_corpus(given, ROW_BYTES)
    assert contents(given.output) == whole


def test_parts_of_other_rows_are_refused_and_kept(options, tmp_path):
    other = options(seed=1, part=Part(1, 2))
    pack_corpus(other, ROW_BYTES)
    before = contents(other.part.folder(other.output))
    with pytest.raises(ValueError, match=r"part of rows that differ in .*seed"):
        pack_corpus(options(), ROW_BYTES)
    assert contents(other.part.folder(other.output)) == before
    shutil.rmtree(other.part.folder(other.output))
    pack_corpus(options(), ROW_BYTES)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "-1/2", "1/"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ValueError, match="`--part`"):
        Part.parse(text)
