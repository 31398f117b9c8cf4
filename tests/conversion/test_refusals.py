# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Sources that are damaged, hostile or beyond FBLT: a clear error, and nothing written."""

import json
import os
import pickle
import zipfile

import pytest
import torch
from fblt.conversion.config_fields import ConfigError
from fblt.conversion.convert_blt import convert, main
from fblt.conversion.mapping import MappingError
from fblt.conversion.open_checkpoint import detect, open_checkpoint
from fblt.conversion.tensor_readers import ReadingError
from fblt.conversion.validate import _rounded
from fblt.conversion.writing import Entry, WritingError, write_pickle, write_safetensors
from safetensors.torch import load_file, save_file

from .checkpoints import ENTROPY, MODEL, PATCHING, run, write_hub, write_json, write_training, write_transformers


@pytest.fixture
def training(tmp_path):
    write_training(tmp_path / "training")
    return tmp_path / "training"


@pytest.fixture
def hub(training, tmp_path):
    write_hub(tmp_path / "hub", training)
    return tmp_path / "hub"


def refused(source, error, match, **settings):
    """Converts and expects an error and no trace of an output."""
    before = set(source.parent.iterdir())
    with pytest.raises(error, match=match) as caught:
        convert(str(source), source.parent / "out", validate=False, **settings)
    assert set(source.parent.iterdir()) == before
    return str(caught.value)


def change_state(path, change):
    state = torch.load(path, weights_only=True)["model"]
    change(state)
    torch.save({"model": state}, path)


# --- the mapping ---


def test_a_missing_key_is_named(training):
    change_state(training / "consolidated.pth", lambda state: state.pop("local_decoder.norm.weight"))
    message = refused(training, MappingError, "local_decoder.norm.weight")
    assert "model.decoder.norm.weight [32]" in message


def test_a_leftover_key_is_named(training):
    change_state(training / "consolidated.pth", lambda state: state.update({"local_decoder.extra": torch.ones(3, 2)}))
    assert "[3, 2]" in refused(training, MappingError, "local_decoder.extra")


def test_a_wrong_shape_is_named_with_both(training):
    key = "global_transformer.layers.1.attention.wk.weight"
    change_state(training / "consolidated.pth", lambda state: state.update({key: torch.ones(64, 63)}))
    message = refused(training, MappingError, "wk")
    assert "[64, 63]" in message and "[64, 64]" in message and "k_proj" in message


def test_left_out_keys_are_told_with_a_reason(training, tmp_path):
    checks = convert(str(training), tmp_path / "out", validate=False).checks
    assert any("2 tensors" in line and "rotary" in line for line in checks)


# --- types ---

