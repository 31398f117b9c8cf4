# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What saving a model must leave as its user made it."""

from transformers import AutoTokenizer

from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import tiny_model


def test_saving_a_model_keeps_a_tokenizer_saved_before_it(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.model_max_length, tokenizer.padding_side = 2048, "right"
    tokenizer.save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    kept = AutoTokenizer.from_pretrained(tmp_path)
    assert kept.convert_tokens_to_ids("<tool>") == 261
    assert (kept.model_max_length, kept.padding_side) == (2048, "right")


def test_a_model_saved_again_brings_the_tokenizer_where_none_is(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    model.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"] == build_tokenizer()("a")["input_ids"]
