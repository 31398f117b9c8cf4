"""The figures of streamed memory: what is summed up, and a run of the smallest size."""

import json

import pytest
from fblt.benchmarks import streaming

from tests.cli import succeed


def test_growth_is_that_of_the_second_half():
    notes = [{"bytes": 1e9 * i, "memory_mb": 100 + (50 if i < 10 else 3 * (i - 10))} for i in range(20)]
    found = streaming.summarise(notes)
    assert found["growth_mb_per_gb"] == pytest.approx(3)
    assert (
        streaming.summarise([{**note, "bytes": 1 + note["bytes"] / 1e6} for note in notes])["growth_mb_per_gb"] is None
    )
    assert (found["early_mb"], found["late_mb"], found["most_mb"]) == (150, 127, 150)


def test_a_run_reads_as_much_as_is_asked_for(tmp_path):
    sizes = ["--gigabytes", "0.004", "--shards", "4", "--shard-megabytes", "1", "--sequence-length", "256"]
    succeed(streaming.main, *sizes, "--output", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["text_bytes"] >= 4_000_000
    assert found["figures"]["reading"]["gigabytes"] == pytest.approx(0.004, rel=0.2)
