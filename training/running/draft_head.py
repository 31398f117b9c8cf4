"""Training of a draft head on frozen weights: states of blocks computed once, then a few minutes of steps on them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.block_loss_fblt import Blocks, bytes_before

# How many first bytes of a block are known when decoding drafts: one, the carried byte; none; or more, where unmasking
# takes several steps.
KNOWN_ONE, KNOWN_NONE = 0.8, 0.1
WARMUP = 50
MAX_NORM = 1.0


@dataclass
class BlockStates:
    """Blocks of a frozen model, with all that the head's training needs of it.

    Attributes:
        hidden: `[blocks, block_size, width]`, decoder states.
        teacher: `[blocks, block_size, width]`, the states from which the next-byte head predicts the same bytes.
        before, targets: `[blocks, block_size]`, the byte before each position, and the byte itself.
        masked: `[blocks, block_size]`, False for the known bytes that a block begins with.
    """

    hidden: torch.Tensor
    teacher: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor
    masked: torch.Tensor

    def __len__(self) -> int:
        return len(self.masked)

    def take(self, index: torch.Tensor | slice) -> "BlockStates":
        return BlockStates(*(getattr(self, field.name)[index] for field in fields(self)))


@torch.no_grad()
def block_states(
    model: FBLTForCausalLM, rows: np.ndarray, count: int, seed: int, batch_size: int = 8, progress: bool = True
) -> BlockStates:
    """States of `count` blocks at random bytes of packed rows, kept in bfloat16.

    Args:
        rows: `[rows, length]` ids; a random part of them is read, each of its rows for `length / block_size` blocks.
        count: fewer are found if the rows hold no more.

    Raises:
        ValueError: no block fits into the rows' documents.
    """
    parts, found = [], 0
    with tqdm(total=count, desc="blocks", unit="block", disable=not progress) as bar:
        for part in _states_by_batch(model, rows, seed, batch_size):
            parts.append(part)
            bar.update(min(len(part), count - found))
            found += len(part)
            if found >= count:
                break
    if found == 0:
        raise ValueError(f"`data` has no document of more than {model.config.block_size} bytes: give longer texts.")
    columns = zip(*([getattr(part, field.name) for field in fields(part)] for part in parts), strict=True)
    return BlockStates(*(torch.cat(column)[:count] for column in columns))


def _states_by_batch(model: FBLTForCausalLM, rows: np.ndarray, seed: int, batch_size: int) -> Iterator[BlockStates]:
    base, device = model.model, model.device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator).numpy()
    for first in range(0, len(order), batch_size):
        ids = torch.from_numpy(rows[order[first : first + batch_size]].astype(np.int64)).to(device)
        chunk = base.begin_chunk(ids, torch.full((len(ids),), ids.shape[1], device=device), None)
        base.segment(chunk)
        states = base.encode(chunk)
        latents = base.compress(chunk, states)
        blocks = random_blocks(ids, chunk.document_start[:, :-1], model.config, generator)
        whole = blocks.present.all(-1)
        if not bool(whole.any()):
            continue
        # With `masked=present` the states of known positions are given too.
        clean, hidden = base.decode_with_blocks(chunk, states, latents, replace(blocks, masked=blocks.present))
        size, row = blocks.masked.shape[-1], whole.nonzero()[:, 0]
        position = blocks.anchors[whole][:, None] + torch.arange(size, device=device)
        yield BlockStates(
            hidden=hidden.unflatten(0, (-1, size)).bfloat16(),
            teacher=clean[row[:, None], position - 1].bfloat16(),
            before=bytes_before(ids, blocks.anchors, size)[whole],
            targets=blocks.targets[whole],
            masked=blocks.masked[whole],
        )


def random_blocks(ids: torch.Tensor, document_start: torch.Tensor, config, generator: torch.Generator) -> Blocks:
    """Blocks at random bytes of rows `[batch, length]`, their first bytes known; those that leave their document are
    absent.
    """
    batch, length = ids.shape
    size = config.block_size
    shape = (batch, max(length // size, 1))
    anchors = (torch.rand(shape, generator=generator) * max(length - size, 1)).long().sort(1).values.to(ids.device)
    position = (anchors[..., None] + torch.arange(size, device=ids.device)).clamp(max=length - 1)
    flat = position.flatten(1)
    targets = ids.gather(1, flat).view_as(position)
    begins = document_start.gather(1, flat).view_as(position)
    # The document's first byte is never drafted.
    inside = (begins == begins[..., :1]).all(-1) & (anchors != begins[..., 0]) & (anchors + size <= length)
    kind, longer = (torch.rand(*shape, 1, generator=generator).to(ids.device) for _ in range(2))
    more = 2 + (longer * max(size - 2, 1)).long()
    known = torch.where(kind < KNOWN_ONE, 1, torch.where(kind < KNOWN_ONE + KNOWN_NONE, 0, more.clamp(max=size - 1)))
    masked = (torch.arange(size, device=ids.device) >= known) & inside[..., None]
    return Blocks(
        anchors=anchors,
        input_ids=targets.masked_fill(masked, config.mask_token_id),
        targets=targets,
        present=inside[..., None].expand_as(masked),
        masked=masked,
        weight=torch.ones(masked.shape, device=ids.device),
    )


def head_loss(model: FBLTForCausalLM, blocks: BlockStates, until_wrong: bool = False) -> torch.Tensor:
    """Mean loss of masked positions under the head, in nats, weighted as [`FBLTDraftHeadConfig`] says.

    Args:
        until_wrong: leave out what comes after the first byte of a block that is not the next-byte head's choice.
    """
    head, config = model.draft_head, model.config.draft_head_config
    hidden = blocks.hidden.to(model.dtype)
    log_q = torch.log_softmax(model.byte_logits(hidden) + head.correction(head(blocks.before, hidden), hidden), dim=-1)
    log_p = torch.log_softmax(model.byte_logits(blocks.teacher.to(model.dtype)), dim=-1)
    earlier = blocks.masked.long().cumsum(1) - 1
    weight = torch.exp(-earlier / config.loss_decay) * blocks.masked
    if until_wrong:
        right = (log_q.argmax(-1) == log_p.argmax(-1)) | ~blocks.masked
        weight = weight * F.pad(right.long().cumprod(1), (1, -1), value=1)
    loss = 0.0
    if config.distillation > 0:
        divergence = F.kl_div(log_q, log_p.detach(), reduction="none", log_target=True).sum(-1)
        loss = loss + config.distillation * divergence
    if config.distillation < 1:
        surprise = -log_q.gather(2, blocks.targets[..., None])[..., 0]
        loss = loss + (1 - config.distillation) * surprise
    return (weight * loss).sum() / weight.sum()


def train_head(
    model: FBLTForCausalLM,
    blocks: BlockStates,
    steps: int,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
    until_wrong: bool = False,
    progress: bool = True,
) -> list[float]:
    """Trains the model's draft head and nothing else; the learning rate rises briefly and falls to zero.

    Returns:
        The loss of each step, in nats.

    Raises:
        ValueError: a loss is not finite; the message names the step.
    """
    model.requires_grad_(False)
    head = model.draft_head.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
    )
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in tqdm(range(steps), desc="draft head", unit="step", disable=not progress):
        index = torch.randint(len(blocks), (batch_size,), generator=generator).to(blocks.masked.device)
        loss = head_loss(model, blocks.take(index), until_wrong)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
        history.append(loss.detach())
    head.eval()
    losses = torch.stack(history).tolist()
    spoiled = next((step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    if spoiled is not None:
        raise ValueError(f"Training stopped: the loss of step {spoiled} is not finite: give a smaller `learning_rate`.")
    return losses
