# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""A tokenizer that is not the byte tokenizer is refused wherever a command finds one beside a model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import HfApi
from transformers import AutoTokenizer

from fblt.cli import main
from fblt.tokenizers import check_tokenizer
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import tiny_model
from training.publishing.export import export
from training.publishing.push import push

DEMO = Path(__file__).parents[1] / "checkpoints" / "fblt-demo"


def swapped(saved: dict) -> None:
    vocabulary = saved["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def far(saved: dict) -> None:
    saved["model"]["vocab"]["ab"] = 9999


def dropped(saved: dict) -> None:
    del saved["model"]["vocab"]["q"]


def lowered(saved: dict) -> None:
    saved["normalizer"] = {"type": "Lowercase"}


EDITS = [swapped, far, dropped, lowered]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model(dtype=torch.float32).save_pretrained(folder)
    return folder


def with_edit(edit, source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    edit(saved)
    path.write_text(json.dumps(saved), encoding="utf-8")
    return folder


def test_the_byte_tokenizer_is_taken_with_settings_of_its_users_own(tmp_path):
    tokenizer = build_tokenizer()
    check_tokenizer(tokenizer, "here")
    tokenizer.chat_template, tokenizer.padding_side = "{{ messages }}", "right"
    tokenizer.save_pretrained(tmp_path)
    check_tokenizer(AutoTokenizer.from_pretrained(tmp_path), "here")
    check_tokenizer(AutoTokenizer.from_pretrained(DEMO), "here")


@pytest.mark.parametrize("edit", EDITS)
def test_other_tokenizers_are_refused_by_every_command(edit, model_folder, tmp_path):
    folder = with_edit(edit, model_folder, tmp_path / "model")
    with pytest.raises(ValueError, match="here: its tokenizer"):
        check_tokenizer(AutoTokenizer.from_pretrained(folder), "here")
    result = CliRunner().invoke(main, ["generate", str(folder), "text"])
    assert result.exit_code == 1 and "its tokenizer" in result.output and "Traceback" not in result.output
    with pytest.raises(ValueError, match="--source.*its tokenizer"):
        export(folder, tmp_path / "out", 100)
    assert not (tmp_path / "out").exists()


def test_a_token_of_its_own_is_refused(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<turn>"])
    with pytest.raises(ValueError, match="'<turn>' with id 261.*spell new tokens as bytes"):
        check_tokenizer(tokenizer, "here")


def test_nothing_is_sent_with_another_tokenizer(tmp_path):
    folder = with_edit(swapped, DEMO, tmp_path / "demo")
    with pytest.raises(ValueError, match="--model.*its tokenizer has id"):
        push(folder, "user/name", None, None, HfApi(endpoint="http://localhost:9"))
