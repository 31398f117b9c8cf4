"""Pre-trains or continues an FBLT on the Hugging Face Trainer, from one YAML recipe.

    python -m training.train training/recipes/demo.yaml
    accelerate launch -m training.train training/recipes/demo.yaml

The same command resumes from the last checkpoint in the recipe's `output`. `--init-from` starts from saved weights
instead of random ones. The recipe's patcher must have been trained (`python -m training.train_patcher RECIPE`).
"""

import argparse
import hashlib
import json
import math
import shutil
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from modeling_fblt import FBLTConfig, FBLTForCausalLM
from training.optimizers import build_optimizer
from training.recipe import load_recipe
from training.sequences import collate, packed_dataset

LOSSES = ("next_byte_loss", "diffusion_loss")


class FBLTTrainer(Trainer):
    """The Trainer, with the recipe's optimizer and both terms of the loss in the logs."""

    def __init__(self, *args, recipe_optimizer: dict, **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe_optimizer = recipe_optimizer
        self.terms = {name: torch.zeros((), device=self.args.device) for name in LOSSES}
        self.term_count = 0

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model, **self.recipe_optimizer)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and outputs.get("diffusion_loss") is not None:
            self.term_count += 1
            for name in LOSSES:
                self.terms[name] += outputs[name]
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and self.term_count:
            steps = self.term_count / self.args.gradient_accumulation_steps
            for name in LOSSES:
                logs[name] = self.terms[name].item() / steps
                self.terms[name].zero_()
            logs["bits_per_byte"] = logs["next_byte_loss"] / math.log(2)
            self.term_count = 0
        if "eval_loss" in logs:
            logs["eval_bits_per_byte"] = logs["eval_loss"] / math.log(2)
        super().log(logs, *args, **kwargs)


def build_model(recipe: dict, init_from: str | None) -> FBLTForCausalLM:
    """A model with the recipe's geometry and its trained patcher, or the weights of `init_from`."""
    if init_from is not None:
        return FBLTForCausalLM.from_pretrained(init_from, dtype=torch.float32)
    folder = Path(recipe["patcher"]["output"])
    if not (folder / "patching.json").is_file():
        raise FileNotFoundError(
            f"`patcher.output` {str(folder)!r} holds no patcher: run `python -m training.train_patcher RECIPE` first."
        )
    threshold = json.loads((folder / "patching.json").read_text())["threshold"]
    config = FBLTConfig(**recipe["model"], patching_threshold=threshold)
    model = FBLTForCausalLM(config)
    model.model.patcher.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def patched_rows(recipe: dict, split: str, model: FBLTForCausalLM) -> Dataset:
    """Packed rows with patch starts, made once per data, patcher and threshold and kept beside the run."""
    digest = hashlib.sha256(
        json.dumps([recipe["data"], split, recipe["sequence_length"], recipe.get("max_bytes")]).encode()
    )
    digest.update(repr((recipe["seed"], model.config.patching_threshold, model.config.max_patch_length)).encode())
    for _, weight in sorted(model.model.patcher.state_dict().items()):
        digest.update(weight.detach().cpu().float().numpy().tobytes())
    folder = Path(recipe["output"]) / "rows" / f"{split}-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        limits = recipe.get("max_bytes") if split == "train" else None
        rows = packed_dataset(
            recipe["data"], split, recipe["sequence_length"], model.model.eval(), limits, recipe["seed"]
        )
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        rows.save_to_disk(str(partial))
        partial.rename(folder)
    return load_from_disk(str(folder)).with_format("torch")


def last_complete_checkpoint(output: Path) -> str | None:
    """The newest checkpoint of a run that was written to its end; one that a kill cut short is passed over."""
    complete = [folder for folder in output.glob("checkpoint-*") if (folder / TRAINER_STATE_NAME).is_file()]
    return str(max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]))) if complete else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="YAML recipe")
    parser.add_argument("--init-from", help="folder of a saved FBLT to continue from")
    parser.add_argument("--max-steps", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    set_seed(recipe["seed"])
    model = build_model(recipe, options.init_from)
    if options.max_steps is not None:
        recipe["trainer"]["max_steps"] = options.max_steps
    arguments = TrainingArguments(
        output_dir=recipe["output"],
        report_to=["tensorboard"],
        seed=recipe["seed"],
        prediction_loss_only=True,
        **recipe["trainer"],
    )
    with arguments.main_process_first(desc="patching"):
        train, validation = (patched_rows(recipe, split, model) for split in ("train", "validation"))
    model.set_attn_implementation(recipe.get("attn_implementation", "eager"))
    trainer = FBLTTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        recipe_optimizer=recipe["optimizer"],
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(Path(recipe["output"])))
    trainer.save_model(str(Path(recipe["output"]) / "final"))


if __name__ == "__main__":
    main()
