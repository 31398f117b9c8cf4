# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Runs a checkpoint and its conversion side by side and prints what differs.

    fblt validate-blt --source BLT --converted FBLT [--prompts FILE] [--reference FILE]

What is compared with: outputs of Meta's code, where the source has a `reference.safetensors`; else transformers'
`BltForCausalLM` (`use_cache=False`). It loads the source itself or, for Meta's layouts, shares the weights of the
converted model. Both sides compute in float32 from the converted precision and without `max_patch_length`, with which
transformers' BLT loses a boundary. Prompts hold no `</s>`, over which it goes on attending.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import torch
from transformers import BltForCausalLM

from fblt.commands import Command
from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET

from .config_fields import BLT_VOCABULARY, ConfigError
from .open_checkpoint import FBLT, TRANSFORMERS, Checkpoint, fetch, open_checkpoint
from .reference import TOLERANCE, compare, parameters, patch_limit
from .report import Report
from .tensor_readers import ReadingError
from .transformers_model import blt_of

REFERENCE = "reference.safetensors"
PROMPTS = (
    "Bytes are all you need.",
    "def main():\n    return",
    "Grüße aus Zürich — 你好 🙂",
    "1 2 3 4 5 6 7 8 9 10 11 12",
)
NEW_BYTES = 16


class ValidationError(ValueError):
    """A conversion that does not reproduce its source."""


def validate(
    checkpoint: Checkpoint, converted: Path, prompts: tuple[str, ...] = PROMPTS, reference: Path | None = None
) -> Report:
    """Compares an opened source with the FBLT folder made of it."""
    report = Report()
    written = open_checkpoint(converted)
    if written.layout != FBLT:
        raise ReadingError(f"{converted}: has the {written.layout} layout; give the FBLT made of {checkpoint.folder}")
    _compare_sizes(checkpoint, written, report)
    if reference is None and (checkpoint.folder / REFERENCE).is_file():
        reference = checkpoint.folder / REFERENCE
    rounded = _rounded(checkpoint, written)
    if reference is not None and rounded is None:
        report.lines += compare(_load(converted), reference).lines
        return report
    if reference is not None:
        report.add("reference", f"left out: it is of float32 weights, and these are {rounded}", None)
    if checkpoint.layout == TRANSFORMERS:
        # One model at a time: both together may not fit into memory.
        expected = _expectations(_source_model(checkpoint, rounded), prompts)
        model = _load(converted)
    else:
        model = _load(converted)
        try:
            expected = _expectations(blt_of(model), prompts)
        except ConfigError as error:
            report.add("transformers' BLT", f"cannot run this model: {error}", None)
            return report
    with patch_limit(model, None):
        for expectation in expected:
            _compare_prompt(model, expectation, report)
    return report


def _load(converted: Path) -> FBLTForCausalLM:
    return FBLTForCausalLM.from_pretrained(converted, dtype=torch.float32).eval()


def _compare_sizes(checkpoint: Checkpoint, written: Checkpoint, report: Report) -> None:
    """Parameter counts, from the files alone."""
    shapes = written.tensors.shapes
    table = checkpoint.links(shapes)
    found = parameters(shapes) - sum(link.shape[1] for link in table if link.has_mask)
    wanted = parameters({key: checkpoint.tensors.shapes[key] for link in table for key in link.keys})
    report.add("parameters", f"{found:,} and {wanted:,} in the source", found == wanted)


def _rounded(checkpoint: Checkpoint, written: Checkpoint) -> torch.dtype | None:
    """The converted precision where it is lower than the source's."""
    dtype = written.tensors.dtypes["lm_head.weight"]
    used = [key for link in checkpoint.links(written.tensors.shapes) for key in link.keys]
    highest = max(checkpoint.tensors.dtypes[key].itemsize for key in used)
    return dtype if dtype.itemsize < highest else None


