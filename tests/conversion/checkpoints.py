# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Tiny random BLT checkpoints in every layout, and the fixture that Meta's code wrote."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from transformers import BltConfig, BltForCausalLM

FIXTURE = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "blt_1b_style"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason="the fixtures are not beside this repository")

MODEL = {
    "vocab_size": 260,
    "eos_id": 2,
    "dim_local_encoder": 32,
    "dim_local_decoder": 32,
    "dim_global": 64,
    "n_layers_local_encoder": 1,
    "n_layers_local_decoder": 2,
    "n_layers_global": 2,
    "n_heads_local_encoder": 4,
    "n_heads_local_decoder": 4,
    "n_heads_global": 4,
    "n_kv_heads": None,
    "n_kv_heads_global": None,
    "head_dim": None,
    "ffn_dim_multiplier": 1.0,
    "multiple_of": 16,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "local_attention_window_len": 9,
    "attn_bias_type": "block_causal",
    "cross_attn_encoder": True,
    "cross_attn_decoder": True,
    "cross_attn_init_by_pooling": True,
    "cross_attn_k": 2,
    "cross_attn_nheads": 4,
    "cross_attn_all_layers_encoder": False,
    "cross_attn_all_layers_decoder": True,
    "downsampling_by_pooling": "max",
    "encoder_hash_byte_group_size": [3, 4, 5],
    "encoder_hash_byte_group_vocab": 61,
    "encoder_hash_byte_group_nb_functions": 1,
}
ENTROPY = {
    "vocab_size": 260,
    "eos_id": 2,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": None,
    "head_dim": None,
    "ffn_dim_multiplier": 1.0,
    "multiple_of": 16,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attn_bias_type": "local_block_causal",
    "sliding_window": 8,
}
PATCHING = {"patching_mode": "entropy", "threshold": 4.4, "threshold_add": None, "monotonicity": False}
PATCHING |= {"max_patch_length": None, "patch_size": 4.5}
State = dict[str, torch.Tensor]


