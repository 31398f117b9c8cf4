"""What text is like: words and bits against naive counts; which setting becomes the default."""

import copy
import json
import math

import pytest
import torch

pytest.importorskip("datasets")

from fblt.training.evaluation import defaults, evaluate  # noqa: E402
from fblt.training.evaluation.quality import (  # noqa: E402
    bits_of,
    known_words,
    quality_figures,
    text_figures,
    unverified_settings,
    verified_settings,
    words_of,
)

from modeling_fblt import FBLTForCausalLM  # noqa: E402
from tests.cli import succeed  # noqa: E402
from tests.training.evaluation.test_evaluate import SMALL, documents, draw_prompts  # noqa: E402


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> FBLTForCausalLM:
    model = FBLTForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def with_head(model) -> FBLTForCausalLM:
    model = copy.deepcopy(model)
    model.add_draft_head(hidden_size=8)
    torch.manual_seed(0)
    for weight in model.draft_head.parameters():
        weight.data.normal_()
    return model


@pytest.fixture(scope="module")
def prompts():
    return draw_prompts(documents(("a", 300)), 3, length=30, following=24, seed=0)


def test_words_are_runs_of_letters_and_cut_ones_are_left_out():
    assert words_of(["It's née_x 3rd", "it"]) == {"It", "s", "née", "x", "rd", "it"}
    vocabulary = {"two", "three", "one"}
    assert known_words("one two xx three", vocabulary) == (1, 2)  # `one` and `three` may be cut
    assert known_words(" one two three.", vocabulary) == (3, 3)
    assert known_words("one", vocabulary) == known_words("", vocabulary) == (0, 0)


@torch.inference_mode()
def test_bits_are_those_of_the_next_byte_head_byte_by_byte(model, prompts):
    texts = [[100, 101, 102], [103], [104, 105, 2]]  # the last ends with `</s>`, which is no byte
    expected = []
    for prompt, text in zip(prompts, texts, strict=True):
        bits = 0.0
        for i, byte in enumerate(text):
            ids = torch.tensor([[*prompt.ids.tolist(), *text[:i]]])
            if byte >= 4:
                bits -= float(torch.log_softmax(model(ids, use_cache=False).logits[0, -1], -1)[byte]) / math.log(2)
        expected.append((bits, sum(byte >= 4 for byte in text)))
    for batch_size in (2, 3):
        found = bits_of(model, prompts, texts, batch_size)
        assert [count for _, count in found] == [count for _, count in expected]
        assert [bits for bits, _ in found] == pytest.approx([bits for bits, _ in expected], rel=1e-5)


def test_every_setting_is_measured_and_verified_ones_write_as_plain_decoding_does(with_head, prompts):
    found = quality_figures(with_head, prompts, 12, 2, 0, {"abc"}, temperatures=("greedy", "1.0"))
    names = [*verified_settings(with_head), *unverified_settings(with_head)]
    assert {temperature: list(rows) for temperature, rows in found["settings"].items()} == {
        "greedy": names,
        "1.0": names,
    }
    greedy = found["settings"]["greedy"]
    for name, row in greedy.items():
        assert row["verified"] == (not name.startswith("blt-d "))
        if row["verified"]:
            for key in ("bits_per_byte", "distinct_8grams", "known_words"):
                assert row[key] == greedy["ar"][key]
    unverified = {row["bits_per_byte"] for row in greedy.values() if not row["verified"]}
    assert len(unverified) > 3 and found["settings"]["1.0"]["ar"]["bits_per_byte"] != greedy["ar"]["bits_per_byte"]


def test_a_model_without_blocks_or_head_has_the_settings_it_can_serve(model):
    assert not any("head" in name for name in verified_settings(model) | unverified_settings(model))
    plain = copy.deepcopy(model)
    plain.config.block_size = None
    assert unverified_settings(plain) == {}
    assert {settings["decoding"] for settings in verified_settings(plain).values()} == {"ar", "blt-s"}


def test_without_training_text_no_share_of_words_is_told(model, prompts):
    figures = text_figures(model, prompts, [prompt.reference.tolist() for prompt in prompts], None, 2)
    assert figures["known_words"] is None and figures["bits_per_byte"] > 0


def test_the_highest_score_is_chosen_and_everything_else_stays(tmp_path):
    assert defaults.choose({"ar": {"score": 1.0}, "a": {"score": 1.3}, "b": {"score": 1.3}}) == "a"
    file = tmp_path / "generation_config.json"
    before = {"eos_token_id": 2, "decoding": "blt-s", "draft_length": 4, "refine_steps": 1, "top_k": 7}
    file.write_text(json.dumps(before))
    written = defaults.write_defaults(tmp_path, {"decoding": "blt-dv", "refine_steps": 2}, 8)
    after = json.loads(file.read_text())
    assert {name: after[name] for name in written} == written
    assert after["decoding"] == "blt-dv" and after["refine_steps"] == 2 and after["block_size"] == 8
    assert after["draft_length"] == 8 and (after["eos_token_id"], after["top_k"]) == (2, 7)
    file.write_text("{")
    with pytest.raises(ValueError, match="generation_config.json: cannot be read"):
        defaults.write_defaults(tmp_path, {}, None)
    assert file.read_text() == "{"


def test_the_command_writes_a_default_that_the_checkpoint_then_decodes_with(
    tiny_checkpoint, tiny_data, tmp_path, monkeypatch
):
    from shutil import copytree

    folder = copytree(tiny_checkpoint, tmp_path / "model")
    monkeypatch.setattr(defaults, "clock", lambda: iter(range(10**6)).__next__)  # every call takes as long
    monkeypatch.setattr(evaluate, "choose", lambda found: "blt-s 8, 2 passes")
    printed = succeed(evaluate.main, "--model", folder, "--data", tiny_data, *SMALL[:-1], "cpu", "--choose-defaults")
    assert "default from now on" in printed
    config = FBLTForCausalLM.from_pretrained(folder).generation_config
    assert (config.decoding, config.refine_steps, config.draft_length) == ("blt-s", 2, 8)
