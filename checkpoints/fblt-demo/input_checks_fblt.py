# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What `forward`, `patch` and `generate` are given, checked once a call and before any work.

An id out of range reads other memory's rows at worst and kills the process on a GPU; labels of another shape broadcast;
a cache of another text is continued as if it were this one. So each is refused here, by name. All values that have to
be looked at are looked at together: the device is asked once.
"""

from typing import Any

import torch
from torch import nn
from transformers.utils import TransformersKwargs

from .block_loss_fblt import IGNORED
from .cache_fblt import FBLTCache
from .compatibility_fblt import is_exporting
from .configuration_fblt import MASK_ID
from .fields_fblt import Rule, check_fields, flag, is_number, is_whole
from .padding_fblt import RightPadded, check_shapes
from .patching_fblt import ends_of_documents

# Arguments of `forward` that `generate` would hand on to nobody.
_NOT_GENERATED_WITH = ("labels", "shift_labels", "patch_starts", "num_items_in_batch", "logits_to_keep")
# Keywords that transformers hands to any model and that FBLT does something with. The others of transformers' describe
# packed rows, experts or attention both ways.
_TAKEN = {
    "position_ids",
    "output_hidden_states",
    "output_attentions",
    "num_items_in_batch",
    "shift_labels",
    "return_dict",
}
# Say again, for attention kernels, where documents begin that `position_ids` tell apart.
_BESIDE_POSITIONS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
_SAYS_NOTHING = {"is_causal": True}
_FLAG = flag(None)
_ARGUMENTS = {
    "use_cache": _FLAG,
    "return_dict": _FLAG,
    "output_attentions": _FLAG,
    "output_hidden_states": _FLAG,
    "logits_to_keep": Rule(
        lambda value: _is_index(value) or (is_whole(value) and value >= 0),
        "give 0 or more columns, or a tensor of columns",
    ),
    "num_items_in_batch": Rule(
        lambda value: value is None or isinstance(value, torch.Tensor) or (is_number(value) and value > 0),
        "give the number of target bytes, more than 0, or None",
    ),
}


def _is_index(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 1 and value.dtype in (torch.long, torch.int32)


def check_arguments(**arguments: Any) -> None:
    """Raises a ValueError for an argument of `forward`, beside ids and labels, that is of another kind."""
    check_fields(arguments, _ARGUMENTS)


def whole_numbers(name: str, values: Any, expected: str) -> torch.Tensor:
    """A tensor of integers as int64.

    Raises:
        TypeError: it is no tensor of integers.
    """
    if not isinstance(values, torch.Tensor):
        raise TypeError(f"`{name}` is a {type(values).__name__}: give a tensor of integers, {expected}.")
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise TypeError(f"`{name}` has dtype {values.dtype}: give integers, such as torch.long, {expected}.")
    return values.long()


def check_input(
    vocab_size: int,
    input_ids: Any,
    attention_mask: Any = None,
    labels: Any = None,
    shift_labels: Any = None,
    name: str = "input_ids",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ids and labels of a call, checked. Messages call the ids `name`.

    Returns:
        `input_ids` `[batch, n]` as int64, and whichever labels were given, as int64.

    Raises:
        TypeError: not tensors of integers.
        ValueError: another shape, or a value out of range. The message names the argument and the remedy.
    """
    ids = whole_numbers(name, input_ids, "[batch, n]")
    if attention_mask is not None and not isinstance(attention_mask, torch.Tensor):
        kind = type(attention_mask).__name__
        raise TypeError(f"`attention_mask` is a {kind}: give a tensor of 0 and 1, [batch, n], or None.")
    check_shapes(ids, attention_mask)
    if labels is not None and shift_labels is not None:
        raise ValueError("`labels` and `shift_labels` are both given: they are two forms of one thing; give one.")
    kind, given = ("labels", labels) if shift_labels is None else ("shift_labels", shift_labels)
    if given is not None:
        given = whole_numbers(kind, given, "[batch, n] as `input_ids`")
        if given.shape != ids.shape:
            raise ValueError(
                f"`{kind}` has shape {tuple(given.shape)}: give one label per byte, {tuple(ids.shape)} as `input_ids`; "
                f"{IGNORED} for bytes without a loss."
            )
    if ids.is_meta or is_exporting():  # no values to look at
        return ids, given
    asked = [ids.min(), ids.max()]
    if given is not None:
        loss = given != IGNORED
        asked += [torch.where(loss, given, 0).min(), torch.where(loss, given, 0).max()]
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        asked += [((attention_mask != 0) & (attention_mask != 1)).any().long()]
    least, most, *others = torch.stack([value.to(ids.device) for value in asked]).tolist()
    if least < 0 or most >= vocab_size:
        raise ValueError(
            f"`{name}` has ids from {least} to {most}: give 0 <= id < {vocab_size}; byte b is id b + 4, and padding "
            "is 0 with an `attention_mask` of 0. A token that was added to the tokenizer has no id here: spell it as "
            "bytes."
        )
    if given is not None and (others[0] < 0 or others[1] >= MASK_ID):
        raise ValueError(
            f"`{kind}` has values from {others[0]} to {others[1]}: give ids that can be predicted, 0 <= id < "
            f"{MASK_ID}, or {IGNORED} for bytes without a loss."
        )
    if attention_mask is not None and attention_mask.dtype != torch.bool and others[-1]:
        raise ValueError("`attention_mask` has values beside 0 and 1: give 1 for bytes and 0 for padding.")
    return ids, given


