"""A run from a recipe: model, rows, Trainer, resumption."""

import os
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import TrainingArguments, set_seed

from fblt.checksums import check_folder
from fblt.locks import alone_in
from modeling_fblt import FBLTConfig, FBLTForCausalLM

from .evaluation.run_metrics import row_anchors
from .packing.build import SPLITS
from .packing.damaged_lines import lines_for_model
from .packing.patching import load_trained_patcher
from .packing.run_rows import rows_for_model, stream_for_run
from .packing.sequences import collate
from .packing.streamed import saved_parts
from .recipe import OBJECTIVE
from .running.checkpoints import clean, newest_checkpoint, set_damaged_aside
from .running.compiled import compile_layers
from .running.sharded import allow_sharding_on_cpu
from .trainer import FBLTTrainer

EVALUATION_DRAFTS = 256


def build_model(recipe: dict, init_from: str | None) -> FBLTForCausalLM:
    """A model with the recipe's geometry and its trained patcher, or the weights of `init_from`, in float32.

    Raises:
        FileNotFoundError: the patcher was not trained yet.
        ValueError: the recipe's geometry is not that of `init_from`.
    """
    init_from = init_from or recipe.get("init_from")
    if init_from is not None:
        return load_initial(init_from, recipe.get("model", {}))
    config = FBLTConfig(**recipe["model"])
    if config.patching_mode != "entropy":
        return FBLTForCausalLM(config)
    model = FBLTForCausalLM(config)
    model.config.patching_threshold = load_trained_patcher(model.model.patcher, recipe["patcher"]["output"])
    return model


def load_initial(source: str, settings: dict) -> FBLTForCausalLM:
    """Saved weights under the objective that `settings`, a recipe's `model` section, asks for."""
    check_folder(Path(source))
    model = FBLTForCausalLM.from_pretrained(source, dtype=torch.float32)
    # Blocks of any size train the same weights; but whether there are blocks decides whether `<mask>` has an embedding.
    head = settings.get("draft_head_config")
    if head is not None and model.draft_head is None:
        model.add_draft_head(**head)
    fixed = {"block_size"} if None in (model.config.block_size, settings.get("block_size", 0)) else set()
    for name in OBJECTIVE:
        if name in settings and name not in fixed:
            setattr(model.config, name, settings[name])
    saved = model.config.to_dict()
    FBLTConfig.from_dict(saved)  # checks the values together
    drafted = model.generation_config.block_size
    if isinstance(drafted, int) and isinstance(model.config.block_size, int) and drafted > model.config.block_size:
        model.generation_config.block_size = model.config.block_size  # decoding refuses longer blocks
    _check_geometry(settings, saved, source, "model.")
    return model


def _check_geometry(settings: dict, saved: dict, source: str, prefix: str) -> None:
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(saved.get(name), dict):
            _check_geometry(value, saved[name], source, f"{prefix}{name}.")
        elif value != saved.get(name):
            remedy = "leave it out"
            if name == "block_size" and saved.get(name) is None:
                remedy = "give the weights a block head with `python -m conversion.add_diffusion`"
            raise ValueError(
                f"`{prefix}{name}` is {value!r}, but {str(saved.get(name))} in the weights of {source!r}, "
                f"which decide: {remedy}."
            )


def training_arguments(recipe: dict) -> TrainingArguments:
    """The recipe's `trainer` section, with what this project sets otherwise than the Trainer's own defaults."""
    settings = {
        "report_to": ["tensorboard"],
        "logging_nan_inf_filter": False,  # it waits for the device at every step
        **recipe["trainer"],
    }
    # YAML reads a bare `no` as False.
    settings |= {name: "no" for name in ("eval_strategy", "save_strategy") if settings.get(name) is False}
    if "stream" in recipe:
        settings["ignore_data_skip"] = True  # a stream goes on from its own place
    # Processes that find no GPU would each train alone.
    settings.setdefault("use_cpu", not torch.accelerator.is_available())
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
            raise ValueError(
                f"`fsdp_version` is {version}: set it to 2, as training/accelerate/fsdp2.yaml has it: version 1 "
                "takes no optimizer that is made of two, as Muon with AdamW is, and was not tested."
            )
        if settings["use_cpu"]:
            allow_sharding_on_cpu()
            settings["accelerator_config"] = {**settings.get("accelerator_config", {}), "use_configured_state": True}
    return TrainingArguments(output_dir=recipe["output"], seed=recipe["seed"], prediction_loss_only=True, **settings)


def build_trainer(recipe: dict, init_from: str | None = None) -> FBLTTrainer:
    """Everything that a run needs, ready for `train`."""
    arguments = training_arguments(recipe)
    set_seed(recipe["seed"])
    model = build_model(recipe, init_from)
    output = Path(recipe["output"])
    with arguments.main_process_first(local=False, desc="checkpoints"):
        if arguments.process_index == 0:
            clean(output)
            set_damaged_aside(output)
    with arguments.main_process_first(desc="rows"):
        if "damage" in recipe:
            rows = lines_for_model(recipe, model.model.eval())
        else:
            wanted = SPLITS if arguments.eval_strategy != "no" else SPLITS[:1]  # else nothing needs to be held out
            rows = rows_for_model(recipe, model.model.eval(), wanted)
    if "stream" in recipe:
        saved = saved_parts(newest_checkpoint(output))
        rows["train"] = stream_for_run(recipe, arguments, saved)
    model.set_attn_implementation(recipe.get("attn_implementation", "eager"))
    if "compile_layers" in recipe:
        compile_layers(model, recipe["compile_layers"])
    anchors = []
    if model.config.block_size is not None and arguments.eval_strategy != "no":
        wanted = recipe.get("evaluation_drafts", EVALUATION_DRAFTS)
        anchors = row_anchors(rows["validation"], wanted, model.config.block_size - 1, recipe["seed"])
    return FBLTTrainer(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        data_collator=collate,
        recipe_optimizer=recipe["optimizer"],
        anchors=anchors,
    )


def run(recipe: dict, init_from: str | None = None) -> None:
    """Trains, from the newest whole checkpoint in the recipe's `output` if there is one; writes `<output>/final`."""
    output = Path(recipe["output"])
    with alone_in(output) if int(os.environ.get("RANK", 0)) == 0 else nullcontext():
        trainer = build_trainer(recipe, init_from)
        checkpoint = newest_checkpoint(output)  # whole: others were set aside
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.save_final()