WHAT_IS_NO_FLOAT = {
    "int64": lambda weight: weight.to(torch.int64),
    "int8": lambda weight: weight.to(torch.int8),
    "bool": lambda weight: weight > 0,
    "float8_e4m3fn": lambda weight: weight.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda weight: weight.to(torch.float8_e5m2),
    "complex64": lambda weight: weight.to(torch.complex64),
    "qint8": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", WHAT_IS_NO_FLOAT)
def test_a_pickled_weight_that_is_no_float_is_named(name, dtype, training):
    key = "global_transformer.layers.1.attention.wk.weight"
    change_state(training / "consolidated.pth", lambda state: state.update({key: WHAT_IS_NO_FLOAT[name](state[key])}))
    message = refused(training, ReadingError, f"{key}: is of type {name}", dtype=dtype)
    assert "float32" in message and "k_proj" in message


@pytest.mark.parametrize("name", ["int64", "float8_e4m3fn", "bool"])
def test_a_weight_in_safetensors_that_is_no_float_is_named(name, hub):
    state = load_file(hub / "model.safetensors")
    state["local_decoder.output.weight"] = WHAT_IS_NO_FLOAT[name](state["local_decoder.output.weight"])
    save_file(state, hub / "model.safetensors")
    refused(hub, ReadingError, f"local_decoder.output.weight: is of type {name}")


def test_what_the_model_does_not_need_may_be_of_any_type(training, tmp_path):
    angles = {"local_encoder.rope.freqs_cis": torch.zeros(4, 2, dtype=torch.complex64)}
    change_state(training / "consolidated.pth", lambda state: state.update(angles))
    convert(str(training), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "greedy text" in card and "16 of 16 bytes equal" in card


def test_the_precision_is_that_of_the_weights_alone(training, tmp_path):
    angles = {"local_encoder.rope.freqs_cis": torch.zeros(4, 2, dtype=torch.complex64)}
    change_state(training / "consolidated.pth", lambda state: state.update(angles))
    convert(str(training), tmp_path / "out", validate=False)
    convert(str(training), tmp_path / "half", dtype=torch.float16, validate=False)
    rounded = [_rounded(open_checkpoint(training), open_checkpoint(tmp_path / name)) for name in ("out", "half")]
    assert rounded == [None, torch.float16]


@pytest.mark.parametrize("write", [write_pickle, lambda path, entries: write_safetensors(path, entries, 10**6)])
def test_a_type_that_is_not_written_is_refused_before_anything_is(write, tmp_path):
    values = {"good": torch.ones(2), "bad": torch.ones(2, dtype=torch.int64)}
    entries = [Entry(key, (2,), value.dtype, lambda value=value: [value]) for key, value in values.items()]
    with pytest.raises(WritingError, match="bad: cannot be written as torch.int64"):
        write(tmp_path, entries)
    assert not list(tmp_path.iterdir())


# --- configs ---

REFUSED_MODEL = {
    "vocab_size": 512,
    "eos_id": 3,
    "cross_attn_encoder": False,
    "cross_attn_decoder": False,
    "cross_attn_init_by_pooling": False,
    "cross_attn_window_encoder": 4,
    "downsampling_by_pooling": "avg",
    "encoder_enable_byte_ngrams": True,
    "attn_bias_type": "causal",
    "dim_local_decoder": 48,
    "dim_token": 16,
    "local_attention_window_len": None,
    "use_rope": False,
    "cross_attn_nheads": 5,
    "n_kv_heads": 3,
    "encoder_hash_byte_group_nb_functions": 12,
    # absurd sizes
    "n_layers_global": 10**9,
    "dim_global": 10**9,
    "dim_local_encoder": -4,
    "n_layers_local_encoder": 2.5,
    "n_heads_global": "four",
    "encoder_hash_byte_group_vocab": 10**15,
    "encoder_hash_byte_group_size": [3, 10**9],
    "multiple_of": 0,
    "ffn_dim_multiplier": float("inf"),
    "rope_theta": "large",
}


@pytest.mark.parametrize("field", REFUSED_MODEL)
def test_a_model_field_is_refused(field, training):
    params = {"model": MODEL | {field: REFUSED_MODEL[field]}, "data": {"patcher_args": PATCHING}}
    write_json(training / "params.json", params)
    refused(training, ConfigError, "params.json")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("dim_global", None, "global_config.hidden_size is missing"),
        ("n_layers_local_decoder", None, "decoder_config.num_hidden_layers is missing"),
        ("norm_eps", "x", "rms_norm_eps is 'x'"),
        ("norm_eps", -1, "rms_norm_eps is -1"),
        ("norm_eps", float("nan"), "rms_norm_eps is nan"),
        ("rope_theta", True, "rope_theta"),
        ("local_attention_window_len", -1, "sliding_window is -1"),
        ("n_kv_heads", "x", "num_key_value_heads is 'x'"),
        ("n_heads_global", True, "num_attention_heads is True"),
        ("cross_attn_nheads", 2.5, "cross_attn_num_heads is 2.5"),
        ("encoder_hash_byte_group_size", "3,x", "encoder_hash_byte_group_size"),
        ("encoder_hash_byte_group_nb_functions", None, "hash functions is None"),
    ],
)
def test_a_model_field_that_is_no_number_is_refused_by_name(field, value, named, training):
    write_json(training / "params.json", {"model": MODEL | {field: value}, "data": {"patcher_args": PATCHING}})
    refused(training, ConfigError, named)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", float("nan")),
        ("threshold", float("inf")),
        ("threshold", "x"),
        ("monotonicity", True),
        ("threshold_add", 0.2),
        ("patching_mode", "space"),
        ("threshold", None),
    ],
)
def test_a_patching_field_is_refused_by_name(field, value, training):
    write_json(training / "params.json", {"model": MODEL, "data": {"patcher_args": PATCHING | {field: value}}})
    refused(training, ConfigError, field)


