# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Comparing a model with a `reference.safetensors` written by Meta's code.

Tensors of a case: `tokens` `[B, N]`, `entropies` `[B, N]`, `logits` `[B, N, 260]`, `patch_lengths` `[B, P]` with the
next position included. `mpl8.*` was computed with `max_patch_length` 8, `w512.entropies` with an entropy window of 512.
The rows of a batch influence each other in Meta's code: only what it computed for each row alone (`row_*`) is compared.
`gen.*` is greedy text that does not stop.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_fblt import FBLTForCausalLM

from .report import Report
from .weight_names import Shape

TOLERANCE = 1e-4
LIMIT = 8  # of the `mpl8` cases
Tensors = dict[str, torch.Tensor]


def starts_of(lengths: torch.Tensor, positions: int) -> torch.Tensor:
    """Patch lengths `[B, P]`, padded with 0, as boolean starts `[B, positions]`."""
    first = lengths.cumsum(1) - lengths
    starts = torch.zeros(lengths.shape[0], positions + 1, dtype=torch.bool)
    # Padding is sent to a column of its own, which is cut off.
    return starts.scatter(1, torch.where(lengths > 0, first, positions), True)[:, :positions]


@contextmanager
def patch_limit(model: FBLTForCausalLM, limit: int | None) -> Iterator[None]:
    """Sets the model's `max_patch_length` while the block runs."""
    before = model.config.max_patch_length
    model.config.max_patch_length = limit
    try:
        yield
    finally:
        model.config.max_patch_length = before


@torch.no_grad()
def compare(model: FBLTForCausalLM, path: Path) -> Report:
    """Everything that a reference file holds, a line per case."""
    reference = load_file(path)
    report = Report()
    own_limit = model.config.max_patch_length
    names = [key.removesuffix(".tokens") for key in reference if key.endswith(".tokens") and not key.startswith("gen.")]
    for name in sorted(names):
        for suffix, limit in (("", own_limit), (".mpl8", LIMIT)):
            with patch_limit(model, limit):
                _compare_case(model, reference, name, suffix, report)
    for suffix, limit in (("", own_limit), (".mpl8", LIMIT)):
        with patch_limit(model, limit):
            _compare_sweep(model, reference, suffix, report)
            for key in sorted(reference):
                name = key.removesuffix(f"{suffix}.prompt_tokens")
                if key.startswith("gen.") and name != key and not name.endswith(".mpl8"):
                    _compare_text(model, reference, name + suffix, report)
    return report


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> str:
    gap = (found - wanted).abs()
    return f"max {gap.max():.1e}, mean {gap.mean():.1e}"


def _near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= TOLERANCE)


def _window_suffix(model: FBLTForCausalLM, reference: Tensors, name: str) -> tuple[str, bool]:
    """Which entropies of a case to compare with, and whether its patches can be compared.

    Returns:
        The key of the entropies for the model's entropy window, and whether the patches of the case, which were made
        with the checkpoint's own window, are those of the model's window too.
    """
    patcher, wide = model.config.patcher_config, f"{name}.w512.entropies"
    meets_loader = patcher.sliding_window == 512 and wide in reference
    same = meets_loader and torch.equal(reference[wide], reference[f"{name}.entropies"])
    return (wide, same) if meets_loader else (f"{name}.entropies", True)


def _compare_case(model: FBLTForCausalLM, reference: Tensors, name: str, suffix: str, report: Report) -> None:
    batch = reference[f"{name}.tokens"].shape[0] > 1
    row = "row_" if batch else ""
    lengths, logits = (reference.get(f"{name}{suffix}.{row}{kind}") for kind in ("patch_lengths", "logits"))
    if logits is None or lengths is None:
        return
    ids = reference[f"{name}.tokens"].long()
    entropies, own_patches = _window_suffix(model, reference, name)
    if batch:
        entropies = entropies if "w512" in entropies else f"{name}.row_entropies"
    starts = starts_of(lengths, ids.shape[1] + 1)
    patched = model.patch(ids)
    if not batch or "w512" not in entropies:
        wanted = reference[entropies]
        report.add(
            f"{name}{suffix} entropies", _difference(patched.entropies, wanted), _near(patched.entropies, wanted)
        )
    if own_patches:
        agree = patched.patch_starts == starts
        report.add(f"{name}{suffix} patch starts", f"{int(agree.sum())} of {agree.numel()} equal", bool(agree.all()))
        found = model(ids, use_cache=False).logits[..., : logits.shape[-1]]
        report.add(f"{name}{suffix} logits", _difference(found, logits), _near(found, logits))
    found = model(ids, use_cache=False, patch_starts=starts).logits[..., : logits.shape[-1]]
    report.add(f"{name}{suffix} logits, given patches", _difference(found, logits), _near(found, logits))


def _compare_sweep(model: FBLTForCausalLM, reference: Tensors, suffix: str, report: Report) -> None:
    """Outputs after every prefix of `long`. Nothing looks ahead, so one pass over the longest must give all of them."""
    logits, lengths = (reference.get(f"sweep{suffix}.{kind}") for kind in ("last_logits", "patch_lengths"))
    if logits is None or "long.tokens" not in reference or not _window_suffix(model, reference, "long")[1]:
        return
    count = logits.shape[0]
    ids = reference["long.tokens"][:, :count].long()
    found = model(ids, use_cache=False).logits[0, :, : logits.shape[-1]]
    report.add(f"sweep{suffix} logits", _difference(found, logits), _near(found, logits))
    starts = model.patch(ids).patch_starts[0]
    wanted = starts_of(lengths, count + 1)
    agree = [torch.equal(starts[: n + 2], wanted[n, : n + 2]) for n in range(count)]
    report.add(f"sweep{suffix} patch starts", f"{sum(agree)} of {count} prefixes equal", all(agree))


def _compare_text(model: FBLTForCausalLM, reference: Tensors, name: str, report: Report) -> None:
    prompt, wanted = reference[f"{name}.prompt_tokens"][:1].long(), reference[f"{name}.tokens"][:1].long()
    if not _window_suffix(model, reference, "long")[1]:
        return
    for decoding in ("ar", "blt-s"):
        settings = {"decoding": decoding, "do_sample": False, "max_new_tokens": wanted.shape[1]}
        found = model.generate(prompt, attention_mask=torch.ones_like(prompt), eos_token_id=None, **settings)
        agree = found[:, prompt.shape[1] :] == wanted
        report.add(f"{name} text, {decoding}", f"{int(agree.sum())} of {agree.numel()} bytes equal", bool(agree.all()))


def parameters(shapes: dict[str, Shape]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())
