# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The KV cache: what each network keeps of the bytes fed so far. Every row has its own length.

Everything is stored by position. So rejected bytes are taken back by changing lengths: what lies beyond a row's length
is never read, and overwritten by what is fed next. Buffers by patch grow with the text. Buffers by byte slide: local
networks see a window, so only the last bytes of each row are held.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache

from .attention_fblt import CachedContext, offered_whole
from .buffers_fblt import KeyValueStore, Origin, PositionBuffer
from .chunk_fblt import Chunk
from .counting_fblt import counting, scalar
from .gather_fblt import take_columns
from .patching_fblt import NO_POSITION, PatchingState

if TYPE_CHECKING:
    from .compiled_networks_fblt import CompiledNetworks

# So many bytes can always be taken back: far more than a draft has, or than one row runs ahead of another.
RETAINED = 256
# Compiled networks are called over so many new positions at most.
MOST_COMPILED = 64


@dataclass(frozen=True)
class Bounds:
    """What of the rows of a cache is known on the host.

    Attributes:
        min_column, max_column: least and greatest column after a row's last byte, in buffers by byte position.
        max_length, max_patches: the most bytes and the most complete patches of a row.
        same_column, same_length, same_patches: whether these are the same in all rows. Told here, so that a compiled
            step hangs on them and not on the numbers.
    """

    min_column: int
    max_column: int
    max_length: int
    max_patches: int
    same_column: bool
    same_length: bool
    same_patches: bool

    @classmethod
    def of(cls, columns: list[int], lengths: list[int], patches: list[int]) -> "Bounds":
        """From each row's numbers."""
        same = (len({*numbers}) == 1 for numbers in (columns, lengths, patches))
        return cls(min(columns), max(columns), max(lengths), max(patches), *same)

    @property
    def level(self) -> bool:
        """Whether all rows have the same positions in the same columns, so that these are known on the host."""
        return self.same_column and self.same_length


