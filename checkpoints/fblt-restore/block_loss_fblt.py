# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The block-diffusion objective: where blocks stand, how they are corrupted, what they cost.

Pure functions over right-padded rows. All randomness comes from torch's global generator, so a run that restores
its state repeats.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

IGNORED = -100
# Of blocks with a known prefix, the share that has 0 known bytes, and 1. Longer prefixes are equally likely.
KNOWN_NONE, KNOWN_ONE = 0.4, 0.4


@dataclass
class Blocks:
    """Blocks of a batch; `[batch, blocks]` or `[batch, blocks, block_size]`.

    Attributes:
        anchors: clean position of each block's first byte, sorted.
        input_ids: bytes of the block, `<mask>` where corrupted.
        targets: the bytes themselves.
        present: False past the document's end and in blocks that only pad the batch.
        masked: positions that carry loss.
        weight: factor of each masked position's loss.
    """

    anchors: torch.Tensor
    input_ids: torch.Tensor
    targets: torch.Tensor
    present: torch.Tensor
    masked: torch.Tensor
    weight: torch.Tensor


def choose_anchors(
    starts: torch.Tensor,
    document_start: torch.Tensor,
    lengths: torch.Tensor,
    block_fraction: float,
    random_fraction: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One block per patch start, the first of each document left out; a share of them moved to a random byte.

    Args:
        starts, document_start: `[batch, length]`.
        lengths: `[batch]`, bytes per row.
        block_fraction: share of patch starts, drawn at random, that get a block.
        random_fraction: share of blocks whose anchor is drawn uniformly from the row instead.

    Returns:
        anchors `[batch, blocks]`, sorted, and which of them are real. Padding stands at the end.
    """
    length = starts.shape[1]
    position = torch.arange(length, device=starts.device)
    allowed = (position < lengths[:, None]) & (position != document_start)
    chosen = starts & allowed
    if block_fraction < 1:
        chosen = chosen & (torch.rand(chosen.shape, device=chosen.device) < block_fraction)
    blocks = max(int(chosen.sum(1).max()), 1)
    anchors = torch.where(chosen, position, length).sort(dim=1).values[:, :blocks]
    if random_fraction > 0:
        drawn = (torch.rand(anchors.shape, device=anchors.device) * lengths[:, None]).long()
        move = torch.rand(anchors.shape, device=anchors.device) < random_fraction
        drawn = torch.where(allowed.gather(1, drawn), drawn, anchors)
        anchors = torch.where(move & (anchors < length), drawn, anchors).sort(dim=1).values
    real = anchors < length
    return anchors.clamp(max=length - 1), real


def draw_masks(
    shape: torch.Size, corruption: str, t_min: float, draft_fraction: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which block positions to mask, and the weight of their loss; both `[batch, blocks, block_size]`.

    Args:
        corruption: `"uniform"` (paper section 3): one `t ~ U(t_min, 1)` per row, each byte masked with probability `t`,
            weight `1/t`. `"per_block"`: the same with a `t` of its own for every block. `"prefix"`: the first 0, 1 or a
            few bytes known, all others masked, weight 1. `"draft"`: `"prefix"` for a share `draft_fraction` of blocks,
            drawn at random, `"per_block"` for the others.
    """
    if corruption == "uniform":
        return _mask_at_random(shape, 1, t_min, device)
    if corruption == "per_block":
        return _mask_at_random(shape, shape[1], t_min, device)
    if corruption == "prefix":
        suffix = _mask_after_prefix(shape, device)
        return suffix, torch.ones(shape, device=device)
    masked, weight = _mask_at_random(shape, shape[1], t_min, device)
    suffix = _mask_after_prefix(shape, device)
    draft = torch.rand(*shape[:2], 1, device=device) < draft_fraction
    return torch.where(draft, suffix, masked), torch.where(draft, 1.0, weight)


def _mask_at_random(
    shape: torch.Size, times: int, t_min: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each byte masked with probability `t`, of which a row has `times` (1, or one per block); weight `1/t`."""
    t = t_min + (1 - t_min) * torch.rand(shape[0], times, 1, device=device)
    masked = torch.rand(shape, device=device) < t
    return masked, (1 / t).expand(shape)


def _mask_after_prefix(shape: torch.Size, device: torch.device) -> torch.Tensor:
    """All but the first bytes of a block masked; how many are known is drawn for each block."""
    batch, blocks, block_size = shape
    kind = torch.rand(batch, blocks, 1, device=device)
    longer = 2 + (torch.rand(batch, blocks, 1, device=device) * max(block_size - 2, 1)).long()
    known = torch.where(kind < KNOWN_NONE, 0, torch.where(kind < KNOWN_NONE + KNOWN_ONE, 1, longer))
    return torch.arange(block_size, device=device) >= known.clamp(max=block_size - 1)


def build_blocks(
    ids: torch.Tensor,
    targets: torch.Tensor,
    starts: torch.Tensor,
    document_start: torch.Tensor,
    lengths: torch.Tensor,
    config,
) -> Blocks:
    """Blocks of `config.block_size` bytes over clean rows, corrupted as the config says.

    Args:
        ids: `[batch, length]`.
        targets: `[batch, length]`, label of the byte *after* each position; -100: no loss, and never masked.
        starts, document_start: `[batch, length]`.
        lengths: `[batch]`.
    """
    anchors, real = choose_anchors(
        starts, document_start, lengths, config.block_fraction, config.random_anchor_fraction
    )
    length = ids.shape[1]
    position = anchors[..., None] + torch.arange(config.block_size, device=ids.device)
    inside = position < lengths[:, None, None]
    flat = position.clamp(max=length - 1).flatten(1)

    def at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return values.gather(1, index).view_as(position)

    same_document = at(document_start, flat) == document_start.gather(1, anchors)[..., None]
    present = inside & same_document & real[..., None]
    labels = at(targets, (flat - 1).clamp(min=0))
    masked, weight = draw_masks(
        position.shape, config.corruption, config.diffusion_t_min, config.draft_fraction, ids.device
    )
    masked = masked & present & (labels != IGNORED)
    block_ids = at(ids, flat)
    return Blocks(
        anchors=anchors,
        input_ids=block_ids.masked_fill(masked, config.mask_token_id),
        targets=labels,
        present=present,
        masked=masked,
        weight=weight / config.block_fraction,  # keeps the expected loss what all blocks together would give
    )


def draft_head_weight(blocks: Blocks, config) -> torch.Tensor:
    """Weight of each masked position's loss under the draft head, `[batch, blocks, block_size]`; see
    [`FBLTDraftHeadConfig`].
    """
    earlier = blocks.masked.long().cumsum(-1) - 1
    return torch.exp(-earlier / config.draft_head_config.loss_decay) / config.block_fraction


def bytes_before(ids: torch.Tensor, anchors: torch.Tensor, block_size: int) -> torch.Tensor:
    """The true byte before each position of each block: ids `[batch, length]` and anchors `[batch, blocks]`, none of
    them 0, give `[batch, blocks, block_size]`.
    """
    position = anchors[..., None] + torch.arange(block_size, device=ids.device) - 1
    return ids.gather(1, position.clamp(min=0, max=ids.shape[1] - 1).flatten(1)).view_as(position)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def next_byte_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood of `targets` `[batch, length]` (-100: none) under `logits`, in nats."""
    flat = _at_least_float32(logits).flatten(0, -2)
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def block_loss(
    block_logits: torch.Tensor, clean_logits: torch.Tensor, blocks: Blocks, distillation: float
) -> torch.Tensor:
    """Summed, weighted loss of the masked block positions, in nats (Eq. 7).

    Args:
        block_logits: `[masked positions, vocab]`, in the order of `blocks.masked`.
        clean_logits: `[batch, length, vocab]`: the next-byte head, whose distribution for the same byte is the
            teacher of the share `distillation`; no gradient flows into it.
    """
    row, block, offset = blocks.masked.nonzero(as_tuple=True)
    weight = blocks.weight[row, block, offset]
    log_q = torch.log_softmax(_at_least_float32(block_logits), dim=-1)
    loss = 0.0
    if distillation < 1:
        picked = log_q.gather(1, blocks.targets[row, block, offset][:, None])[:, 0]
        loss = loss - (1 - distillation) * (weight * picked).sum()
    if distillation > 0:
        before = blocks.anchors[row, block] + offset - 1
        teacher = torch.log_softmax(_at_least_float32(clean_logits.detach()[row, before]), dim=-1)
        divergence = F.kl_div(log_q, teacher, reduction="none", log_target=True).sum(-1)
        loss = loss + distillation * (weight * divergence).sum()
    return loss
