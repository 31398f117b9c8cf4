"""Models made for timings: sizes, patches, and the transformers BLT that shares their weights."""

import pytest
import torch
from fblt.benchmarks.continuing import MOST_NEW, Prefix
from fblt.benchmarks.network_times import network_times, parameters_read
from fblt.benchmarks.random_models import geometry_1b, geometry_tiny, random_model, random_prompt
from fblt.benchmarks.transformers_blt import transformers_twin
from fblt.training.evaluation.traffic import component_parameters

from modeling_fblt import FBLTForCausalLM


def test_1b_geometry_has_the_paper_s_sizes():
    with torch.device("meta"):
        counts = component_parameters(FBLTForCausalLM(geometry_1b()))
    assert counts["global"] == pytest.approx(1.28e9, rel=0.01)
    assert counts["encoder"] == pytest.approx(19e6, rel=0.02)
    assert counts["decoder"] == pytest.approx(160e6, rel=0.02)
    assert counts["patcher"] == pytest.approx(100e6, rel=0.02)


def test_random_weights_have_the_scale_of_a_fresh_model():
    config = geometry_tiny(block_size=4)
    filled, fresh = random_model(config, torch.float32), FBLTForCausalLM(config)
    for (name, one), (_, other) in zip(filled.named_parameters(), fresh.named_parameters(), strict=True):
        if one.dim() > 1 and one.numel() >= 1000:
            assert one.std().item() == pytest.approx(other.std().item(), rel=0.15), name
        elif one.dim() == 1:
            assert torch.equal(one, other), name


@pytest.mark.parametrize("length", [3, 4])
def test_every_patch_has_the_length_asked_for(length):
    model = random_model(geometry_tiny(length), torch.float32)
    starts = model.patch(random_prompt(2, 40, seed=0)).patch_starts
    wanted = [0, *range(1, 41, length)]
    assert [row.nonzero()[:, 0].tolist() for row in starts] == [wanted, wanted]


def test_twin_computes_the_same_in_the_same_memory():
    model = random_model(geometry_tiny(decoder_input="encoder"), torch.float32)
    model.config.max_patch_length = None
    model.config.patching_threshold = float(model.patch(random_prompt(1, 60, seed=1)).entropies.median())
    twin = transformers_twin(model)
    assert twin.same_function
    ids = random_prompt(1, 30, seed=2)
    with torch.inference_mode():
        ours = model(ids, use_cache=False).logits[..., : model.config.mask_token_id]
        theirs = twin.model(ids, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    weight = model.model.global_transformer.layers[0].feed_forward.up_proj.weight
    assert twin.model.model.global_transformer.layers[0].mlp.up_proj.weight.data_ptr() == weight.data_ptr()


def test_twin_of_a_decoder_with_byte_embeddings_is_for_timing_only():
    model = random_model(geometry_tiny(block_size=4), torch.float32)
    twin = transformers_twin(model)
    assert not twin.same_function and "timing only" in twin.note
    assert model.config.decoder_config.input == "embedding"  # the model's own config stays as it is


def test_prefix_is_as_before_after_a_generation():
    model = random_model(geometry_tiny(block_size=6), torch.float64)
    ids = random_prompt(2, 30, seed=3)
    prefix = Prefix.read(model, ids)
    first = prefix.generate(model, 20, decoding="blt-dv").sequences
    assert prefix.cache.lengths.tolist() == [29, 29]
    assert torch.equal(prefix.generate(model, 20, decoding="ar").sequences, first)
    alone = model.generate(ids, decoding="ar", do_sample=False, max_new_tokens=20, eos_token_id=None)
    assert torch.equal(alone, first)
    with pytest.raises(ValueError, match="`new_bytes` is"):
        prefix.generate(model, MOST_NEW + 1, decoding="ar")


def test_networks_are_timed_as_often_as_the_engine_counts():
    model = random_model(geometry_tiny(), torch.float32)
    prefix = Prefix.read(model, random_prompt(1, 30, seed=4))
    ticks = iter(range(10**6))
    with network_times(model, lambda: next(ticks)) as times:
        output = prefix.generate(model, 9, decoding="ar")
    for name in ("patcher", "encoder", "global", "decoder"):
        assert len(times.seconds[name]) == int(getattr(output, f"{name}_nfe")), name
    assert len(times.seconds["pooling"]) == len(times.seconds["global"])
    assert "forward" not in vars(model.model.decoder)  # nothing stays behind


def test_parameters_read_add_up_to_the_components():
    model = random_model(geometry_tiny(), torch.float32)
    read, counts = parameters_read(model), component_parameters(model)
    assert read["encoder"] + read["pooling"] == counts["encoder"]
    assert read["decoder"] + read["head"] == counts["decoder"]
    assert (read["patcher"], read["global"]) == (counts["patcher"], counts["global"])