def _source_model(checkpoint: Checkpoint, rounded: torch.dtype | None) -> BltForCausalLM:
    """transformers' own model of a source in its layout, rounded as the conversion is."""
    return BltForCausalLM.from_pretrained(checkpoint.folder, dtype=rounded or torch.float32).float().eval()


@dataclass
class Expectation:
    """What transformers' BLT makes of a prompt.

    Attributes:
        label: names the prompt.
        ids: `[1, n]`.
        starts: `[n + 1]`, patch starts.
        logits: `[1, n, 260]`.
        text: `[1, n + NEW_BYTES]`, the prompt and what follows it greedily.
    """

    label: str
    ids: torch.Tensor
    starts: torch.Tensor
    logits: torch.Tensor
    text: torch.Tensor


@torch.no_grad()
def _expectations(oracle: BltForCausalLM, prompts: tuple[str, ...]) -> list[Expectation]:
    oracle.config.max_patch_length = None
    return [_expect(oracle, prompt) for prompt in prompts]


def _expect(oracle: BltForCausalLM, prompt: str) -> Expectation:
    ids = torch.tensor([[BOS_ID, *(byte + BYTE_OFFSET for byte in prompt.encode())]])
    _, lengths, _ = oracle.model.patcher(ids, patch_size=1, threshold=oracle.config.patching_threshold)
    starts = torch.zeros(ids.shape[1] + 1, dtype=torch.bool)
    # A last patch of no bytes is the one that starts at the next position.
    starts[(lengths[0].cumsum(0) - lengths[0]).clamp(max=ids.shape[1])] = True
    text = ids
    for _ in range(NEW_BYTES):
        text = torch.cat([text, oracle(text, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    label = repr(prompt if len(prompt) <= 24 else prompt[:21] + "...")
    return Expectation(label, ids, starts, oracle(ids, use_cache=False).logits, text)


@torch.no_grad()
def _compare_prompt(model: FBLTForCausalLM, expected: Expectation, report: Report) -> None:
    ids, label = expected.ids, expected.label
    agree = model.patch(ids).patch_starts[0] == expected.starts
    report.add(f"{label} patch starts", f"{int(agree.sum())} of {agree.numel()} equal", bool(agree.all()))
    gap = (model(ids, use_cache=False).logits[..., :BLT_VOCABULARY] - expected.logits).abs()
    report.add(f"{label} logits", f"max {gap.max():.1e}, mean {gap.mean():.1e}", bool(gap.max() <= TOLERANCE))
    settings = {"do_sample": False, "max_new_tokens": NEW_BYTES, "eos_token_id": None, "decoding": "blt-s"}
    written = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    agree = (written == expected.text)[0, ids.shape[1] :]
    report.add(f"{label} greedy text", f"{int(agree.sum())} of {NEW_BYTES} bytes equal", bool(agree.all()))


@click.command(cls=Command)
@click.option("--source", required=True, help="Folder or Hub repository of a BLT.")
@click.option("--converted", required=True, type=click.Path(path_type=Path), help="The FBLT folder made of it.")
@click.option("--entropy", help="As given to `convert`.")
@click.option("--entropy-window", type=click.IntRange(min=1), help="As given to `convert`.")
@click.option("--prompts", type=click.Path(path_type=Path), help="Text file, a prompt a line.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="Outputs of Meta's code.  [default: the source's reference.safetensors]",
)
def main(
    source: str,
    converted: Path,
    entropy: str | None,
    entropy_window: int | None,
    prompts: Path | None,
    reference: Path | None,
) -> None:
    """Compare a converted FBLT with the BLT it was made of."""
    checkpoint = open_checkpoint(fetch(source), fetch(entropy) if entropy else None, entropy_window)
    if checkpoint.layout == FBLT:
        raise ReadingError(f"--source {source}: is an FBLT; give what it was made of")
    texts = PROMPTS
    if prompts is not None:
        texts = tuple(line for line in prompts.read_text(encoding="utf-8").splitlines() if line)
    report = validate(checkpoint, converted, texts, reference)
    print(report.table())
    if not report.passed:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
