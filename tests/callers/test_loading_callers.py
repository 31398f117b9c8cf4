"""Those who load FBLT for others: tokenizers without remote code, quantisers, continuous batching, conversations."""

import builtins
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    QuantoConfig,
    TorchAoConfig,
    pipeline,
)

from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import random_rows, tiny_model
from tests.thorough import long_run

# Documented in docs/works-with.md: what decides where patches start, and what is read at every byte, stays as it is.
KEPT = ["model.patcher", "lm_head"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny_model(seed=3, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["AutoTokenizer", "PreTrainedTokenizerFast"])
def test_the_tokenizer_loads_without_remote_code_and_without_a_question(saved, kind, monkeypatch):
    def ask(*args):
        raise AssertionError("a question was asked")

    monkeypatch.setattr(builtins, "input", ask)
    if kind == "AutoTokenizer":
        tokenizer = AutoTokenizer.from_pretrained(saved, trust_remote_code=False)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(saved)
    assert tokenizer("é").input_ids == [1, 0xC3 + 4, 0xA9 + 4]
    assert tokenizer.chat_template == build_tokenizer().chat_template


def quantised(saved: Path, config):
    return AutoModelForCausalLM.from_pretrained(saved, quantization_config=config, dtype=torch.float32).eval()


def is_quantised(module: torch.nn.Module) -> bool:
    return type(module) is not torch.nn.Linear or type(module.weight.data) is not torch.Tensor


@pytest.mark.parametrize("kind", ["torchao", "quanto", pytest.param("bitsandbytes", marks=long_run)])
def test_a_quantised_model_keeps_its_patches(saved, kind):
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=KEPT)
    elif kind == "quanto":
        config = QuantoConfig(weights="int8", modules_to_not_convert=KEPT)
    else:
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT)
    whole = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval().requires_grad_(False)
    model = quantised(saved, config).requires_grad_(False)
    linears = {name for name, module in whole.named_modules() if type(module) is torch.nn.Linear}
    linear = {name: module for name, module in model.named_modules() if name in linears}
    kept = {name for name, module in linear.items() if not is_quantised(module)}
    assert kept == {name for name in linear if name.startswith(tuple(KEPT))}
    ids = random_rows(2, 60)
    assert torch.equal(model.patch(ids).patch_starts, whole.patch(ids).patch_starts)
    found, expected = model(ids).logits, whole(ids).logits
    assert 0 < float((found - expected).abs().max()) < 0.2 * float(expected.abs().max())
    written = [model.generate(ids, max_new_tokens=12, do_sample=False, decoding=name) for name in ("ar", "blt-dv")]
    # Where weights alone are rounded, verified decoding writes what plain decoding writes. bitsandbytes rounds states
    # too, by what else is in a call.
    assert torch.equal(*written) or kind == "bitsandbytes"


def test_continuous_batching_is_refused(saved):
    model = AutoModelForCausalLM.from_pretrained(saved)
    with pytest.raises(ValueError, match="Continuous batching.*left-padded"):
        model.generate_batch([[1, 5, 6], [1, 7]], max_new_tokens=3)


def test_a_chat_pipeline(saved):
    """The answer is what is written after the rendered conversation, and a second turn takes it up."""
    tokenizer = build_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(saved).eval()
    writer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    talk = [{"role": "user", "content": "Hi"}]
    settings = {"max_new_tokens": 10, "do_sample": False, "valid_utf8": True}
    for _ in range(2):
        prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        written = model.generate(**prompt, **settings)[0, prompt["input_ids"].shape[1] :]
        answer = writer(talk, **settings)[0]["generated_text"]
        assert answer[:-1] == talk and answer[-1]["role"] == "assistant"
        assert answer[-1]["content"] == tokenizer.decode(written, skip_special_tokens=True)
        talk = [*answer, {"role": "user", "content": "And?"}]


def test_an_added_token_is_refused_where_it_is_first_used(saved):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|im_start|>"])
    model = AutoModelForCausalLM.from_pretrained(saved)
    with pytest.raises(ValueError, match="as bytes"):
        model.resize_token_embeddings(len(tokenizer))
    ids = tokenizer("<|im_start|>user", return_tensors="pt").input_ids
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="261"):
            call(ids)
