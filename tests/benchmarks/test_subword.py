"""The comparison with a subword model: a quick run, the tokenizer's measure, ratios. Nothing here is timed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from fblt.benchmarks import subword
from fblt.benchmarks.batches import VOCABULARY, outside_embeddings
from fblt.benchmarks.random_models import geometry_tiny, random_model
from fblt.training.data.restore.damage import damage

from modeling_fblt.configuration_fblt import BYTE_OFFSET
from tests.cli import succeed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    random_model(geometry_tiny(block_size=6), torch.float32).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("geometry", [None, "tiny"])
def test_a_quick_run(tmp_path, checkpoint, geometry):
    output = tmp_path / "results.json"
    shape = ["--geometry", geometry] if geometry else []
    only = ["--only", "ar at 0.7", "--only", "blt-dv one-step"]
    # Without data, whatever a user of this clone has prepared.
    where = ["--data", tmp_path / "none", "--output", output]
    succeed(subword.main, "--quick", "--model", checkpoint, *shape, *only, *where)
    results = json.loads(output.read_text())
    figures = results["figures"]
    at = [] if geometry else [" at 0.7"]
    llamas = [f"Llama, {cache} cache{end}" for end in ("", *at) for cache in ("dynamic", "static")]
    assert set(figures) == {"ar", *(f"ar{end}" for end in at), "blt-dv one-step", *llamas}
    assert max(figures[name]["to_subword"] for name in llamas) == 1 == figures["ar"]["bytes_per_iteration"]
    assert 1 <= figures["blt-dv one-step"]["bytes_per_iteration"] <= 6
    assert results["bytes_per_token"] == 4 and "assumed" in results["bytes_per_token_source"]


def test_lines_to_restore_are_long_enough_and_damaged_in_turn(tmp_path):
    lines = ["Été, à la mer.", "Où est le café de la gare, s'il vous plaît ?", "L'été, les élèves vont à la montagne."]
    DatasetDict({"test": Dataset.from_dict({"text": lines})}).save_to_disk(str(tmp_path))
    options = SimpleNamespace(data=tmp_path, split="test", new_bytes=30, prompts=9, seed=0)
    prompts = subword.lines_to_restore(options)
    assert [prompt.source for prompt in prompts] == ["restored"] * 2  # the first line is too short

    def text(ids) -> str:
        return bytes(int(value) - BYTE_OFFSET for value in ids if value >= BYTE_OFFSET).decode()

    for prompt, kind in zip(prompts, ("accents", "plain"), strict=True):
        line = text(prompt.reference)
        assert line in lines[1:] and text(prompt.ids) == damage(line, kind, np.random.default_rng(0)) + "\n"
    options.new_bytes = 500
    with pytest.raises(ValueError, match="new-bytes"):
        subword.lines_to_restore(options)


def test_bytes_of_a_token_are_measured_on_other_texts_than_the_tokenizer_saw():
    training = ["hello " * 50, "there " * 50]
    assert subword.measured_bytes_per_token(training, ["hello hello there "]) > 4
    assert subword.measured_bytes_per_token(training, ["zqx"]) == 1


def test_the_twin_is_as_large_and_has_the_vocabulary():
    model = random_model(geometry_tiny(), torch.float32)
    twin = subword.build_twin(model, torch.float32)
    assert twin.config.vocab_size == VOCABULARY and all(p.isfinite().all() for p in twin.parameters())
    layer = outside_embeddings(twin) / twin.config.num_hidden_layers
    assert abs(outside_embeddings(twin) - outside_embeddings(model)) <= layer


def test_speeds_are_compared_with_the_faster_cache_at_the_same_temperature():
    def turns(*speeds):
        return [{"bytes_per_second": speed, "acceptance": None} for speed in speeds]

    found = subword.combine(
        {
            "ar": turns(10, 40),
            "ar at 0.7": turns(10, 10),
            "Llama, dynamic cache": turns(10, 20),
            "Llama, static cache": turns(5, 80),
            "Llama, dynamic cache at 0.7": turns(20, 20),
            "Llama, static cache at 0.7": turns(1, 1),
        }
    )
    assert found["ar"]["to_subword"] == (10 / 5 + 40 / 80) / 2 and found["ar"]["bytes_per_second"] == 25
    assert found["ar at 0.7"]["to_subword"] == 0.5 and found["Llama, static cache"]["to_subword"] == 1
