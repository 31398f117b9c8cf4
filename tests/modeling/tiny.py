# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Tiny random models for the tests: every window is short enough to matter, and boundaries fall at random."""

from typing import Any

import torch

from modeling_fblt.configuration_fblt import BOS_ID, EOS_ID, FBLTConfig
from modeling_fblt.modeling_fblt import FBLTForCausalLM

# The windows differ, so that a mix-up of two networks shows.
PATCHER_WINDOW, ENCODER_WINDOW, DECODER_WINDOW = 8, 9, 10
LONGEST_PATCH = 5
BLOCK = 5


def tiny_config(decoder_input: str = "embedding", **changes: Any) -> FBLTConfig:
    """A config of width 32; `changes` are top-level fields."""
    network = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    settings = {
        "patcher_config": {**network, "sliding_window": PATCHER_WINDOW},
        "encoder_config": {**network, "sliding_window": ENCODER_WINDOW, "hash_vocab_size": 61, "hash_functions": 2},
        "global_config": {**network, "hidden_size": 48},
        "decoder_config": {**network, "sliding_window": DECODER_WINDOW, "input": decoder_input},
        "max_patch_length": LONGEST_PATCH,
        "block_size": BLOCK,
    }
    return FBLTConfig(**{**settings, **changes})


def random_rows(batch: int, length: int, seed: int = 0, alphabet: int = 256) -> torch.Tensor:
    """Rows of random bytes after `<s>`, `[batch, length]`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, alphabet, (batch, length), generator=generator) + 4
    ids[:, 0] = BOS_ID
    return ids


def packed_row(*lengths: int, seed: int = 0) -> torch.Tensor:
    """One row `[1, sum(lengths)]` of documents of these lengths, each from `<s>` to `</s>`."""
    ids = random_rows(1, sum(lengths), seed)
    end = 0
    for length in lengths:
        ids[0, end] = BOS_ID
        end += length
        ids[0, end - 1] = EOS_ID
    return ids


def tiny_model(
    seed: int = 0, dtype: torch.dtype = torch.float64, boundary_share: float = 0.3, **changes: Any
) -> FBLTForCausalLM:
    """A random model in eval mode whose patcher ends a patch after about `boundary_share` of random bytes."""
    torch.manual_seed(seed)
    model = FBLTForCausalLM(tiny_config(**changes)).to(dtype).eval()
    if model.config.patching_mode == "entropy":
        entropies = model.patch(random_rows(4, 100, seed=seed + 1000)).entropies.flatten().sort().values
        place = int((1 - boundary_share) * len(entropies))
        # Between two entropies, so that none equals the threshold and rounding decides nothing.
        model.config.patching_threshold = float(entropies[place : place + 2].mean())
    return model
