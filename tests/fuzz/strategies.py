# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Random configurations, rows and decoding settings."""

import torch
from hypothesis import strategies as st

from modeling_fblt.configuration_fblt import MASK_ID, FBLTConfig
from modeling_fblt.modeling_fblt import FBLTForCausalLM


@st.composite
def networks(draw, width: int, local: bool) -> dict:
    heads = draw(st.sampled_from([1, 2, 4]))
    fields = {
        "hidden_size": width,
        "num_hidden_layers": draw(st.integers(1, 2)),
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([None, 1, heads])),
        "head_dim": draw(st.sampled_from([None, 4])),
        "intermediate_size": 24,
    }
    return fields | ({"sliding_window": draw(st.integers(2, 12))} if local else {})


@st.composite
def configs(draw) -> FBLTConfig:
    """All fields that change what is computed: windows smaller than blocks are, any patching, any decoder input."""
    width, wide = draw(st.sampled_from([16, 24])), draw(st.sampled_from([16, 32]))
    entering = draw(st.sampled_from(["embedding", "encoder"]))
    parts = {name: draw(networks(width, True)) for name in ("patcher_config", "encoder_config", "decoder_config")}
    for name in ("encoder_config", "decoder_config"):
        parts[name] |= {
            "cross_attn_all_layers": draw(st.booleans()),
            "cross_attn_num_heads": draw(st.sampled_from([None, 1, 2])),
        }
    parts["encoder_config"] |= {
        "hash_ngram_sizes": draw(st.sampled_from([[], [2], [3, 5], [8, 3]])),
        "hash_functions": draw(st.integers(0, 2)),
        "hash_vocab_size": 31,
    }
    parts["decoder_config"]["input"] = entering
    block = draw(st.one_of(st.none(), st.integers(2, parts["decoder_config"]["sliding_window"])))
    head = draw(st.booleans()) and block is not None
    return FBLTConfig(
        **parts,
        global_config=draw(networks(wide, False)),
        cross_attn_k=draw(st.integers(1, 3)),
        patching_mode=draw(st.sampled_from(["entropy", "entropy", "static", "space"])),
        patch_size=draw(st.integers(1, 5)),
        max_patch_length=draw(st.sampled_from([None, 1, 2, 5])),
        isolate_documents=draw(st.booleans()),
        block_size=block,
        draft_head_config={"hidden_size": 8} if head else None,
    )


def make_model(config: FBLTConfig, seed: int) -> FBLTForCausalLM:
    """Random weights in float64, and a threshold that ends about a third of the patches of random bytes."""
    torch.manual_seed(seed)
    model = FBLTForCausalLM(config).double().eval().requires_grad_(False)
    if model.draft_head is not None:  # fresh, it corrects nothing
        torch.nn.init.normal_(model.draft_head.output_projection.weight, std=0.5)
    if config.patching_mode == "entropy":
        entropies = model.patch(torch.randint(4, MASK_ID, (2, 60))).entropies.flatten().sort().values
        model.config.patching_threshold = float(entropies[80:82].mean())
    return model


# Mostly bytes, of a small alphabet so that n-grams repeat; now and then a special id, `<mask>` too.
ids = st.one_of(
    st.integers(4, 259), st.integers(100, 104), st.integers(100, 104), st.sampled_from([0, 1, 2, 3, MASK_ID])
)
rows = st.lists(st.lists(ids, min_size=1, max_size=18), min_size=1, max_size=3)


@st.composite
def verified(draw, config: FBLTConfig) -> dict:
    """Settings of a decoding that writes what `ar` writes."""
    decoding = draw(st.sampled_from(["ar", "blt-s"] + ["blt-dv"] * (config.block_size is not None)))
    settings: dict = {"decoding": decoding, "draft_cost": 0.3}
    if decoding == "blt-s":
        settings["draft_length"] = draw(st.one_of(st.integers(1, 12), st.just("auto")))
    if decoding == "blt-dv":
        settings["block_size"] = draw(st.one_of(st.none(), st.integers(2, config.block_size), st.just("auto")))
        settings["unmasking"] = draw(st.sampled_from(["one_step", "sequential", "confidence", "entropy"]))
        settings["confidence_threshold"] = draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
        settings["entropy_bound"] = draw(st.sampled_from([0.0, 8.0, 1e6]))
        settings["block_anchor"] = draw(st.sampled_from(["byte", "patch"]))
        settings["draft_head"] = draw(st.sampled_from([None, False]))
    if decoding != "ar":
        settings["refine_steps"] = draw(st.sampled_from([0, 0, 1, 3, "auto"]))
        settings["draft_confidence"] = draw(st.sampled_from([None, None, 0.02]))
        if not (decoding == "blt-s" and settings["refine_steps"] != 0):
            settings["paper_passes"] = draw(st.booleans())
    if draw(st.booleans()):
        settings["prompt_lookup_num_tokens"] = draw(st.integers(1, 9))
        settings["max_matching_ngram_size"] = draw(st.sampled_from([None, 1, 2, 20]))
    return settings


@st.composite
def shaping(draw) -> dict:
    """Settings that change the text, of every decoding alike."""
    settings: dict = {"eos_token_id": draw(st.sampled_from([MASK_ID, 2, [2, 101], list(range(4, 60))]))}
    extra = draw(st.sampled_from(["none", "none", "utf8", "penalty", "suppress", "least", "bias"]))
    more = {
        "utf8": {"valid_utf8": True},
        # Penalties count `<pad>` in the columns before shorter rows, as transformers' do, so it must not be written.
        "penalty": {"repetition_penalty": 1.7, "suppress_tokens": [0]},
        "suppress": {"suppress_tokens": list(range(120, 260))},
        "least": {"min_new_tokens": 4},
        "bias": {"sequence_bias": {(101, 102): 9.0, (103,): 3.0}},
    }
    return settings | more.get(extra, {})
