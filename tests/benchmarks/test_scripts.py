"""The timing scripts at their smallest sizes, and the pure functions behind their figures. Nothing here is timed."""

import csv
import json
from pathlib import Path

import pytest
import torch
from fblt.benchmarks import decoding, geometry, replay, scaling
from fblt.benchmarks.continuing import Prefix
from fblt.benchmarks.decoding_modes import ANY_MODEL, SAMPLED, WITH_BLOCKS, WITH_HEAD, modes_of
from fblt.benchmarks.profiling import profile_generation
from fblt.benchmarks.random_models import geometry_tiny, random_model, random_prompt
from fblt.benchmarks.variants import build_variant

from modeling_fblt import FBLTForCausalLM
from tests.cli import succeed

PAPER_RESULTS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "paper_results.csv"
PNG = b"\x89PNG"


def run(script, tmp_path, *arguments: str) -> dict:
    """A quick run with a figure; what stands in its JSON file."""
    output = tmp_path / "results.json"
    succeed(script.main, "--quick", "--plot", "--output", output, *arguments)
    assert output.with_suffix(".png").read_bytes()[:4] == PNG
    results = json.loads(output.read_text())
    assert results["machine"]["threads"] == torch.get_num_threads()
    return results


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    random_model(geometry_tiny(block_size=6), torch.float32).save_pretrained(folder)
    return str(folder)


def test_geometry(tmp_path):
    results = run(geometry, tmp_path)
    parts = results["figures"]["parts"]
    assert set(parts) == {"patcher", "encoder", "pooling", "global", "decoder", "head"}
    assert parts["global"]["calls_per_byte"] == 0.25 and parts["decoder"]["calls_per_byte"] == 1
    assert len(results["runs"]["ar"]) == len(results["runs"]["transformers"]) == 2


def test_geometry_figures_by_hand():
    call = dict.fromkeys(geometry.PARTS, 0.5)
    turn = {"seconds_per_byte": 4.0, "call_seconds": call, "calls_per_byte": dict.fromkeys(geometry.PARTS, 1.0)}
    runs = {"gemv": [{"mv": 2.0, "linear": 8.0}] * 3, "ar": [turn] * 3, "transformers": [12.0] * 3}
    figures = geometry.combine(runs, dict.fromkeys(geometry.PARTS, 1_000_000_000), itemsize=2)
    part = figures["parts"]["decoder"]  # 2 GB in half a second, where the machine reads 8 GB a second
    assert (part["gb_per_second"], part["share_of_gemv"]) == (4.0, 0.5)
    # Six parts of 2 GB would take 1.5 s at full speed; they take 3 s in their calls and 4 s in all.
    assert figures["ar"]["share_of_gemv"] == 1.5 / 4
    assert figures["ar"]["outside_networks"] == 0.25
    assert figures["ar_speed_to_transformers"] == 3.0


def test_scaling(tmp_path):
    results = run(scaling, tmp_path)
    assert [(f["batch"], f["position"]) for f in results["figures"]][:3] == [(1, 64), (1, 256), (1, 2048)]
    for figures in results["figures"]:
        # The formula, for the entries held, is the cache's own count, but for a few integers more.
        for key, value in figures["formula_held"].items():
            assert figures["cache"][key] == pytest.approx(value, rel=0.05)
        assert figures["formula_used"]["bytes"] <= figures["cache"]["bytes"]
        assert figures["cache"]["patches"] == pytest.approx(figures["position"] / 4, abs=2)
    long, short = (next(f for f in results["figures"] if f["position"] == p) for p in (2048, 256))
    assert long["formula_used"]["patch_bytes"] > 7 * short["formula_used"]["patch_bytes"]


def test_byte_part_of_the_cache_stops_growing():
    model = random_model(geometry_tiny(), torch.float32)
    positions = [2048, 4096, 6144]
    read = scaling.prefixes(model, random_prompt(1, positions[-1], seed=0), positions)
    memory = [scaling.measured_memory(read[position].cache) for position in positions]
    bound = read[positions[-1]].cache.most_columns + 512
    assert all(held["columns"] <= bound for held in memory)
    assert memory[0]["byte_bytes"] == memory[2]["byte_bytes"]
    assert memory[0]["patches"] < memory[1]["patches"] < memory[2]["patches"]