def check_cache(config: Any, cache: Any, rows: int) -> None:
    """Raises a ValueError for what is no KV cache of such a model and so many rows; None is fine."""
    if cache is None:
        return
    if not isinstance(cache, FBLTCache):
        raise ValueError(f"`past_key_values` is a {type(cache).__name__}: FBLT needs the FBLTCache of an earlier call.")
    if len(cache.lengths) != rows:
        raise ValueError(
            f"`past_key_values` holds {len(cache.lengths)} rows, `input_ids` {rows}: give the rows that the cache was "
            "made with."
        )
    if cache.geometry != FBLTCache.geometry_of(config):
        raise ValueError(
            "`past_key_values` was made by a model of other sizes: give a cache that this model returned, or none."
        )


def check_continues(rows: RightPadded, cache: FBLTCache | None) -> None:
    """Raises a ValueError for rows without a byte, and for rows that do not go on from what a cache holds."""
    if int(rows.lengths.min()) == 0:
        raise ValueError("`input_ids` has a row without any byte, by its `attention_mask`: start it with `<s>` (id 1).")
    if cache is None or cache.max_length == 0:
        return
    if bool((cache.lengths >= rows.lengths).any()):
        raise ValueError(
            f"`past_key_values` holds {cache.lengths.tolist()} bytes, `input_ids` only {rows.lengths.tolist()}: "
            "give the whole sequence so far, with at least one byte that the cache does not hold."
        )
    held = cache.ids_so_far()
    position = torch.arange(held.shape[1], device=held.device)
    differs = (held != rows.ids[:, : held.shape[1]]) & (position < cache.lengths[:, None])
    if bool(differs.any()):
        row, first = differs.nonzero()[0].tolist()
        raise ValueError(
            f"`past_key_values` holds another text than `input_ids`: in row {row} they differ from byte {first} on; "
            "give the sequence that the cache was made with and what follows it, or no cache."
        )


def documents_of(rows: RightPadded, position_ids: torch.Tensor | None, cache: FBLTCache | None) -> torch.Tensor | None:
    """Bytes `[batch, n]` that end a document because the next position is 0; None where positions say nothing new.

    Args:
        position_ids: `[batch or 1, n]`, as the input has its columns.

    Raises:
        TypeError, ValueError: they are no integers, have another shape, jump, or contradict the cache.
    """
    if position_ids is None:
        return None
    batch, n = rows.ids.shape
    position_ids = whole_numbers("position_ids", position_ids, "[batch, n]")
    if tuple(position_ids.shape) not in ((batch, n), (1, n)):
        raise ValueError(f"`position_ids` has shape {tuple(position_ids.shape)}: give {(batch, n)}, or leave them out.")
    positions = rows.take(position_ids.expand(batch, n))
    if cache is not None:
        column = torch.arange(n, device=positions.device)
        if bool(((positions != cache.lengths[:, None] + column) & (column < rows.lengths[:, None])).any()):
            raise ValueError(
                "`position_ids` do not go on where the KV cache ends: packed documents go without a cache; otherwise "
                "leave them out, FBLT counts positions itself."
            )
        return None
    if bool((positions[:, 0] != 0).any()):
        raise ValueError("`position_ids` of a row do not begin at 0: give 0 for the first byte, or leave them out.")
    ends = ends_of_documents(positions, rows.lengths)
    return ends if bool(ends.any()) else None


def refuse_keywords(model: nn.Module, kwargs: dict) -> None:
    """Refuses what the catch-all of `forward` would swallow in silence, and a model that is split over accelerators.

    Raises:
        ValueError: names the argument and the remedy.
    """
    split = {str(device) for device in getattr(model, "hf_device_map", {}).values()} - {"cpu", "disk"}
    if len(split) > 1:
        # Masks, caches and patch boundaries pass between networks inside objects whose tensors stay where they are.
        raise ValueError(
            f"`device_map` spreads the model over {sorted(split)}, but FBLT's networks must run on one device: give "
            "`device_map={'': device}`, or one accelerator beside 'cpu' and 'disk', to which weights can be offloaded."
        )
    if kwargs.get("inputs_embeds") is not None:
        raise ValueError("`inputs_embeds` are given, but patches and hash n-grams need the bytes: give `input_ids`.")
    for name, value in kwargs.items():
        if name in _TAKEN or value is None or value is _SAYS_NOTHING.get(name, False):
            continue
        if name in _BESIDE_POSITIONS and kwargs.get("position_ids") is not None:
            continue
        if name in TransformersKwargs.__optional_keys__:
            raise ValueError(
                f"`{name}` is given, but FBLT is causal and knows rows by `attention_mask`, documents by `</s>` or by "
                "`position_ids` that begin again at 0: leave it out, or give these too."
            )
        raise TypeError(f"`{name}` is no argument of FBLT: leave it out, or correct its name.")


def refuse_in_generate(arguments: dict) -> None:
    """Raises a ValueError for arguments of `forward` that decoding would ignore."""
    for name in _NOT_GENERATED_WITH:
        if arguments.get(name) is not None:
            raise ValueError(f"`{name}` is given to `generate`, where nothing would come of it: leave it out.")
