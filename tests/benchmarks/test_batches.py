"""The figures of batches: a quick run, rows that end early, scores against a naive reference. Nothing here is timed."""

import json

import pytest
import torch
from fblt.benchmarks import batches
from fblt.benchmarks.random_models import geometry_tiny, random_model, random_prompt

from tests.cli import succeed


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return random_model(geometry_tiny(), torch.float32)


@pytest.mark.slow
def test_a_quick_run(tmp_path):
    output = tmp_path / "results.json"
    succeed(batches.main, "--quick", "--plot", "--output", output)
    results = json.loads(output.read_text())
    assert output.with_suffix(".png").is_file()
    figures = results["figures"]
    assert list(figures["rows"]) == ["1", "4"] and figures["rows"]["1"]["to_one"] == 1
    early = {name: found["bytes"] for name, found in figures["early"].items()}
    assert early["none"] == 4 * 96 and early["half"] == early["half, rows stay"] < 0.7 * early["none"]
    assert figures["scoring"]["subword Llama"]["speed_to_subword"] == 1


def test_half_of_the_rows_end_early_and_the_others_write_what_they_would(model):
    ids, new = random_prompt(6, 20, seed=3), 104
    plain = model.generate(ids, max_new_tokens=new, decoding="ar", do_sample=False)
    bias = batches.ends_early(model, ids, new, 3)
    ended = model.generate(ids, max_new_tokens=new, decoding="ar", do_sample=False, sequence_bias=bias)
    written = (ended[:, 20:] != 0).sum(1).tolist()
    assert all(count <= new // batches.EARLY + 1 for count in written[:3]) and written[3:] == [new] * 3
    assert torch.equal(ended[3:], plain[3:])


@pytest.mark.parametrize("kind", ["FBLT", "Llama"])
def test_scores_are_those_of_each_text_alone(model, kind):
    judged = model if kind == "FBLT" else batches.subword_twin(10_000, 64)
    requests = batches.requests_of(7, range(40, 120), 4.0, seed=0)
    found = batches.score(judged, requests, rows=3)
    for score, (ids, count) in zip(found, requests, strict=True):
        with torch.no_grad():
            logits = judged(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        alone = sum(float(logits[place - 1, ids[place]]) for place in range(len(ids) - count, len(ids)))
        assert score == pytest.approx(alone, abs=1e-3)


def test_the_twin_has_as_many_parameters_outside_its_embeddings():
    twin = batches.subword_twin(600_000, 64)
    assert batches.outside_embeddings(twin) == pytest.approx(600_000, rel=0.1)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight


def test_ratios_are_taken_within_turns():
    turns = {
        "rows": {1: [{"seconds": 1.0, "bytes": 8}, {"seconds": 4.0, "bytes": 8}]},
        "early": {
            "none": [{"seconds": 2.0, "bytes": 8}, {"seconds": 8.0, "bytes": 8}],
            "half": [{"seconds": 1.0, "bytes": 4}, {"seconds": 4.0, "bytes": 4}],
        },
        "prefill": {512: [1.0, 2.0]},
        "scoring": {"FBLT": [1.0, 2.0], "subword Llama": [2.0, 4.0]},
    }
    turns["rows"][4] = [{"seconds": 2.0, "bytes": 32}, {"seconds": 8.0, "bytes": 32}]
    figures = batches.combine(turns)
    assert figures["rows"][4]["to_one"] == 2 and figures["early"]["half"]["to_none"] == 0.5
    assert figures["prefill"][512]["bytes_per_second"] == 512 / 1.5
    assert figures["scoring"]["FBLT"]["speed_to_subword"] == 2