class FBLTCache(Cache):
    """KV cache of an FBLT, passed as `cache` or `past_key_values`.

    Attributes:
        lengths: `[batch]`, bytes fed and not taken back, padding left out.
        columns: columns of `input_ids` that these bytes came from, padding included; generic code slices by it.
        ids: by byte position.
        patch_index, patch_start, document_start: by byte position, the next byte's included: the patch that holds it,
            and the positions where this patch and its document begin.
        patcher, encoder, decoder: key/value stores per layer, by byte position.
        states: encoder byte states, by byte position; the open patch is pooled from them when it completes.
        global_transformer: key/value stores per layer, by patch.
        earlier_ids: ids by byte position too, of bytes that `ids` may have dropped; two bytes of memory each.
        geometry: sizes of the model that the cache is for.
        latents, document_patch: by patch: output of the global transformer, and its document's first patch.
        bounds: see [`Bounds`]; kept on the host, which waits for the device where lengths are new.
        networks: compiled ones to call, as long as a `generate` that asked for them runs.
        slid: whether byte buffers have dropped anything; until then, columns are positions.
    """

    # transformers asks its layers, of which this cache has none, and takes silence for yes.
    is_compileable = False
    is_croppable = False
    is_linear = (False,)

    def __init__(
        self,
        config,
        batch_size: int,
        device: torch.device | str = "cpu",
        networks: "CompiledNetworks | None" = None,
    ):
        super().__init__(layers=[])
        self.geometry = self.geometry_of(config)
        byte_networks = (config.patcher_config, config.encoder_config, config.decoder_config)
        self.window = max(network.sliding_window for network in byte_networks)
        self.most_columns = 2 * (self.window + RETAINED)
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self._bounds: Bounds | None = Bounds.of([0], [0], [0])
        self.slid = False
        self._reads: tuple[int, int | torch.Tensor, list[torch.Tensor]] | None = None
        self.columns, self.networks = 0, networks
        self.origin = origin = Origin(batch_size, device)
        self.ids, self.patch_index, self.patch_start, self.document_start, self.states = (
            PositionBuffer(origin=origin) for _ in range(5)
        )
        self.latents, self.document_patch, self.earlier_ids = PositionBuffer(), PositionBuffer(), PositionBuffer()
        self.patcher, self.encoder, self.decoder = (
            [KeyValueStore(origin) for _ in range(network.num_hidden_layers)] for network in byte_networks
        )
        self.global_transformer = [KeyValueStore() for _ in range(config.global_config.num_hidden_layers)]
        zero = torch.zeros(batch_size, 1, dtype=torch.long, device=device)
        for buffer in (self.ids, self.patch_index, self.patch_start, self.document_start):
            buffer.write(zero, zero, 1)  # position 0 starts the first patch of the first document

    @staticmethod
    def geometry_of(config) -> tuple:
        """What a cache and the model that continues from it must have in common."""
        networks = (config.patcher_config, config.encoder_config, config.global_config, config.decoder_config)
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
        windows = tuple(getattr(network, "sliding_window", None) for network in networks)
        return tuple(getattr(network, name) for network in networks for name in names), windows

    # --- state of the rows at their current lengths ---

    @property
    def bounds(self) -> Bounds:
        if self._bounds is None:
            self._measure()
        return self._bounds

    @property
    def max_column(self) -> int:
        return self.bounds.max_column

    @property
    def max_length(self) -> int:
        return self.bounds.max_length

    @property
    def max_patches(self) -> int:
        return self.bounds.max_patches

    @property
    def same_column(self) -> bool:
        """Whether all rows' next bytes go to the same column."""
        return self.bounds.same_column

    @property
    def same_patches(self) -> bool:
        """Whether all rows have as many complete patches."""
        return self.bounds.same_patches

    def here(self, buffer: PositionBuffer) -> torch.Tensor:
        """The entries of a buffer by byte at the rows' lengths, those of the next bytes: `[batch, ...]`."""
        if self.same_column:
            return buffer.data.select(1, self.max_column)  # an index would make a compiled step hang on the number
        return buffer.at(self.lengths)

    def patching_state(self, with_previous: bool = True) -> PatchingState:
        """What the bytes so far decided about the next chunk's patches; `with_previous`, its `previous` too."""
        start, previous = self.here(self.patch_start), None
        if with_previous:
            two_back = counting(0, self.lengths.device, start=-2) + self.lengths[:, None]
            previous = self.ids.gather(two_back.clamp(min=0)).masked_fill(two_back < 0, -1)
        return PatchingState(
            position=self.lengths,
            last_start=start,
            document_start=self.here(self.document_start),
            first_is_start=start == self.lengths,
            previous=previous,
        )

    def ids_before(self, count: int, offset: int = 0) -> torch.Tensor:
        """The `count` ids before the position that lies `offset` after the rows' lengths, 0 where there are none:
        `[batch, count]`.
        """
        if self.same_column and self.max_column + offset >= count:
            return self.ids.read(self.max_column + offset - count, self.max_column + offset)
        position = counting(offset, self.lengths.device, start=offset - count) + self.lengths[:, None]
        return self.ids.gather(position.clamp(min=0)).masked_fill(position < 0, 0)

    def ids_so_far(self) -> torch.Tensor:
        """All ids fed and not taken back, `[batch, longest row]`, right-padded with whatever was there."""
        position = counting(self.max_length, self.lengths.device).expand(len(self.lengths), -1)
        column = self.ids.column(position).clamp(min=0, max=self.ids.data.shape[1] - 1)
        held = take_columns(self.ids.data, column)
        if self.earlier_ids.data is None:
            return held
        early = self.earlier_ids.gather(position.clamp(max=self.earlier_ids.data.shape[1] - 1))
        return torch.where(position < self.origin.first[:, None], early.long(), held)

    def open_start(self, end: torch.Tensor | None = None) -> torch.Tensor:
        """Where the patch open at `end` (the rows' lengths) begins, or a document inside it: `[batch]`."""
        end = self.lengths if end is None else end
        return torch.maximum(self.patch_start.at(end), self.document_start.at(end))

    def last_latent(self) -> torch.Tensor:
        """The latent of the last complete patch, which the next byte reads: `[batch, 1, global width]`."""
        if self.same_patches:
            return self.latents.read(self.max_patches - 1, self.max_patches)
        return self.latents.at(self.here(self.patch_index) - 1)[:, None]

    def last_reads(self, decoder) -> list[torch.Tensor]:
        """What bytes read of [`last_latent`], see `FBLTDecoder.read`; computed once while it is the last."""
        # Where rows have different numbers of patches, their lengths say as much: a change makes a new tensor.
        last = self.max_patches if self.same_patches else self.lengths
        made = self._reads
        same = made is not None and made[0] == self.latents.writes and type(made[1]) is type(last)
        if not same or (made[1] != last if isinstance(last, int) else made[1] is not last):
            self._reads = self.latents.writes, last, decoder.read(self.last_latent())
        return self._reads[2]

    def open_patch_bytes(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encoder states, ids and patch (counted from the open one) of the bytes since the open patch began.

        Returns:
            `[batch, length, width]`, `[batch, length]`, `[batch, length]`; past a row's end the patch is out of range.
        """
        start = self.here(self.patch_start)
        end = chunk.position + chunk.lengths
        if len(start) == 1 and self.bounds.level:
            # One row's bytes lie side by side.
            shift = self.max_length - self.max_column
            first, last = (position - shift for position in torch.cat([start, end]).tolist())
            patch = self.patch_index.read(first, last) - chunk.patch_index[:, :1]
            return self.states.read(first, last), self.ids.read(first, last), patch
        length = int((end - start).max())
        position = start[:, None] + counting(length, start.device)
        inside = position < end[:, None]
        position = torch.where(inside, position, start[:, None])
        patch = self.patch_index.gather(position) - chunk.patch_index[:, :1]
        # No row has more columns than the buffers, so this many patches are out of range for all.
        patch = torch.where(inside, patch, self.ids.data.shape[1])
        return self.states.gather(position), self.ids.gather(position), patch

    def columns_from(self, position: torch.Tensor, length: int) -> torch.Tensor:
        """Columns of byte buffers for `length` positions from `position` `[batch]` on: `[batch, length]`."""
        return (position - self.origin.first)[:, None] + counting(length, position.device)

    def place(self, offset: int, length: int) -> torch.Tensor | int:
        """Where to write `length` positions that begin `offset` after the rows' lengths: one column for all rows where
        that is known on the host, else columns `[batch, length]`.
        """
        if self.same_column:
            return self.max_column + offset
        return self.columns_from(self.lengths + offset, length)

    def following(self, offset: int, length: int) -> torch.Tensor:
        """The `length` positions that begin `offset` after the rows' lengths: `[batch, length]`."""
        if self.bounds.same_length:
            first = self.max_length + offset
            return counting(first + length, self.lengths.device, start=first).expand(len(self.lengths), -1)
        return (self.lengths + offset)[:, None] + counting(length, self.lengths.device)

    def following_patches(self, count: int) -> torch.Tensor:
        """The `count` patch indices that follow the rows' complete patches: `[batch, count]`."""
        if self.same_patches:
            first = self.max_patches
            return counting(first + count, self.lengths.device, start=first).expand(len(self.lengths), -1)
        return self.here(self.patch_index)[:, None] + counting(count, self.lengths.device)

    def span(self, window: int, new: int) -> tuple[int, int]:
        """Columns `[low, high)` that hold all keys of `new` more positions per row, each seeing `window` positions."""
        return max(0, self.bounds.min_column - window + 1), self.max_column + new

    def compiles(self, new: int) -> bool:
        """Whether networks are called compiled over `new` more positions per row."""
        if self.networks is None or new > MOST_COMPILED or torch.is_grad_enabled():
            return False
        return self.same_column and self.same_patches and self.max_patches > 0

    def fixed_context(
        self,
        stores: list[KeyValueStore],
        window: int,
        column: int,
        new: int,
        see: Callable[[torch.Tensor], torch.Tensor],
    ) -> CachedContext:
        """The context of a compiled network over `new` positions, written from `column` on: as many columns of its
        stores whatever the text's length.

        Args:
            see: gives the mask `[batch, new, keys]` for positions of keys `[batch, 1, keys]`.
        """
        width, end = window + MOST_COMPILED, column + new
        low = max(0, end - width)
        for store in stores:
            store.make_room(max(self.most_columns + MOST_COMPILED, low + width))
        mask = see(self.positions((low, low + width))[:, None])
        return offered_whole([store.data.narrow(2, low, width) for store in stores], column - low, mask)

    def whole_context(
        self, stores: list[KeyValueStore], place: int, new: int, see: Callable[[torch.Tensor], torch.Tensor]
    ) -> CachedContext:
        """As [`fixed_context`], over all columns but one that stores by patch have room for.

        Rooms are powers of two, as the widths of models are; a graph would take a room for a width that it equals.
        """
        for store in stores:
            store.make_room(place + new + 1)
        columns = [store.data[:, :, :-1] for store in stores]
        return offered_whole(columns, place, see(counting(columns[0].shape[2], self.lengths.device)))

    def positions(self, span: tuple[int, int]) -> torch.Tensor:
        """Positions that columns `[low, high)` of the byte buffers hold: `[batch, high - low]`."""
        shift = self.max_length - self.max_column if self.bounds.level else 0
        column = counting(span[1] + shift, self.lengths.device, start=span[0] + shift).expand(len(self.lengths), -1)
        return column if self.bounds.level or not self.slid else self.origin.first[:, None] + column

    # --- growing and taking back ---

    def make_room(self) -> None:
        """Slides the byte buffers once they hold far more than the windows and the open patch ask for."""
        if self.max_column <= self.most_columns:
            return
        back = torch.maximum(self.lengths - RETAINED, self.origin.first)
        needed = torch.minimum(back - self.window, self.patch_start.at(back))
        shift = (needed - self.origin.first).clamp(min=0)
        # What is about to be dropped, and what is not: the latter is written again before it goes.
        held = self.ids.data.to(torch.int16)
        end = self.max_length + held.shape[1]
        self.earlier_ids.write(held, self.positions((0, held.shape[1])), end)
        for buffer in self._byte_buffers():
            buffer.slide(shift)
        self.origin.first, self.slid = self.origin.first + shift, True
        self._measure()
        # A patch longer than all windows is held whole; the next slide waits until it has doubled.
        self.most_columns = 2 * max(self.window + RETAINED, self.max_column)

    def write_segmentation(self, chunk: Chunk) -> None:
        """Records a chunk's bytes and where their patches and documents start."""
        n = chunk.starts.shape[1]
        end = self.max_column + n
        column = self.place(0, n)  # the next position is known too
        self.ids.write(chunk.ids, chunk.column, end)
        self.patch_index.write(chunk.patch_index, column, end)
        self.document_start.write(chunk.document_start, column, end)
        nowhere = scalar(NO_POSITION, torch.long, chunk.starts.device)
        begins = torch.where(chunk.starts[:, 1:], chunk.with_next[:, 1:], nowhere)
        begins = torch.cat([self.here(self.patch_start)[:, None], begins], dim=1).cummax(dim=1).values
        self.patch_start.write(begins, column, end)

    def extend(self, chunk: Chunk) -> None:
        """Counts a chunk's bytes as fed. `columns` is left to the caller, who knows the padding."""
        self.lengths, self._bounds = self.lengths + chunk.lengths, None

    def truncate(self, lengths: torch.Tensor) -> None:
        """Takes back what lies beyond `lengths` `[batch]` bytes per row.

        Raises:
            ValueError: a row goes back by more than the cache still holds; `RETAINED` bytes are always possible.
        """
        before = self.max_length
        self.take_back(lengths)
        self.columns -= before - self.max_length

    def take_back(self, lengths: torch.Tensor) -> None:
        """As [`truncate`], for a caller who sees to `columns`."""
        before, self.lengths, self._bounds = (self.lengths, self._bounds), lengths, None
        if self.slid:
            try:
                self._measure()
            except ValueError:
                self.lengths, self._bounds = before
                raise

    def _measure(self) -> None:
        """Reads the bounds of the rows' lengths from the device: where a step waits for it."""
        row = counting(len(self.lengths), self.lengths.device)
        if not self.slid:  # columns are positions
            asked = torch.cat([self.lengths, self.patch_index.data[row, self.lengths]])
            lengths, patches = _in_parts(asked.tolist(), len(row))
            columns = lengths
        else:
            here = (self.lengths - self.origin.first).clamp(min=0)
            by_column = [buffer.data[row, here] for buffer in (self.patch_index, self.patch_start)]
            asked = torch.cat([self.lengths, self.origin.first, *by_column])
            lengths, origins, patches, starts = _in_parts(asked.tolist(), len(row))
            columns = [length - origin for length, origin in zip(lengths, origins, strict=True)]
            for origin, column, start in zip(origins, columns, starts, strict=True):
                if origin > 0 and (column < self.window or start < origin):
                    raise ValueError(
                        f"`lengths` is {lengths}, but the cache dropped what lies that far back in one of these rows: "
                        f"at most {RETAINED} bytes can be taken back; feed such rows anew."
                    )
        self._bounds = Bounds.of(columns, lengths, patches)

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(buffer.data.nbytes for buffer in self._buffers() if buffer.data is not None)

    def select(self, rows: torch.Tensor) -> None:
        """Keeps, repeats or reorders rows, by index."""
        for buffer in self._buffers():
            buffer.select(rows)
        self.origin.first = self.origin.first.index_select(0, rows.to(self.lengths.device))
        self.lengths, self._bounds = self.lengths.index_select(0, rows.to(self.lengths.device)), None

    def twin(self) -> "FBLTCache":
        """A cache with the same content, of which rows can be selected and fed without a change of this one.

        What is written to it before that may show in both.
        """
        held = [self.lengths, self.origin.first, *(buffer.data for buffer in self._buffers())]
        return deepcopy(self, {id(tensor): tensor for tensor in held if tensor is not None})

    def join(self, others: Sequence["FBLTCache"]) -> None:
        """Adds the rows of other caches of the model after its own."""
        for own, *more in zip(self._buffers(), *(cache._buffers() for cache in others), strict=True):
            own.join(more)
        self.origin.first = torch.cat([cache.origin.first for cache in (self, *others)])
        self.most_columns = max(cache.most_columns for cache in (self, *others))
        self.lengths, self._bounds = torch.cat([cache.lengths for cache in (self, *others)]), None

    def _byte_buffers(self) -> list[PositionBuffer]:
        single = [self.ids, self.patch_index, self.patch_start, self.document_start, self.states]
        return [*single, *self.patcher, *self.encoder, *self.decoder]

    def _buffers(self) -> list[PositionBuffer]:
        return [*self._byte_buffers(), self.latents, self.document_patch, self.earlier_ids, *self.global_transformer]

    # --- what generic code asks of a cache ---

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of `input_ids` held, padding included."""
        return self.columns

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = counting(self.lengths.shape[0], self.lengths.device)
        self.select(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.select(indices)

    def crop(self, *args, **kwargs):
        raise NotImplementedError("`crop` counts columns, but an FBLTCache has a length per row: use `truncate`.")

    def reset(self):
        raise NotImplementedError("`reset` is not supported: make a new FBLTCache.")


def _in_parts(values: list[int], size: int) -> list[list[int]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
