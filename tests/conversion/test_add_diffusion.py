# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Preparing a model for blocks leaves what it predicts exactly as it was."""

import pytest
import torch
from fblt.conversion.add_diffusion import add_diffusion, main
from fblt.conversion.config_fields import ConfigError
from fblt.conversion.convert_blt import convert

from modeling_fblt.modeling_fblt import FBLTForCausalLM

from .checkpoints import random_ids, run, write_training
from .test_roundtrip import small_config


@pytest.fixture(params=["encoder", "embedding"])
def source(request, tmp_path):
    """A model without blocks: a converted BLT, or an FBLT whose decoder has its own table."""
    folder = tmp_path / "source"
    if request.param == "encoder":
        write_training(tmp_path / "blt")
        convert(str(tmp_path / "blt"), folder, validate=False)
    else:
        FBLTForCausalLM(small_config(decoder_config={"input": "embedding"})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("init", ["mean", "zeros", "random"])
def test_next_byte_logits_stay_exactly_as_they_are(source, init, tmp_path):
    add_diffusion(source, tmp_path / "out", block_size=4, init=init)
    before, after = (FBLTForCausalLM.from_pretrained(folder).eval() for folder in (source, tmp_path / "out"))
    ids = random_ids(40)
    assert torch.equal(before(ids, use_cache=False).logits, after(ids, use_cache=False).logits)
    table = after.model.decoder.embed_tokens.weight
    if init == "mean":
        torch.testing.assert_close(table[260], table[:260].mean(0), atol=1e-6, rtol=0)


def test_it_trains_and_drafts(source, tmp_path):
    add_diffusion(source, tmp_path / "out", block_size=4)
    model, ids = FBLTForCausalLM.from_pretrained(tmp_path / "out"), random_ids(40)
    model.train()
    output = model(ids, labels=ids)
    output.loss.backward()
    assert output.diffusion_loss > 0 and model.model.decoder.embed_tokens.weight.grad[260].abs().sum() > 0
    model.eval()
    settings = {"max_new_tokens": 12, "do_sample": False}
    texts = [model.generate(ids, decoding=decoding, **settings).tolist() for decoding in ("ar", "blt-dv")]
    assert texts[0] == texts[1]


def test_a_change_of_input_is_said_to_change_logits(tmp_path):
    write_training(tmp_path / "blt")
    convert(str(tmp_path / "blt"), tmp_path / "source", validate=False)
    arguments = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "out"), "--block-size", "4"]
    result = run(main, [*arguments, "--decoder-input", "embedding"])
    assert result.exit_code == 0 and "next-byte logits change" in result.stdout
    assert FBLTForCausalLM.from_pretrained(tmp_path / "out").config.decoder_config.input == "embedding"


def test_blocks_that_cannot_be(source, tmp_path):
    with pytest.raises(ConfigError, match="block_size"):
        add_diffusion(source, tmp_path / "out", block_size=10**6)
    add_diffusion(source, tmp_path / "once", block_size=4)
    with pytest.raises(ConfigError, match="already"):
        add_diffusion(tmp_path / "once", tmp_path / "out", block_size=4)
    assert not (tmp_path / "out").exists()
