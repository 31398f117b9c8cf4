# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Preparing a model for blocks leaves what it predicts exactly as it was."""

import pytest
import torch
from fblt.conversion.add_diffusion import add_diffusion, main
from fblt.conversion.config_fields import ConfigError
from fblt.conversion.convert_blt import convert
from fblt.conversion.export_blt import export
from safetensors.torch import load_file

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


def test_a_fresh_draft_head_is_added_which_changes_nothing(source, tmp_path):
    add_diffusion(source, tmp_path / "out", block_size=4)
    add_diffusion(source, tmp_path / "without", block_size=4, draft_head_size=0)
    headed, plain = (FBLTForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("out", "without"))
    assert plain.draft_head is None and headed.config.draft_head_config.hidden_size == 128
    assert not headed.draft_head.output_projection.weight.any() and headed.draft_head.cell.weight_hh.std() > 0.01
    assert all(torch.equal(headed.state_dict()[name], value) for name, value in plain.state_dict().items())
    texts = []
    for model in (headed, plain):
        torch.manual_seed(0)
        own = {"decoding": "blt-d", "unmasking": "one_step", "max_new_tokens": 12, "do_sample": True}
        texts.append(model.generate(random_ids(40), **own))
    assert torch.equal(*texts)


def test_what_blocks_need_is_left_out_on_the_way_back(tmp_path):
    write_training(tmp_path / "blt")
    convert(str(tmp_path / "blt"), tmp_path / "source", validate=False)
    add_diffusion(tmp_path / "source", tmp_path / "out", block_size=4)
    notes = export(tmp_path / "out", tmp_path / "back", "transformers")
    assert any("draft_head" in note and "left out" in note for note in notes)
    export(tmp_path / "source", tmp_path / "direct", "transformers")
    back, direct = (load_file(tmp_path / name / "model.safetensors") for name in ("back", "direct"))
    assert back.keys() == direct.keys() and all(torch.equal(back[name], direct[name]) for name in back)


def test_it_trains_and_drafts(source, tmp_path):
    add_diffusion(source, tmp_path / "out", block_size=4)
    model, ids = FBLTForCausalLM.from_pretrained(tmp_path / "out"), random_ids(40)
    model.train()
    output = model(ids, labels=ids)
    output.loss.backward()
    assert (
        output.draft_head_loss > 0
        and output.diffusion_loss > 0
        and model.model.decoder.embed_tokens.weight.grad[260].abs().sum() > 0
    )
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
