"""Fine-tunes the bundled checkpoint on a few files and shows what that changed. Read it from top to bottom.

\b
    python -m training.examples.finetune                # every weight but the patcher's
    python -m training.examples.finetune --lora         # small adapters on frozen weights, through PEFT
    python -m training.examples.finetune --text docs --text notes --suffix .md --output runs/finetuned

The text is this repository's own Python code, which the checkpoint has never read; every sixth file, chosen by
its name, is held out. Both terms of the loss are trained, next byte and blocks, so that drafts learn the new text too.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import torch
from datasets import Dataset
from fblt.training.data.text import clean_text
from fblt.training.evaluation.drafts import continuations, draft_figures
from fblt.training.evaluation.next_bytes import next_byte_figures
from fblt.training.evaluation.samples import Anchor, EncodedDocument, draw_anchors, right_padded
from fblt.training.packing.sequences import collate, encode_document, find_patch_starts, pack
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from fblt.commands import Command

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = ("benchmarks", "conversion", "examples", "modeling_fblt", "tests", "training")
HELD_OUT = 6  # one file in so many
ROW = 512  # bytes per training row
BATCH = 8  # rows per step
ANCHORS, CONTEXT = 200, 256  # where drafts are judged, and bytes read before each
SHOWN = 6  # drafts to look at


def read_files(folders: Sequence[Path], suffix: str) -> tuple[list[str], list[str]]:
    """Training texts and held-out texts. Whole files are held out, by a hash of their names: the same ones every time.

    Raises:
        ValueError: too few files.
    """
    texts: tuple[list[str], list[str]] = ([], [])
    for folder in folders:
        for file in sorted(folder.rglob(f"*{suffix}")):
            name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
            held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0
            # The checkpoint's own texts went through the same clean-up, which makes tabs of indents.
            text = clean_text(file.read_text(encoding="utf-8"))
            if text.strip():
                texts[held_out].append(text)
    if not all(texts):
        raise ValueError(
            f"--text {' '.join(map(str, folders))}: {len(texts[0])} {suffix} files to train on, {len(texts[1])} held "
            "out; give folders with more files"
        )
    return texts


def training_rows(model, texts: list[str], count: int, seed: int) -> Dataset:
    """Texts end to end in rows of equal length, of which at most `count` are drawn: no more than the run will read.

    The patcher stays as it is, so where patches start is found once, and not at every step.
    """
    rows = pack(texts, ROW)
    rows = rows[np.random.default_rng(seed).permutation(len(rows))[:count]]
    starts = find_patch_starts(model, rows)
    return Dataset.from_dict({"input_ids": rows, "patch_starts": starts}).with_format("torch")


def add_adapters(model, rank: int):
    """Adapters on every linear map but the frozen patcher's and the byte head, which PEFT leaves out by itself."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=r"(.*\.)?patcher\..*",
    )
    return get_peft_model(model, config)


def measure(model, documents: list[EncodedDocument], anchors: list[Anchor], seed: int) -> dict[str, float]:
    """Bits per byte of held-out documents, and how many bytes of a draft are right before the first wrong one."""
    drafts = draft_figures(model.eval(), anchors, batch_size=50, seed=seed)
    return {
        "bits per byte": next_byte_figures(model, documents, ROW, BATCH)["all"]["bits_per_byte"],
        "leading correct bytes, block in one step": drafts["one_step"]["leading_correct"]["mean"],
        "leading correct bytes, blt-s": drafts["blt-s"]["leading_correct"]["mean"],
        "leading correct bytes, next byte": drafts["ar"]["leading_correct"]["mean"],
    }


@torch.inference_mode()
def draft_blocks(model, tokenizer, anchors: list[Anchor]) -> list[str]:
    """What the block head drafts at each anchor in one step, as Python literals."""
    context, lengths = right_padded([anchor.context for anchor in anchors], model.device)
    carried = torch.tensor([[anchor.carried] for anchor in anchors], device=model.device)
    real, _ = right_padded([anchor.real for anchor in anchors], model.device)
    return [repr(tokenizer.decode(ids)) for ids in continuations(model, context, lengths, carried, real).one_step]