def run(command: click.Command, arguments: list[str]) -> Result:
    """Runs a command in this process; what it does not refuse by itself is an error of the test."""
    result = CliRunner().invoke(command, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class _Maker:
    """Random weights, drawn so that activations keep their size."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def matrix(self, name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        value = torch.randn(rows, columns, generator=self.generator) * scale * columns**-0.5
        self.state[f"{name}.weight"] = value

    def norm(self, name: str, width: int) -> None:
        self.state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=self.generator)

    def layers(self, prefix: str, count: int, width: int, heads: int, key_heads: int | None, args: dict) -> None:
        head = args["head_dim"] or width // heads
        hidden = int(args["ffn_dim_multiplier"] * int(8 * width / 3))
        hidden = -(-hidden // args["multiple_of"]) * args["multiple_of"]
        for i in range(count):
            name = f"{prefix}layers.{i}"
            for part, rows in (("q", heads), ("k", key_heads or heads), ("v", key_heads or heads)):
                self.matrix(f"{name}.attention.w{part}", rows * head, width)
            self.matrix(f"{name}.attention.wo", width, heads * head)
            self.matrix(f"{name}.feed_forward.w1", hidden, width)
            self.matrix(f"{name}.feed_forward.w3", hidden, width)
            self.matrix(f"{name}.feed_forward.w2", width, hidden)
            self.norm(f"{name}.attention_norm", width)
            self.norm(f"{name}.ffn_norm", width)

    def crosses(self, prefix: str, count: int, width: int) -> None:
        for i in range(count):
            for part in "qkvo":
                self.matrix(f"{prefix}cross_attn_layers.{i}.w{part}", width, width)
            for part in ("q", "kv"):
                self.norm(f"{prefix}cross_attn_layers.{i}.cross_attn_norm_{part}", width)


def meta_state(args: dict, seed: int = 0) -> State:
    """A state dict as Meta's code would make for these arguments."""
    make, k = _Maker(seed), args["cross_attn_k"]
    encoder, decoder, latent = args["dim_local_encoder"], args["dim_local_decoder"], args["dim_global"]
    layers, key_heads = args["n_layers_local_encoder"], args["n_kv_heads"]
    make.matrix("local_encoder.tok_embeddings", 260, encoder)
    make.layers("local_encoder.", layers, encoder, args["n_heads_local_encoder"], key_heads, args)
    make.matrix("local_encoder.patch_embedding_projection", k * encoder, encoder)
    make.crosses("local_encoder.", layers if args["cross_attn_all_layers_encoder"] else 1, encoder)
    for i in range(args["encoder_hash_byte_group_nb_functions"] * len(args["encoder_hash_byte_group_size"] or ())):
        make.matrix(f"encoder_hash_tok_embedding.{i}", args["encoder_hash_byte_group_vocab"], encoder)
    if k * encoder != latent:
        make.matrix("global_transformer.token_embedding_projection", latent, k * encoder)
    heads = args["n_heads_global"]
    make.layers("global_transformer.", args["n_layers_global"], latent, heads, args["n_kv_heads_global"], args)
    layers = args["n_layers_local_decoder"]
    make.matrix("local_decoder.patch_embedding_projection", k * decoder, latent)
    make.layers("local_decoder.", layers, decoder, args["n_heads_local_decoder"], key_heads, args)
    make.crosses("local_decoder.", layers if args["cross_attn_all_layers_decoder"] else 1, decoder)
    make.norm("local_decoder.norm", decoder)
    make.matrix("local_decoder.output", 260, decoder)
    make.state["local_encoder.rope.freqs_cis"] = torch.zeros(4, 2, 2, 2)  # as old checkpoints hold
    return make.state


def entropy_state(args: dict, seed: int = 1) -> State:
    make = _Maker(seed)
    make.matrix("tok_embeddings", 260, args["dim"])
    make.layers("", args["n_layers"], args["dim"], args["n_heads"], args["n_kv_heads"], args)
    make.norm("norm", args["dim"])
    make.matrix("output", 260, args["dim"], scale=1.5)
    make.state["rope.freqs_cis"] = torch.zeros(4, 2, 2, 2)
    return make.state


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def write_training(
    folder: Path,
    model: dict | None = None,
    entropy: dict | None = None,
    patching: dict | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[State, State]:
    """Meta's training layout; arguments are changes to the defaults above. Returns both state dicts."""
    model, entropy = MODEL | (model or {}), ENTROPY | (entropy or {})
    states = meta_state(model), entropy_state(entropy)
    states = tuple({key: value.to(dtype) for key, value in state.items()} for state in states)
    inner = folder / "entropy_model"
    inner.mkdir(parents=True)
    write_json(folder / "params.json", {"model": model, "data": {"patcher_args": PATCHING | (patching or {})}})
    write_json(inner / "params.json", {"entropy_model": entropy})
    torch.save({"model": states[0]}, folder / "consolidated.pth")
    torch.save({"model": states[1]}, inner / "consolidated.pth")
    return states


def write_hub(folder: Path, training: Path, entropy_folder: Path | None = None) -> None:
    """Meta's Hub layout of what [`write_training`] wrote."""
    inner = entropy_folder or folder / "entropy"
    inner.mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    params = json.loads((training / "params.json").read_text())
    write_json(folder / "config.json", {"args": params["model"]})
    write_json(folder / "train_args.json", params)
    entropy = json.loads((training / "entropy_model" / "params.json").read_text())["entropy_model"]
    write_json(inner / "config.json", {"args": entropy})
    for source, target in ((training, folder), (training / "entropy_model", inner)):
        state = torch.load(source / "consolidated.pth", weights_only=True)["model"]
        save_file(state, target / "model.safetensors")


def write_transformers(folder: Path, seed: int = 0, **changes: Any) -> BltForCausalLM:
    """transformers' layout, of a random model with a boundary after about a third of random bytes."""
    network = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    fields = {
        "patcher_config": network | {"sliding_window": 8},
        "encoder_config": network | {"num_hidden_layers": 1, "hidden_size_global": 64},
        "decoder_config": network | {"hidden_size_global": 64},
        "global_config": network | {"hidden_size": 64},
        "local_attention_window_len": 9,
        "encoder_hash_byte_group_size": [3, 4, 5],
        "encoder_hash_byte_group_vocab": 61,
        "patching_threshold": 5.0,
    }
    for name, value in changes.items():
        fields[name] = fields[name] | value if isinstance(value, dict) else value
    for name in ("encoder_config", "decoder_config"):
        fields[name] = fields[name] | {"cross_attn_k": fields.get("cross_attn_k", 2)}
    torch.manual_seed(seed)
    model = BltForCausalLM(BltConfig(**fields)).eval()
    ids = random_ids(64)
    entropies, _, _ = model.model.patcher(ids, patch_size=1, threshold=5.0)
    ordered = entropies.flatten().sort().values
    model.config.patching_threshold = float(ordered[44:46].mean())
    model.save_pretrained(folder)
    return model


def random_ids(length: int, seed: int = 0) -> torch.Tensor:
    """`[1, length]`: `<s>`, then random bytes."""
    ids = torch.randint(4, 260, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[0, 0] = 1
    return ids
