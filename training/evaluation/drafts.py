"""How good drafts are on real text, at random anchors, where decoding would make them.

At an anchor all bytes before it are fed and the carried byte is known but not fed, as in the decoding loop. From the
same cache continuations of equal length are made and compared with the real text:

- `one_step`: the block `[carried, <mask>, ...]` filled in by one decoder call (`blt-d`, `blt-dv`);
- `head`: the same block filled in from left to right by the draft head, where the model has one;
- `refined_1`, `refined_2`: the better of these drafts, the last, after one and two refinement passes;
- `blt-s`: the decoder's own greedy draft, read from the last complete latent;
- `ar`: plain decoding with everything fed. Up to its first wrong byte it has fed the real text, so its leading correct
  bytes are those of the next-byte head on the real text, which one call gives.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from tqdm.auto import tqdm

from .measures import AccuracyByOffset, leading_correct, ratio_of_means, share, summary
from .samples import Anchor, right_padded

PASSES = 2
REFINED = tuple(f"refined_{n}" for n in range(1, PASSES + 1))
# `head` where there is one, and the refined where the model's code knows passes.
KINDS = ("one_step", "head", *REFINED, "blt-s", "ar")


def kinds_of(figures: dict) -> list[str]:
    """The kinds of continuations that [`draft_figures`] measured, in order."""
    return [kind for kind in KINDS if kind in figures]


@dataclass
class Continuations:
    """Bytes after the carried one, each `[batch, block_size - 1]`; `next_byte` is fed the real text, not its own.
    `head` is None without a draft head. `refined` has a draft for each number of passes, from 1.
    """

    one_step: torch.Tensor
    head: torch.Tensor | None
    refined: list[torch.Tensor]
    causal: torch.Tensor
    next_byte: torch.Tensor

    def by_kind(self) -> dict[str, torch.Tensor]:
        found = {"one_step": self.one_step, "head": self.head, **dict(zip(REFINED, self.refined, strict=False))}
        found |= {"blt-s": self.causal, "ar": self.next_byte}
        return {kind: text for kind, text in found.items() if text is not None}


def own_module(model, name: str) -> ModuleType:
    """A module of the code that the model was loaded with: a checkpoint is judged by the code it carries."""
    # FSDP makes a class of its own of the model's, in a module of its own.
    return importlib.import_module(f"{type(model.config).__module__.rpartition('.')[0]}.{name}")


def continuations(
    model, context: torch.Tensor, lengths: torch.Tensor, carried: torch.Tensor, real: torch.Tensor
) -> Continuations:
    """The continuations of a batch of anchors.

    Args:
        context: `[batch, n]`, right-padded ids before the carried one; `lengths` `[batch]` of them are real.
        carried: `[batch, 1]`.
        real: `[batch, block_size - 1]`, the text that follows it.
    """
    steps, config = own_module(model, "forward_steps_fblt"), model.config
    cache = own_module(model, "cache_fblt").FBLTCache(config, context.shape[0], context.device)
    steps.feed(model.model, context, lengths, cache)

    # Drafting leaves the caches' lengths as they are, so each draft starts from the same state.
    block = torch.full((context.shape[0], config.block_size), config.mask_token_id, device=context.device)
    block[:, :1] = carried
    hidden = steps.draft_block(model.model, steps.Block(block, cache.lengths), cache)
    logits = model.byte_logits(hidden)
    one_step, head = logits.argmax(-1)[:, 1:], None
    if has_draft_head(model):
        before = context.gather(1, (lengths - 1)[:, None])[:, 0]
        masked = block == config.mask_token_id
        head = model.draft_head.fill(before, hidden, logits, block, masked, _most_likely)[0][:, 1:]

    # Checkpoints of before carry code that drafts one byte a call, under another name.
    draft_bytes, refined = getattr(steps, "draft_bytes", None) or steps.draft_byte, []
    draft = one_step if head is None else head
    for _ in range(PASSES if hasattr(steps, "draft_bytes") else 0):
        draft = model.byte_logits(
            draft_bytes(model.model, torch.cat([carried, draft[:, :-1]], dim=1), 0, cache)
        ).argmax(-1)
        refined.append(draft)
    byte, drafted = carried, []
    for offset in range(config.block_size - 1):
        byte = model.byte_logits(draft_bytes(model.model, byte, offset, cache)).argmax(-1)
        drafted.append(byte)

    chunk = torch.cat([carried, real[:, :-1]], dim=1)
    fed = steps.feed(model.model, chunk, torch.full_like(lengths, chunk.shape[1]), cache)
    return Continuations(one_step, head, refined, torch.cat(drafted, dim=1), model.byte_logits(fed.hidden).argmax(-1))


def has_draft_head(model) -> bool:
    """Also of models whose code knows no draft heads."""
    return getattr(model, "draft_head", None) is not None


def _most_likely(logits: torch.Tensor, position: int, filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return logits, logits.argmax(-1)


@torch.inference_mode()
def draft_figures(model, anchors: Sequence[Anchor], batch_size: int, seed: int) -> dict:
    """Accuracy by offset and leading correct bytes of drafts at `anchors`.

    Returns:
        Per kind of continuation `leading_correct` (mean, standard error, histogram from 0 to `block_size - 1`), and
        `accuracy_by_offset` (from offset 1, the byte after the carried one) of the drafts; ratios of the means
        with 95 % bootstrap intervals; the same means per source. Of the kinds those that the model can make.
    """
    drafted = model.config.block_size - 1
    accuracy: dict[str, AccuracyByOffset] = {}
    leading: dict[str, list[int]] = {}
    for first in tqdm(range(0, len(anchors), batch_size), desc="drafts", unit="batch"):
        batch = anchors[first : first + batch_size]
        context, lengths = right_padded([anchor.context for anchor in batch], model.device)
        carried = torch.tensor([[anchor.carried] for anchor in batch], device=model.device)
        real, _ = right_padded([anchor.real for anchor in batch], model.device)
        made = continuations(model, context, lengths, carried, real)
        for kind, text in made.by_kind().items():
            leading.setdefault(kind, []).extend(leading_correct(text, real).tolist())
            if kind != "ar":
                accuracy.setdefault(kind, AccuracyByOffset(drafted)).add(text, real)

    figures: dict = {kind: {"leading_correct": summary(leading[kind], drafted)} for kind in KINDS if kind in leading}
    for kind, tally in accuracy.items():
        figures[kind]["accuracy_by_offset"] = tally.report()
    ratios = [("one_step", "blt-s"), ("blt-s", "ar")]
    ratios += [("head", "blt-s")] if "head" in leading else []
    ratios += [(kind, "ar") for kind in ("head", *REFINED) if kind in leading]
    return {
        "count": len(anchors),
        "block_size": model.config.block_size,
        **figures,
        **{
            f"{above}_to_{below}".replace("-", "_"): ratio_of_means(leading[above], leading[below], seed)
            for above, below in ratios
        },
        "sources": _per_source(anchors, leading),
    }


def _per_source(anchors: Sequence[Anchor], leading: dict[str, list[int]]) -> dict:
    """Mean leading correct bytes by source, and the ratio of the two drafts'."""
    report = {}
    for source in sorted({anchor.source for anchor in anchors}):
        rows = [i for i, anchor in enumerate(anchors) if anchor.source == source]
        means = {kind: sum(found[i] for i in rows) / len(rows) for kind, found in leading.items()}
        report[source] = {"count": len(rows), **means, "one_step_to_blt_s": share(means["one_step"], means["blt-s"])}
    return report