def test_replay(tmp_path):
    results = run(replay, tmp_path, "--only", "blt-dv 8,blt-s 8,blt-d 8", "--patch-lengths", "table")
    assert "REPLAY" in results["label"]
    (modes,) = results["patch_lengths"].values()
    assert set(modes) == {
        "ar",
        "blt-s 8",
        "blt-s 8, two calls",
        "blt-d 8",
        "blt-dv 8",
        "blt-dv 8, two calls",
        "blt-dv 8, 2 passes",
    }
    assert modes["ar"]["calls_per_byte"]["global"] == pytest.approx(308 / 512, abs=0.05)
    one, two = (modes[name]["calls_per_byte"] for name in ("blt-dv 8", "blt-dv 8, two calls"))
    assert one["decoder"] == pytest.approx(two["decoder"], rel=0.1)
    assert two["global"] == pytest.approx(2 * one["global"], rel=0.1)
    # The same draws of the same length: one mode accepts what the other does.
    assert modes["blt-dv 8"]["acceptance"] == pytest.approx(modes["blt-dv 8, two calls"]["acceptance"], rel=0.02)


@pytest.mark.parametrize(("share", "drafted"), [(0.8463, 8), (0.6033, 16), (0.9493, 4), (1.0, 3)])
def test_accepted_bytes_have_the_table_s_mean(share, drafted):
    chance = replay.acceptance_probability(share, drafted)
    assert sum(chance**i for i in range(1, drafted + 1)) == pytest.approx(share * drafted)
    verdicts = replay.Verdicts(replay.Script("any", {}, drafted, share))
    counts = [replay.accepted_bytes(chance, drafted, verdicts.draw()) for _ in range(200)]
    assert set(counts) <= set(range(drafted + 1))
    assert sum(counts) / len(counts) == pytest.approx(share * drafted, rel=0.03)


def test_scripted_unmasking_takes_the_steps_asked_for():
    verdicts = replay.Verdicts(replay.Script("any", {}, 8, steps=2.5))
    taken = []
    for _ in range(40):
        masked, steps = torch.tensor([[False] + [True] * 8]), 0
        while bool(masked.any()):
            now = verdicts.unmask(torch.rand(1, 9, 4), masked)
            assert bool((now & ~masked).sum() == 0)
            masked, steps = masked & ~now, steps + 1
        taken.append(steps)
    assert set(taken) == {2, 3}
    assert sum(taken) / len(taken) == pytest.approx(2.5, abs=0.1)


def test_scripted_patches_are_as_long_as_asked_for():
    starts = replay.spread_starts(torch.arange(1, 513), 512 / 308)
    assert int(starts.sum()) == pytest.approx(308, abs=1)
    assert replay.spread_starts(torch.arange(1, 9), 4.0).tolist() == [False, False, False, True] * 2


def test_engine_is_itself_again_after_a_replay():
    model = random_model(geometry_tiny(block_size=6), torch.float64)
    prefix = Prefix.read(model, random_prompt(1, 30, seed=0))
    plain = prefix.generate(model, 20, decoding="ar").sequences
    script = replay.Script("blt-dv", {"decoding": "blt-dv"}, 5, 0.9)
    with replay.scripted(script, 4.0):
        scripted = prefix.generate(model, 20, **script.settings)
    assert int(scripted.accepted) > 0
    assert torch.equal(prefix.generate(model, 20, decoding="blt-dv").sequences, plain)


def test_rows_in_the_script_are_the_paper_s():
    if not PAPER_RESULTS.is_file():
        pytest.skip(f"the paper's results are not at {PAPER_RESULTS}")
    read = replay.read_rows(PAPER_RESULTS, "3B", "fr-en")
    assert set(replay.PAPER_ROWS) <= set(read)
    assert replay.scripts(read) == replay.scripts(replay.PAPER_ROWS)
    assert [row[0] for row in replay.read_rows(PAPER_RESULTS, "1B", "mbpp")][0] == "BLT"


def test_replay_refuses_tables_without_plain_decoding(tmp_path):
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(["size", "task", "model", "method", "setting", "acceptance_pct"])
    with pytest.raises(ValueError, match="has no plain decoding of 3B on fr-en"):
        replay.read_rows(path, "3B", "fr-en")
    with pytest.raises(ValueError, match="give `--results`"):
        replay.read_rows(None, "1B", "mbpp")