@click.command(cls=Command, help=__doc__)
@click.option(
    "--model", default=str(REPOSITORY / "checkpoints/fblt-demo"), help="Folder or Hub name; default: the bundled one."
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    multiple=True,
    default=[REPOSITORY / name for name in CODE],
    help="Folder; may be given several times; default: our code.",
)
@click.option("--suffix", default=".py", show_default=True, help="Which files of these folders.")
@click.option("--lora", is_flag=True, help="Train adapters only.")
@click.option("--rank", type=int, default=16, show_default=True, help="Of the adapters.")
@click.option("--steps", type=int, default=80, show_default=True, help=f"Of {BATCH} rows of {ROW} bytes.")
@click.option("--learning-rate", type=float, help="Default: 1e-3, with --lora 3e-3.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to save the result to; default: nowhere.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(**given) -> None:
    options = SimpleNamespace(**given)
    learning_rate = options.learning_rate or (3e-3 if options.lora else 1e-3)
    set_seed(options.seed)

    # 1. The model. Its file holds bfloat16; small updates would be lost in that, so it is trained in float32.
    model = AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=True)

    # 2. The text.
    train, held_out = read_files(options.text, options.suffix)
    documents = [EncodedDocument("held out", encode_document(text).astype(np.int64)) for text in held_out]
    anchors = draw_anchors(documents, ANCHORS, model.config.block_size - 1, CONTEXT, options.seed)
    rows = training_rows(model, train, options.steps * BATCH, options.seed)

    # 3. Before.
    before = measure(model, documents, anchors, options.seed)
    drafts_before = draft_blocks(model, tokenizer, anchors[:SHOWN])

    # 4. Training, by transformers' own Trainer: in train mode the model returns both terms of the loss.
    if options.lora:
        model = add_adapters(model, options.rank)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    settings = TrainingArguments(
        output_dir=str(options.output or "runs/finetune"),
        max_steps=options.steps,
        per_device_train_batch_size=BATCH,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.steps // 10,
        weight_decay=0.1,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        seed=options.seed,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(model, settings, train_dataset=rows, data_collator=collate)
    result = trainer.train()

    # 5. After. Adapters are merged: the model is then what it was, with other weights, and as fast.
    if options.lora:
        if options.output:
            model.save_pretrained(options.output / "adapter")
        model = model.merge_and_unload()
    after = measure(model, documents, anchors, options.seed)
    drafts_after = draft_blocks(model, tokenizer, anchors[:SHOWN])

    # 6. What changed.
    console = Console()
    figures = Table(title=f"{len(held_out)} held-out files, {ANCHORS} anchors", title_justify="left")
    for heading in ("", "before", "after"):
        figures.add_column(heading, justify="right" if heading else "left")
    for name in before:
        figures.add_row(name, f"{before[name]:.3f}", f"{after[name]:.3f}")
    console.print(figures)

    drafts = Table(title="blocks drafted in one step at the first of these anchors", title_justify="left")
    for heading in ("after", "the file goes on", "draft before", "draft after"):
        drafts.add_column(heading, no_wrap=True)
    for anchor, old, new in zip(anchors, drafts_before, drafts_after, strict=False):
        known = torch.tensor([*anchor.context[-15:], anchor.carried])
        texts = [repr(tokenizer.decode(ids, skip_special_tokens=True)) for ids in (known, anchor.real)]
        drafts.add_row(*(Text(text) for text in (*texts, old, new)))
    console.print(drafts)

    size = sum(len(text.encode()) for text in train) / 1e3
    seconds = result.metrics["train_runtime"]
    console.print(f"trained {trained / 1e6:.2f} M weights on {len(train)} files ({size:.0f} kB): ", end="")
    console.print(f"{options.steps} steps in {seconds:.0f} s")

    # 7. A folder that from_pretrained loads, code and tokenizer included.
    if options.output:
        model.save_pretrained(options.output)
        console.print(f"saved: {options.output}")


if __name__ == "__main__":
    main()
