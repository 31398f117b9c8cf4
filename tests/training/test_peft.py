"""LoRA through PEFT: adapters stand where gradient comes, both losses train them, and merging them changes nothing."""

import copy

import pytest
import torch
from fblt.training.examples.finetune import add_adapters
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_fblt import FBLTForCausalLM
from tests.modeling.tiny import BLOCK, random_rows, tiny_model

EXACT = {"rtol": 0, "atol": 1e-12}


def adapted(base: FBLTForCausalLM):
    """A model with adapters that change what it computes: fresh ones would change nothing."""
    model = add_adapters(base, rank=3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model.eval()


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, return_dict=True).logits


def test_every_linear_map_has_an_adapter_but_the_patchers_and_the_head():
    plain = tiny_model()
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    model = add_adapters(plain, rank=3)
    found = {
        name.removesuffix(".lora_A.default") for name, _ in plain.named_modules() if name.endswith("lora_A.default")
    }
    assert linear - found == {"lm_head"} | {name for name in linear if name.startswith("model.patcher.")}
    assert all(("lora_" in name) == weight.requires_grad for name, weight in model.named_parameters())


def test_the_models_own_output_comes_through():
    model, ids = adapted(tiny_model()).train(), random_rows(2, 40)
    output = model(input_ids=ids, labels=ids)
    assert output.logits.shape == (2, 40, 261)
    assert output.loss > output.next_byte_loss > 0 and output.diffusion_loss > 0


def test_both_losses_train_every_adapter():
    model, ids = adapted(tiny_model()).train(), random_rows(2, 60)

    def gradients(diffusion_loss_weight: float) -> dict[str, torch.Tensor]:
        model.config.diffusion_loss_weight = diffusion_loss_weight
        model.zero_grad()
        torch.manual_seed(5)  # the same blocks
        model(input_ids=ids, labels=ids, return_dict=True).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if "lora_" in name}

    # The loss is `clean + weight * blocks`, so two weights tell the two gradients apart.
    once, twice = gradients(1.0), gradients(2.0)
    assert len(once) > 50
    for name, gradient in once.items():
        blocks = twice[name] - gradient
        clean = gradient - blocks
        assert blocks.norm() > 1e-9 and clean.norm() > 1e-9, name


@pytest.mark.parametrize("decoder_input", ["embedding", "encoder"])
def test_merged_weights_decode_as_before_merging(decoder_input):
    model, ids = adapted(tiny_model(seed=1, decoder_input=decoder_input)), random_rows(2, 40)
    modes = ("ar", "blt-s", "blt-d", "blt-dv")
    plain = logits(model.get_base_model(), ids)
    before = {mode: model.generate(input_ids=ids, max_new_tokens=2 * BLOCK, decoding=mode) for mode in modes}
    merged = model.merge_and_unload()
    assert type(merged) is FBLTForCausalLM and not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(logits(merged, ids), plain, **EXACT)
    for mode, written in before.items():
        assert torch.equal(merged.generate(ids, max_new_tokens=2 * BLOCK, decoding=mode), written), mode
    unadapted = tiny_model(seed=1, decoder_input=decoder_input)
    assert not torch.allclose(logits(unadapted, ids), plain)


def test_adapters_and_merged_weights_are_saved_and_loaded(tmp_path):
    tiny_model(seed=2).save_pretrained(tmp_path / "base")
    base = FBLTForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float64)
    model = adapted(base)
    ids = random_rows(2, 40)
    expected = logits(model, ids)
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert saved and all("lora_" in name and "patcher" not in name for name in saved)

    fresh = FBLTForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float64)
    again = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    torch.testing.assert_close(logits(again, ids), expected, **EXACT)
    # The adapter knows its base: one call is enough.
    whole = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", trust_remote_code=True, dtype=torch.float64)
    torch.testing.assert_close(logits(whole, ids), expected, **EXACT)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = FBLTForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float64)
    torch.testing.assert_close(logits(merged, ids), expected, **EXACT)


def test_the_trainer_changes_adapters_and_nothing_else(tmp_path):
    model = add_adapters(tiny_model(dtype=torch.float32), rank=3)
    before = copy.deepcopy(dict(model.named_parameters()))
    starts = torch.arange(33) % 3 < 2  # some patches of one byte, some of two
    rows = [{"input_ids": ids, "labels": ids, "patch_starts": starts} for ids in random_rows(6, 32)]
    settings = {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "save_strategy": "no"}
    arguments = TrainingArguments(str(tmp_path), **settings, use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = Trainer(model, arguments, train_dataset=rows)
    assert trainer.train().training_loss > 0
    for name, weight in model.named_parameters():
        # A fresh B is 0, so A has no gradient in the first step; after that both move.
        assert torch.equal(weight, before[name]) == ("lora_" not in name), name
    trainer.save_model(str(tmp_path / "adapter"))
    assert set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))


def test_a_draft_head_takes_adapters_and_trains_through_them():
    base = tiny_model()
    base.add_draft_head(hidden_size=8)
    base.draft_head.output_projection.weight.data.normal_(std=0.3)
    model, ids = adapted(base).train(), random_rows(2, 60)
    output = model(input_ids=ids, labels=ids, return_dict=True)
    output.loss.backward()
    found = [weight.grad for name, weight in model.named_parameters() if "draft_head" in name and "lora_" in name]
    assert output.draft_head_loss > 0 and len(found) == 8  # two for each of its four linear maps
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found)
    drafted = {"max_new_tokens": 8, "do_sample": False, "decoding": "blt-d"}
    text = model.eval().generate(input_ids=ids[:, :20], **drafted)
    assert torch.equal(model.merge_and_unload().generate(ids[:, :20], **drafted), text)
