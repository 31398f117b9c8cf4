"""The example that teaches one more language: its split of lines, and the script end to end on a tiny model."""

import pytest
import torch
from fblt.training.data.restore.damage import KINDS
from fblt.training.examples import new_language

from modeling_fblt import FBLTForCausalLM
from tests.cli import refusal, succeed
from tests.modeling.tiny import tiny_model
from tests.thorough import long_run

LINES = [f"La riga numero {i} è già stata più corta di così." for i in "abcdefghijklmnopqrstuvwxyz"]


def test_documents_are_held_out_whole_and_no_line_stands_twice():
    # Digits alone tell no lines apart.
    pairs = [(f"page{i % 30}", f"{line} {chr(97 + i // 26) * 3}") for i, line in enumerate(LINES * 20)]
    train, held_out = new_language.split(iter([*pairs, *pairs]), "lines")
    assert train and held_out and not set(train) & set(held_out)
    assert len({new_language.near_key(line) for line in [*train, *held_out]}) == len(train) + len(held_out)
    assert len({document for document, line in pairs if line in held_out}) <= 30
    assert (train, held_out) == new_language.split(iter(pairs), "lines")


def test_too_few_lines_are_refused(tmp_path):
    (tmp_path / "short.txt").write_text("corta\n", encoding="utf-8")
    told = refusal(new_language.main, "--model", tmp_path / "none", "--lines", tmp_path / "short.txt")
    assert "give more lines" in told


@pytest.mark.slow
@pytest.mark.parametrize("options", [pytest.param([], marks=long_run), ["--lora", "--rank", "2"]])
def test_the_example_prints_before_and_after_and_saves_a_model_that_loads(tmp_path, monkeypatch, options):
    model = tiny_model(seed=4, dtype=torch.float32, patching_mode="space")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("\n".join(LINES * 2), encoding="utf-8")
    monkeypatch.setattr(new_language, "BATCH", 2)
    command = ["--model", tmp_path / "model", "--lines", tmp_path / "lines.txt", "--steps", "2", "--test-lines", "1"]
    told = succeed(new_language.main, *command, "--output", tmp_path / "out", *options)
    assert all(kind in told for kind in KINDS) and "before" in told and "2 steps of 2" in told
    result = FBLTForCausalLM.from_pretrained(tmp_path / "out")
    changed = [n for n, w in result.state_dict().items() if not torch.equal(w, model.state_dict()[n])]
    assert changed and (tmp_path / "out" / "adapter").is_dir() == bool(options)