def test_an_entropy_model_field_is_refused_by_name(training):
    write_json(training / "entropy_model" / "params.json", {"entropy_model": ENTROPY | {"attn_bias_type": "causal"}})
    refused(training, ConfigError, "attn_bias_type")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 300),
        ("patch_in_forward", False),
        ("patching_mode", "static"),
        ("tie_word_embeddings", True),
        ("decoder_config.hidden_act", "gelu"),
        ("decoder_config.cross_attn_k", 3),
        ("global_config.num_hidden_layers", 10**9),
    ],
)
def test_a_transformers_field_is_refused_by_name(field, value, tmp_path):
    write_transformers(tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    *parents, name = field.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    write_json(tmp_path / "source" / "config.json", config)
    refused(tmp_path / "source", ConfigError, name)


# --- files ---


class Opens:
    """A pickle of this runs `open` when loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_runs_code_is_refused(training, tmp_path):
    torch.save({"model": {"a": Opens(tmp_path / "trace")}}, training / "consolidated.pth")
    refused(training, ReadingError, "could run code")
    (training / "consolidated.pth").write_bytes(pickle.dumps(Opens(tmp_path / "trace")))
    refused(training, ReadingError, "consolidated.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [{"model": {"a": 1}}, {"model": {}}, torch.ones(2)])
def test_a_pickle_without_tensors_is_refused(content, training):
    torch.save(content, training / "consolidated.pth")
    refused(training, ReadingError, "consolidated.pth")


def test_a_pickle_whose_keys_are_numbers_is_refused(training):
    change_state(training / "consolidated.pth", lambda state: state.update({7: torch.ones(2)}))
    refused(training, ReadingError, "a tensor under 7")


def test_a_compressed_pickle_is_refused_with_the_remedy(training):
    file = training / "consolidated.pth"
    with zipfile.ZipFile(file) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    refused(training, ReadingError, "is compressed: load it and save it again")


def test_a_flipped_bit_in_a_pickle_is_noticed(training):
    file = training / "consolidated.pth"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4  # amid the values of a weight
    file.write_bytes(content)
    refused(training, ReadingError, "is damaged: .* is not what its checksum says")


@pytest.mark.parametrize("name", ["training/consolidated.pth", "hub/model.safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_truncated_files(name, keep, hub, tmp_path):
    os.truncate(tmp_path / name, keep)
    refused(tmp_path / name.split("/")[0], ReadingError, name.split("/")[1])


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3])
def test_an_index_that_leads_elsewhere_is_refused(place, hub, tmp_path):
    save_file({"lm_head.weight": torch.ones(2)}, tmp_path / "secret.safetensors")
    write_json(hub / "model.safetensors.index.json", {"weight_map": {"local_decoder.norm.weight": place}})
    refused(hub, ReadingError, "not a file name")


def test_shards_must_be_there_and_hold_what_is_promised(hub):
    names = dict.fromkeys(load_file(hub / "model.safetensors"), "model.safetensors")
    write_json(hub / "model.safetensors.index.json", {"weight_map": names | {"local_decoder.x": "other.safetensors"}})
    refused(hub, ReadingError, "other.safetensors: is missing")
    write_json(hub / "model.safetensors.index.json", {"weight_map": names | {"local_decoder.x": "model.safetensors"}})
    refused(hub, ReadingError, "does not hold local_decoder.x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value, training):
    def spoil(state):
        state["local_decoder.output.weight"][200, 3] = value

    change_state(training / "consolidated.pth", spoil)
    refused(training, WritingError, "lm_head.weight: holds NaN or infinity")


def test_values_that_overflow(training):
    def enlarge(state):
        state["local_decoder.output.weight"][200, 3] = 1e6

    change_state(training / "consolidated.pth", enlarge)
    refused(training, WritingError, "overflows", dtype=torch.float16)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": 3}', "[" * 100_000])
def test_configs_that_are_none(text, training):
    (training / "params.json").write_text(text)
    refused(training, ReadingError, "params.json")


def test_missing_parts(hub, tmp_path):
    refused(tmp_path / "training", ReadingError, "other", entropy="no such/place/other")
    (hub / "entropy").rename(tmp_path / "elsewhere")
    refused(hub, ReadingError, "--entropy")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", ReadingError, "no layout")


def test_an_existing_output_is_kept(training, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    result = run(main, ["--source", str(training), "--output", str(tmp_path / "out"), "--no-validate"])
    assert result.exit_code == 1 and "exists" in result.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_failed_validation_writes_nothing(tmp_path, monkeypatch):
    write_transformers(tmp_path / "source")
    monkeypatch.setattr("fblt.conversion.validate.TOLERANCE", 0.0)
    result = run(main, ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1 and "does not reproduce" in result.stderr and not (tmp_path / "out").exists()


def test_the_licence_is_passed_on_and_none_claimed(training, tmp_path):
    convert(str(training), tmp_path / "silent", validate=False)
    card = (tmp_path / "silent" / "README.md").read_text()
    assert "license: other" in card and "states no licence" in card
    (training / "LICENSE").write_text("the terms")
    front = "---\nlicense: other\nlicense_name: fair-noncommercial-research-license\n---\n"
    (training / "README.md").write_text(front)
    convert(str(training), tmp_path / "stated", validate=False)
    card = (tmp_path / "stated" / "README.md").read_text()
    assert "license_name: fair-noncommercial-research-license" in card
    assert (tmp_path / "stated" / "LICENSE").read_text() == "the terms"


# --- links ---


@pytest.mark.parametrize("name", ["LICENSE-x", "README.md", "consolidated.pth", "entropy_model"])
def test_a_link_out_of_the_source_is_not_followed(name, training, tmp_path):
    secret = tmp_path / "elsewhere" / name
    secret.parent.mkdir()
    if (training / name).exists():
        (training / name).rename(secret)
    else:
        secret.write_text("a secret")
    (training / name).symlink_to(secret)
    message = refused(training, ReadingError, f"{name}: is a link to")
    assert str(secret) in message


def test_links_within_the_source_and_to_the_blobs_of_the_hubs_cache_are_followed(training, tmp_path):
    (training / "terms").write_text("the terms")
    (training / "LICENSE").symlink_to("terms")
    convert(str(training), tmp_path / "within", validate=False)
    assert (tmp_path / "within" / "LICENSE").read_text() == "the terms"
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    training.rename(snapshot)
    (repository / "blobs").mkdir()
    (snapshot / "consolidated.pth").rename(repository / "blobs" / "ab")
    (snapshot / "consolidated.pth").symlink_to("../../blobs/ab")
    convert(str(snapshot), tmp_path / "cached", validate=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("within", "cached")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("kind", [[0], {}, None, "x"])
def test_a_folder_of_no_known_layout_is_refused(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ReadingError, match="no layout that is known"):
        detect(tmp_path)
