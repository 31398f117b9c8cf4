"""Turns, ratios and arrival times of the timing scripts, against figures made by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fblt.benchmarks.harness import (
    POSITIVE,
    REPOSITORY,
    Listed,
    Stopwatch,
    benchmark,
    interleave,
    option,
    paired_ratio,
    start,
    summary_of,
)

from tests.cli import refusal


def test_candidates_take_turns():
    order = []
    results = interleave({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 3)
    assert order == list("ababab")
    assert results == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_paired_ratio_is_not_moved_by_a_machine_that_slows_down():
    baseline = [1.0, 2.0, 9.0]
    assert paired_ratio(baseline, [0.5, 1.0, 4.5]) == 2.0
    # One disturbed repetition does not count.
    assert paired_ratio(baseline, [0.5, 1.0, 900.0]) == 2.0


def test_stopwatch_leaves_the_prompt_and_the_first_round_out():
    times = iter([0.0, 5.0, 6.0, 8.0, 8.5])
    stopwatch = Stopwatch(lambda: next(times))
    for count in (7, 1, 3, 2, 4):
        stopwatch.put(torch.zeros(count))
    assert (stopwatch.seconds(), stopwatch.bytes()) == (3.5, 9)
    assert (stopwatch.seconds(skip=0), stopwatch.bytes(skip=0)) == (8.5, 10)
    assert (stopwatch.seconds(drop=1), stopwatch.bytes(drop=1)) == (3.0, 5)


def options(*arguments: str) -> SimpleNamespace:
    """What a command line gives a script."""
    command = benchmark("Title.\nMore.", "name", repetitions=2, dtype="float32")(lambda found: found)
    return command.main(list(arguments), standalone_mode=False)


def test_lists_stand_between_commas():
    @benchmark("Title.", "name", repetitions=2, dtype="float32")
    @option("--lengths", type=Listed(POSITIVE), default=[1, 2])
    def command(found: SimpleNamespace) -> list[int]:
        return found.lengths

    assert command.main([], standalone_mode=False) == [1, 2]
    assert command.main(["--lengths", "512,4"], standalone_mode=False) == [512, 4]
    assert "'x' is not a valid integer" in refusal(command, "--lengths", "3,x")


def test_results_say_what_they_were_measured_on():
    results = start(options())
    assert json.loads(json.dumps(results)) == results
    assert results["machine"]["threads"] == torch.get_num_threads()
    assert results["machine"]["torch"] in summary_of(results["machine"], "float32", "wall")
    assert "processor time" in summary_of(results["machine"], "float32", "cpu")


def test_processor_time_of_several_threads_is_refused():
    before = torch.get_num_threads()
    try:
        with pytest.raises(ValueError, match="`--clock cpu` with 2 threads.*`--threads 1`"):
            start(options("--clock", "cpu", "--threads", "2"))
    finally:
        torch.set_num_threads(before)


def test_a_path_in_the_repository_is_kept_without_where_that_stands():
    given = options()
    given.inside, given.outside = REPOSITORY / "benchmarks/results/a.csv", Path("/elsewhere/b.csv")
    settings = start(given)["settings"]
    assert settings["inside"] == "benchmarks/results/a.csv" and settings["outside"] == "/elsewhere/b.csv"