def test_decoding(tmp_path, checkpoint):
    results = run(decoding, tmp_path, "--model", checkpoint, "--data", str(tmp_path / "none"))
    assert results["source"] == "bundled"
    greedy = {*ANY_MODEL, *WITH_BLOCKS}
    sampled = {f"{name} at {temperature}" for name in greedy & set(SAMPLED) for temperature in (0.7, 1.0)}
    assert set(results["modes"]) == {*greedy, *sampled, "transformers"}
    for name, same in results["equality"].items():
        assert same["equal"] == same["prompts"] or all(d["near_tie"] for d in same["differences"]), name
    verified = {name for name in greedy if name.startswith(("blt-s", "blt-dv"))} | {"ar, lookup"}
    assert set(results["equality"]) == verified
    assert results["modes"]["blt-s 8 at 0.7"]["settings"]["temperature"] == 0.7
    one, two = (
        results["modes"][name]["global_calls_per_iteration"] for name in ("blt-dv one-step", "blt-dv two calls")
    )
    assert one <= 1 < two


def test_modes_are_those_that_a_model_serves_and_a_user_asks_for(checkpoint):
    model = FBLTForCausalLM.from_pretrained(checkpoint)
    assert not any("head" in name for name in modes_of(model))
    model.add_draft_head(hidden_size=4)
    modes = modes_of(model)
    assert {*WITH_HEAD} < {*modes} and {f"{name} at 1.0" for name in SAMPLED} < {*modes}
    chosen = modes_of(model, ["blt-dv head*at 0.7", "blt-s 4"])
    assert {"ar", "ar at 0.7", "blt-s 4", "blt-dv head, 1 pass at 0.7"} < set(chosen) < set(modes)
    assert "ar at 1.0" not in chosen and chosen == {name: modes[name] for name in chosen}
    with pytest.raises(ValueError, match="--only 'blt-x': fits none of ar, "):
        modes_of(model, ["blt-x"])


def test_decoding_figures_by_hand():
    calls = {"patcher": 8, "encoder": 8, "global": 4, "decoder": 10}
    plain = {"seconds": 4.0, "bytes": 8, "calls": calls, "iterations": 8, "drafted": 0, "accepted": 0}
    fast = plain | {"seconds": 1.0, "iterations": 2, "drafted": 8, "accepted": 6}
    slow = plain | {"seconds": 2.0}
    runs = {
        "ar": [plain] * 3,
        "blt-s": [fast] * 3,
        "ar at 0.7": [slow] * 3,
        "blt-s at 0.7": [fast] * 3,
        "transformers": [{"seconds": 8.0, "bytes": 2}] * 3,
    }
    parameters = {"patcher": 0, "encoder": 0, "global": 10**6, "decoder": 10**6}
    figures = decoding.combine(runs, {}, parameters)
    assert figures["blt-s"]["speed_to_ar"] == 4.0
    assert figures["blt-s at 0.7"]["speed_to_ar"] == 2.0  # of plain decoding at that temperature
    assert figures["transformers"]["speed_to_ar"] == 0.125
    assert (figures["blt-s"]["bytes_per_iteration"], figures["blt-s"]["acceptance"]) == (4.0, 0.75)
    assert figures["ar"]["traffic_mb_per_byte"] == pytest.approx(2 * 14 / 8)


def test_sums_over_prompts():
    turns = {"a": lambda number: {"seconds": number + 1.0, "calls": {"global": number}}}
    assert decoding.take_turns(turns, 3, 2) == {"a": [{"seconds": 6.0, "calls": {"global": 3}}] * 2}


class Unmakeable(torch.nn.Module):
    def __deepcopy__(self, memo):
        raise RuntimeError("no room here")


def test_a_variant_that_fails_says_why():
    variant = build_variant("compile", Unmakeable(), lambda model: None)
    assert variant.model is None and variant.error == "RuntimeError: no room here"


def test_profile_names_networks_and_operators():
    model = random_model(geometry_tiny(), torch.float32)
    prefix = Prefix.read(model, random_prompt(1, 20, seed=0))
    ticks = iter(range(10**6))
    found = profile_generation(lambda: prefix.generate(model, 5, decoding="ar"), model, lambda: next(ticks))
    assert (found["iterations"], found["calls"]["decoder"]) == (5, 5)
    # The clock ticks twice per call of a network, and once at either end.
    assert found["seconds"] == 2 * sum(found["calls"].values()) + 1
    assert "aten::" in found["operators"]
