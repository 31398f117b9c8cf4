# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Layers, against the same arithmetic written out one position at a time."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt.counting_fblt import counting
from modeling_fblt.hash_embedding_fblt import HASH_PRIMES, hash_ngrams, ngram_powers
from modeling_fblt.layers_fblt import (
    FBLTLatentReading,
    FBLTPooling,
    FBLTRotaryEmbedding,
    rotate,
)
from tests.modeling.tiny import tiny_config


def wrap(value: int) -> int:
    """An integer as int64 arithmetic leaves it."""
    return (value + 2**63) % 2**64 - 2**63


def naive_hash(row: list[int], end: int, reach: int, size: int, prime: int, rows: int) -> int:
    """Row of the table for the n-gram of `size` bytes that ends at `end` and looks back `reach` bytes at most."""
    ngram = [row[end - back] if back <= min(reach, end) else 0 for back in reversed(range(size))]
    return wrap(sum(wrap(token * prime**power) for power, token in enumerate(ngram))) % rows


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    row=st.lists(st.integers(0, 260), min_size=1, max_size=14),
    sizes=st.lists(st.integers(2, 8), min_size=1, max_size=4, unique=True),
    functions=st.integers(1, len(HASH_PRIMES)),
    rows=st.sampled_from([7, 61, 500002]),
    data=st.data(),
)
def test_hash_ngrams_equal_big_integers_wrapped_to_64_bits(row, sizes, functions, rows, data):
    reach = data.draw(st.lists(st.integers(0, 13), min_size=len(row), max_size=len(row)))
    ids = torch.tensor([[0] * (max(sizes) - 1) + row])
    index = hash_ngrams(ids, torch.tensor([reach])[..., None], ngram_powers(sizes, functions), rows)
    expected = [
        [naive_hash(row, end, reach[end], size, prime, rows) for prime in HASH_PRIMES[:functions] for size in sizes]
        for end in range(len(row))
    ]
    assert index[0].tolist() == expected


def test_rotary_turns_interleaved_pairs_by_the_position():
    config = tiny_config().decoder_config
    position, x = torch.tensor([[0, 3, 1000]]), torch.randn(1, 2, 3, 16, dtype=torch.float64)
    turned = rotate(x, FBLTRotaryEmbedding(config)(x, position))
    for pair in range(8):
        angle = position[0] * config.rope_parameters["rope_theta"] ** (-2 * pair / 16)
        turn = torch.polar(torch.ones(3, dtype=torch.float64), angle.double())
        expected = torch.view_as_complex(x[..., 2 * pair : 2 * pair + 2].contiguous()) * turn
        # The frequencies are float32.
        torch.testing.assert_close(
            turned[..., 2 * pair : 2 * pair + 2], torch.view_as_real(expected), atol=1e-3, rtol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_positions_known_on_the_host_are_looked_up_as_they_would_be_computed(dtype):
    rotary, x = FBLTRotaryEmbedding(tiny_config().decoder_config), torch.empty(0, dtype=dtype)
    longest = rotary.max_seq_len_cached
    with torch.no_grad():
        for first, end in ((0, 1), (5, 30), (1000, 1100), (longest - 3, longest), (longest - 1, longest + 4)):
            known = counting(end, x.device, start=first).expand(3, -1)
            pair = (rotary(x, positions) for positions in (known, known.clone()))
            found, computed = (part if isinstance(part, tuple) else (part,) for part in pair)
            for part, own in zip(found, computed, strict=True):
                torch.testing.assert_close(part.expand_as(own), own, atol=0, rtol=0)
        assert rotary.table.made is not None and deepcopy(rotary).table.made is None
        rotary.inv_freq.mul_(2)
        positions = counting(9, x.device)[None]
        torch.testing.assert_close(rotary(x, positions), rotary(x, positions.clone()), atol=0, rtol=0)


def naive_cross_attention(module, query: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """`2 x + W_o attn(.)` of one query `[width]` over all of `source` `[length, width]`."""
    q = module.q_proj(module.query_norm(query)).view(module.num_heads, -1)
    k = module.k_proj(module.key_norm(source)).view(len(source), module.num_heads, -1)
    v = module.v_proj(module.key_norm(source)).view(len(source), module.num_heads, -1)
    heads = [torch.softmax(k[:, h] @ q[h] * q.shape[1] ** -0.5, 0) @ v[:, h] for h in range(module.num_heads)]
    return 2 * query + module.o_proj(torch.cat(heads))


def test_pooling_equals_attention_over_each_patchs_bytes_alone():
    torch.manual_seed(0)
    module = FBLTPooling(tiny_config().encoder_config).double()
    slots, bytes_ = torch.randn(2, 3, 2, 32).double(), torch.randn(2, 9, 32).double()
    patch = torch.tensor([[0, 0, 0, 1, 2, 2, 3, 3, 3], [0, 1, 1, 1, 1, 2, 2, 2, 3]])  # 3: of no patch
    pooled = module(slots, bytes_, patch)
    for row in range(2):
        for p in range(3):
            for slot in range(2):
                expected = naive_cross_attention(module, slots[row, p, slot], bytes_[row, patch[row] == p])
                torch.testing.assert_close(pooled[row, p, slot], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_byte_reads_the_slots_of_its_own_latent_alone(k):
    torch.manual_seed(0)
    module = FBLTLatentReading(tiny_config().decoder_config).double()
    hidden, slots = torch.randn(2, 5, 32).double(), torch.randn(2, 3, k, 32).double()
    latent = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 0, 0]])
    slots[:, 2] = torch.nan  # a latent that nobody reads may hold anything
    read = module(hidden, module.read(slots), latent)
    for row in range(2):
        for i in range(5):
            expected = naive_cross_attention(module, hidden[row, i], slots[row, latent[row, i]])
            torch.testing.assert_close(read[row, i], expected, atol=1e-12, rtol=0)
