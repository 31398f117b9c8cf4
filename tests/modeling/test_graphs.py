# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Graphs of the model: `torch.export` of its forward, and the networks as `generate` calls them compiled."""

import pytest
import torch
from torch import nn
from transformers.generation import CompileConfig

from modeling_fblt import generation_fblt
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import NEVER, shared_model
from tests.modeling.test_draft_head import model_with_head
from tests.modeling.tiny import random_rows
from tests.thorough import long_run

# Four networks over one position and over more, the decoder with and without new latents, the draft head's step; and
# what torch takes for constants before it has seen them change.
MOST_GRAPHS = 16


class Logits(nn.Module):
    """Logits of rows alone: a graph takes and gives tensors."""

    def __init__(self, model: FBLTForCausalLM):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, starts: torch.Tensor | None = None) -> torch.Tensor:
        return self.model(ids, attention_mask=mask, patch_starts=starts, use_cache=False, return_dict=False)[0]


def rows(seed: int, share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two rows of 24 columns, the second with padding on the left, and patch starts at a share of the bytes."""
    torch.manual_seed(seed)
    mask, starts = torch.ones(2, 24, dtype=torch.long), torch.rand(2, 25) < share
    first = (0, 1 + seed % 9)
    for row, padding in enumerate(first):
        mask[row, :padding] = 0
        starts[row, :padding] = False
        starts[row, padding : padding + 2] = True
    return random_rows(2, 24, seed=seed), mask, starts


@pytest.mark.parametrize("given", [pytest.param(True, id="given"), pytest.param(False, marks=long_run, id="patcher")])
def test_an_exported_forward_gives_the_logits_of_the_model(given):
    """Whatever the patches of the text that it was exported with: one graph serves few patches and many."""
    model = shared_model()
    with torch.no_grad():
        count = 3 if given else 2
        graph = torch.export.export(Logits(model), rows(0, 0.4)[:count]).module()
        for seed, share in enumerate((0.0, 0.3, 1.0)):
            inputs = rows(seed, share)[:count]
            torch.testing.assert_close(graph(*inputs), Logits(model)(*inputs), atol=1e-12, rtol=0)


SETTINGS = {
    "ar": {"decoding": "ar"},
    "blt-s": {"decoding": "blt-s", "draft_length": 4},
    "blt-dv": {"decoding": "blt-dv", "unmasking": "one_step", "refine_steps": 1},
    "blt-d": {"decoding": "blt-d", "unmasking": "sequential", "confidence_threshold": 0.012},
}


def compiling(backend: str) -> tuple[CompileConfig, list]:
    """A `compile_config` that allows no break in a graph, and the list of graphs that it makes."""
    torch._dynamo.reset()
    graphs, compile_graph = [], torch._dynamo.lookup_backend(backend)

    def counted(graph, inputs):
        graphs.append(graph)
        return compile_graph(graph, inputs)

    return CompileConfig(backend=counted, mode=None, fullgraph=True), graphs


def written(model: FBLTForCausalLM, prompt: torch.Tensor, new: int, **settings):
    torch.manual_seed(0)
    return model.generate(
        prompt, max_new_tokens=new, eos_token_id=NEVER, return_dict_in_generate=True, output_logits=True, **settings
    )


def assert_same_text(found, expected) -> None:
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("decoder_nfe", "encoder_nfe", "global_nfe", "patcher_nfe", "draft_head_nfe", "accepted"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for one, other in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)  # recorded in float32


def check_compiled(backend: str, kind: str, settings: list[dict], new: int) -> tuple[CompileConfig, list]:
    config, graphs = compiling(backend)
    model, prompt = model_with_head(decoder_input=kind), random_rows(1, 20, seed=1)
    made = []
    for length in (new // 2, new):
        for own in settings:
            plain = written(model, prompt, length, **own)
            found = written(model, prompt, length, compile_config=config, **own)
            assert_same_text(found, plain)
            assert found.past_key_values.networks is None
        made.append(len(graphs))
    assert 0 < made[0] == made[1] <= MOST_GRAPHS
    return config, graphs


def test_compiled_networks_write_the_same_text_and_are_compiled_once():
    """Texts twice as long need no further graph, and what is compiled does not stay in the cache that is returned."""
    config, graphs = check_compiled("eager", "embedding", [SETTINGS["ar"]], 120)
    prompt, made = random_rows(1, 20, seed=1), len(graphs)
    again = written(model_with_head(), prompt, 4, compile_config=config, disable_compile=True, **SETTINGS["ar"])
    assert len(graphs) == made and again.sequences.shape[1] == 24


def test_a_call_that_ends_in_an_error_leaves_no_compiled_networks_in_the_cache(monkeypatch):
    model, prompt = shared_model(), random_rows(1, 20, seed=1)
    first = written(model, prompt, 4)
    asked = []
    monkeypatch.setattr(generation_fblt, "compiled_networks", lambda config: asked.append(config) or object())
    with pytest.raises(AttributeError):
        written(model, first.sequences, 4, past_key_values=first.past_key_values)
    assert asked and first.past_key_values.networks is None


@long_run
@pytest.mark.parametrize("kind", ["embedding", "encoder"])
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_networks_serve_all_decodings_with_the_same_graphs(backend, kind):
    check_compiled(backend, kind, list(SETTINGS.values()), 1000)


@long_run
def test_rows_in_different_columns_are_decoded_as_they_are():
    """Rows advance at their own pace; where they part, networks are called without a graph, to the same text."""
    config, _ = compiling("eager")
    model, rows = shared_model(), random_rows(3, 15, seed=2)
    plain = written(model, rows, 12, **SETTINGS["blt-dv"])
    assert_same_text(written(model, rows, 12, compile_config=config, **SETTINGS["blt-dv"]), plain)
