"""What a recipe's training will cost on GPUs, before they are rented. Nothing is trained, and no GPU is needed.

\b
    fblt plan training/recipes/1b-blt-d.yaml --gpus 64 --gpu h100

Parameters are exact. Operations and memory are counted on a dry run of the step, with weights that have no values;
tests hold them against steps that are made, on a CPU. What several GPUs hold each, speed, hours and decoding are
computed from there, by an assumed `--utilisation`, and marked so. A plan takes a minute or two.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console

from fblt.commands import Command
from fblt.files import write_text_atomically
from modeling_fblt import FBLTConfig, FBLTForCausalLM

from ...recipe import load_recipe
from ..traffic import component_parameters, traffic_gb
from .dry_run import StepCost, cache_bytes, dry_step, fake_model
from .memory import Weights, optimizer_step, sharded_memory, whole_memory
from .tables import print_plan


@dataclass(frozen=True)
class GPU:
    """A GPU by its data sheet: dense bfloat16 operations a second, bytes of memory, bytes read a second."""

    operations: float
    memory: float
    bandwidth: float


GPUS = {
    "a100": GPU(312e12, 80e9, 2.0e12),
    "h100": GPU(989e12, 80e9, 3.35e12),
    "h200": GPU(989e12, 141e9, 4.8e12),
}
# The paper's 3B, French to English: share of drafted bytes accepted by bytes drafted (one-step drafts for `blt-dv`),
# and `blt-d`'s calls of the decoder per block at confidence 0.7.
ACCEPTED = {"blt-s": {4: 0.9493, 8: 0.8716, 16: 0.6993}, "blt-dv": {4: 0.9312, 8: 0.8463, 16: 0.6033}}
STEPS = {4: 216 / 128, 8: 179 / 64, 16: 162 / 32}


@dataclass(frozen=True)
class Run:
    """What a recipe says about the step that each process makes."""

    config: FBLTConfig
    rows: int
    length: int
    steps: int
    accumulated: int
    optimizer: str
    half: bool
    checkpointing: bool

    @classmethod
    def of(cls, recipe: dict) -> "Run":
        """
        Raises:
            ValueError: the recipe goes on from saved weights, or does not say how long it trains.
        """
        trainer = recipe["trainer"]
        if "init_from" in recipe:
            raise ValueError(
                f"`init_from` {recipe['init_from']!r} brings the geometry: give a recipe with a whole `model`."
            )
        if trainer.get("max_steps", 0) < 1:
            raise ValueError(f"`trainer.max_steps` is {trainer.get('max_steps')!r}: give the steps to plan for.")
        return cls(
            config=FBLTConfig(**recipe["model"]),
            rows=trainer.get("per_device_train_batch_size", 8),
            length=recipe["sequence_length"],
            steps=trainer["max_steps"],
            accumulated=trainer.get("gradient_accumulation_steps", 1),
            optimizer=recipe["optimizer"].get("name", "adamw"),
            half=bool(trainer.get("bf16")),
            checkpointing=bool(trainer.get("activation_checkpointing", trainer.get("gradient_checkpointing"))),
        )


def parameters(model: FBLTForCausalLM) -> dict[str, int]:
    """Parameters of each network, tables of n-grams by themselves."""
    parts = {
        "patcher": model.model.patcher,
        "encoder": model.model.encoder,
        "global": model.model.global_transformer,
        "decoder": model.model.decoder,
        "byte head": model.lm_head,
        "draft head": model.draft_head,
        "n-gram tables": model.model.encoder.hash_embedding,
    }
    counts = {name: 0 if part is None else sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return counts | {"encoder": counts["encoder"] - counts["n-gram tables"]}


def changed(config: FBLTConfig, **fields) -> FBLTConfig:
    return FBLTConfig.from_dict(config.to_dict() | fields)


def block_operations(config: FBLTConfig, rows: int, length: int, patch_length: float) -> dict[str, int]:
    """Mean operations of a forward pass of `decoder` and `byte head`, and what `blocks` add to both."""
    # Of the networks before the decoder nothing is asked here.
    short = changed(config, global_config=config.global_config.to_dict() | {"num_hidden_layers": 1})

    def forward(**fields) -> dict[str, int]:
        return dry_step(fake_model(changed(short, **fields)), rows, length, patch_length, backward=False).forward

    clean = forward(diffusion_loss_weight=0.0, draft_head_loss_weight=0.0)
    found = {name: clean[name] for name in ("decoder", "byte head")}
    if config.block_size is None or config.diffusion_loss_weight == 0:
        return found | {"blocks": 0}
    # One draw of `t` for every row, or one for every block, have the same mean, from which a row may be far.
    mean = forward(corruption="per_block" if config.corruption == "uniform" else config.corruption)
    return found | {"blocks": sum(mean[name] - count for name, count in found.items())}


def fullest_step(run: Run, patch_length: float, shards: int) -> tuple[StepCost, Weights]:
    """The step with the most memory that a recipe can draw: all bytes of all blocks masked."""
    config = run.config
    if config.corruption in ("uniform", "per_block"):
        config = changed(config, diffusion_t_min=1 - 1e-6)
    gathered_half = run.half and shards > 1
    model = fake_model(config, torch.bfloat16 if gathered_half else torch.float32)
    if run.checkpointing:
        model.activation_checkpointing_enable()
    return dry_step(model, run.rows, run.length, patch_length, run.half), Weights.of(model, run.optimizer)


def plan(recipe: dict, gpus: int, gpu: str, utilisation: float, shards: int | None, patch_length: float) -> dict:
    """All figures; see the command.

    Raises:
        ValueError: the recipe cannot be planned, see [`Run.of`], or the GPUs cannot be divided into such shards.
    """
    run, card = Run.of(recipe), GPUS[gpu]
    shards = gpus if shards is None else shards
    if shards < 1 or gpus % shards:
        raise ValueError(f"`shards` is {shards}: give a number that divides the {gpus} GPUs.")
    model = fake_model(run.config)
    step, weights = fullest_step(run, patch_length, shards)
    forward = step.forward | block_operations(run.config, run.rows, run.length, patch_length)
    per_byte = {name: count / (run.rows * run.length) for name, count in forward.items()}
    ahead = sum(per_byte.values())
    back = ahead * step.backward / sum(step.forward.values())
    speed = gpus * card.operations * utilisation / (ahead + back)
    total = run.steps * run.accumulated * run.rows * run.length * gpus
    accumulates = run.accumulated > 1
    if shards > 1:
        moments = sharded_memory(weights, step.arrivals, shards, 2 if run.half else 4, accumulates)
    else:
        moments = whole_memory(weights, step.arrivals, gpus, accumulates)
    update = optimizer_step(weights, shards)
    needed = max(sum(moments.values()), sum(update.values()))
    return {
        "settings": {
            "gpus": gpus,
            "gpu": gpu,
            "utilisation": utilisation,
            "shards": shards,
            "patch_length": patch_length,
            "attention": recipe.get("attn_implementation", "eager"),
            "checkpointing": run.checkpointing,
            "rows": run.rows,
            "sequence_length": run.length,
            "bytes_per_step": total // run.steps,
        },
        "parameters": parameters(model),
        "operations_per_byte": {**per_byte, "forward": ahead, "backward": back},
        "memory": {"backward pass": moments, "optimizer's step": update},
        "memory_needed": needed,
        "fits": needed < card.memory,
        "bytes": total,
        "bytes_per_second": speed,
        "hours": total / speed / 3600,
        "cache_bytes": cache_bytes(fake_model(run.config, torch.bfloat16), run.length, patch_length),
        "decoding": decoding(run.config, component_parameters(model), card, patch_length),
    }


def decoding(config: FBLTConfig, read: dict[str, int], card: GPU, patch_length: float) -> list[dict]:
    """Calls and Eq. 8 traffic a byte by decoding, bfloat16, if drafts are accepted as the paper's 3B ones were.

    Rounds are this project's: one call of encoder and global transformer each, and no more than one for each patch.
    """
    found = [("ar", 1.0, 1 / patch_length)]
    for size, share in ACCEPTED["blt-s"].items():
        written = share * size + 1
        found.append((f"blt-s, {size} bytes", (size + 1) / written, 1 / max(written, patch_length)))
    size = config.block_size
    if size in STEPS:
        written = ACCEPTED["blt-dv"][size] * size + 1
        found.append((f"blt-dv, blocks of {size}", 2 / written, 1 / max(written, patch_length)))
        found.append((f"blt-d, blocks of {size}", STEPS[size] / size, 1 / max(size, patch_length)))
    rows = []
    for name, decoder, latents in found:
        traffic = traffic_gb({"decoder": decoder, "global": latents}, read)
        rows.append(
            {
                "decoding": name,
                "decoder_calls": decoder,
                "global_calls": latents,
                "traffic_mb": 1e3 * traffic,
                "bytes_per_second_at_most": card.bandwidth / (1e9 * traffic),
            }
        )
    return rows


@click.command(cls=Command, help=__doc__)
@click.argument("recipe")
@click.option("--gpus", type=click.IntRange(1), default=64, show_default=True)
@click.option("--gpu", type=click.Choice(list(GPUS)), default="h100", show_default=True)
@click.option(
    "--utilisation",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.4,
    show_default=True,
    help="Share of the GPUs' peak that all operations of training reach: an assumption.",
)
@click.option(
    "--shards",
    type=click.IntRange(1),
    help="Parts that weights, gradients and the optimizer's state are split into (FSDP2): by default as many as there "
    "are GPUs; 1 is DDP; what lies between, replicas of shards.",
)
@click.option("--patch-length", type=click.FloatRange(1), default=4.0, show_default=True, help="Mean bytes of a patch.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file to write.")
def main(recipe: str, output: Path | None, **options) -> None:
    found = plan(load_recipe(recipe), **options)
    print_plan(found, Console())
    if output is not None:
        write_text_atomically(output, json.dumps(found, indent=2) + "\n")
        click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
