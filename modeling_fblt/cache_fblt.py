# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The cache: what each network keeps of the bytes fed so far, with its own length per row.

Everything is stored by position, so taking back rejected bytes is a change of lengths: what lies beyond a row's
length is stale, never read, and overwritten by what is fed next. Buffers grow geometrically.
"""

import torch
from transformers.cache_utils import Cache

from .patching_fblt import PatchingState
from .rows_fblt import Chunk


class PositionBuffer:
    """A tensor with one entry per row and position, positions along `dim`; entries not yet written are zero."""

    def __init__(self, dim: int = 1):
        self.dim = dim
        self.data: torch.Tensor | None = None

    def write(self, values: torch.Tensor, start: torch.Tensor) -> None:
        """Writes `values` (length along `dim`) at positions `start[row] + i`."""
        length = values.shape[self.dim]
        self._reserve(values, int(start.max()) + length)
        position = start[:, None] + torch.arange(length, device=values.device)
        shape = [1] * values.dim()
        shape[0], shape[self.dim] = position.shape
        self.data.scatter_(self.dim, position.view(shape).expand_as(values), values.to(self.data.dtype))

    def read(self, low: int, high: int) -> torch.Tensor:
        """Positions `low .. high - 1` of all rows."""
        return self.data.narrow(self.dim, low, high - low)

    def at(self, position: torch.Tensor) -> torch.Tensor:
        """One entry per row: `[batch, ...]` for `position` `[batch]` (buffers with positions in dimension 1)."""
        return self.data[torch.arange(position.shape[0], device=position.device), position]

    def select(self, rows: torch.Tensor) -> None:
        """Keeps, repeats or reorders rows."""
        if self.data is not None:
            self.data = self.data.index_select(0, rows.to(self.data.device))

    def _reserve(self, values: torch.Tensor, end: int) -> None:
        have = 0 if self.data is None else self.data.shape[self.dim]
        if end <= have:
            return
        shape = list(values.shape)
        shape[self.dim] = max(end, 2 * have, 64)
        grown = values.new_zeros(shape)
        if self.data is not None:
            grown = grown.to(self.data.dtype)
            grown.narrow(self.dim, 0, have).copy_(self.data)
        self.data = grown


class KeyValueStore:
    """Keys and values of one attention layer, `[batch, heads, position, head_dim]`."""

    def __init__(self):
        self.keys, self.values = PositionBuffer(dim=2), PositionBuffer(dim=2)

    def write(self, key: torch.Tensor, value: torch.Tensor, start: torch.Tensor) -> None:
        self.keys.write(key, start)
        self.values.write(value, start)

    def read(self, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys.read(low, high), self.values.read(low, high)


class FBLTCache(Cache):
    """Cache of an FBLT, passed as `past_key_values`.

    Attributes:
        lengths: `[batch]`, bytes fed and not taken back, padding left out.
        columns: columns of `input_ids` that these bytes came from, padding included; what generic code slices by.
        ids, patch_index, patch_start, document_start: by byte position. `patch_index` and `patch_start` name the
            patch that holds a position and that patch's first position; the position after the last byte is known too.
        patcher, encoder, decoder: key/value stores per layer, by byte position.
        states: encoder byte states, by byte position; the open patch is pooled from them when it completes.
        global_transformer: key/value stores per layer, by patch.
        latents, document_patch: by patch: output of the global transformer, and its document's first patch.
    """

    def __init__(self, config, batch_size: int, device: torch.device | str = "cpu"):
        super().__init__(layers=[])
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.min_length = self.max_length = self.max_patches = 0  # bounds kept on the host
        self.columns = 0
        self.ids, self.patch_index, self.patch_start, self.document_start = (PositionBuffer() for _ in range(4))
        self.states, self.latents, self.document_patch = PositionBuffer(), PositionBuffer(), PositionBuffer()
        self.patcher = [KeyValueStore() for _ in range(config.patcher_config.num_hidden_layers)]
        self.encoder = [KeyValueStore() for _ in range(config.encoder_config.num_hidden_layers)]
        self.decoder = [KeyValueStore() for _ in range(config.decoder_config.num_hidden_layers)]
        self.global_transformer = [KeyValueStore() for _ in range(config.global_config.num_hidden_layers)]
        zero = torch.zeros(batch_size, 1, dtype=torch.long, device=device)
        for buffer in (self.ids, self.patch_index, self.patch_start, self.document_start):
            buffer.write(zero, self.lengths)  # position 0 starts the first patch of the first document

    # --- state of the rows at their current lengths ---

    def patching_state(self) -> PatchingState:
        """What the bytes so far decided about the next chunk's patches."""
        start = self.patch_start.at(self.lengths)
        two_back = self.lengths[:, None] - torch.tensor([2, 1], device=self.lengths.device)
        previous = self.ids.data.gather(1, two_back.clamp(min=0))
        return PatchingState(
            position=self.lengths,
            last_start=start,
            document_start=self.document_start.at(self.lengths),
            first_is_start=start == self.lengths,
            previous=previous.masked_fill(two_back < 0, -1),
        )

    def ids_before(self, count: int, position: torch.Tensor | None = None) -> torch.Tensor:
        """The `count` ids before a position of each row (its length), 0 where there are none: `[batch, count]`."""
        position = self.lengths if position is None else position
        position = position[:, None] + torch.arange(-count, 0, device=self.lengths.device)
        return self.ids.data.gather(1, position.clamp(min=0)).masked_fill(position < 0, 0)

    def last_latent(self) -> torch.Tensor:
        """The latent of the last complete patch, which the next byte reads: `[batch, 1, global width]`."""
        return self.latents.at(self.patch_index.at(self.lengths) - 1)[:, None]

    def open_patch_bytes(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encoder states, ids and patch (counted from the open one) of the bytes since the open patch began.

        Returns:
            `[batch, length, width]`, `[batch, length]`, `[batch, length]`; past a row's end the patch is out of range.
        """
        start = self.patch_start.at(chunk.position)
        end = chunk.position + chunk.lengths
        length = int((end - start).max())
        position = start[:, None] + torch.arange(length, device=start.device)
        inside = position < end[:, None]
        position = torch.where(inside, position, start[:, None])
        patch = self.patch_index.data.gather(1, position) - chunk.patch_index[:, :1]
        states = self.states.data.gather(1, position[..., None].expand(-1, -1, self.states.data.shape[-1]))
        return states, self.ids.data.gather(1, position), torch.where(inside, patch, self.ids.data.shape[1])

    # --- growing and taking back ---

    def write_segmentation(self, chunk: Chunk) -> None:
        """Records a chunk's bytes and where their patches and documents start."""
        self.ids.write(chunk.ids, chunk.position)
        self.patch_index.write(chunk.patch_index, chunk.position)
        self.document_start.write(chunk.document_start, chunk.position)
        columns = torch.arange(chunk.starts.shape[1], device=chunk.starts.device)
        begins = torch.where(chunk.starts, chunk.position[:, None] + columns, -1)
        begins[:, 0] = self.patch_start.at(chunk.position)
        self.patch_start.write(begins.cummax(dim=1).values, chunk.position)

    def extend(self, chunk: Chunk, columns: int) -> None:
        """Counts a chunk as fed; `columns` of `input_ids` it came from, padding included."""
        self._set_lengths(self.lengths + chunk.lengths)
        self.columns += columns

    def truncate(self, lengths: torch.Tensor) -> None:
        """Takes back what lies beyond `lengths` `[batch]` bytes per row."""
        self.columns -= self.max_length - int(lengths.max())
        self._set_lengths(lengths)

    def _set_lengths(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths
        patches = self.patch_index.at(lengths)
        self.min_length, self.max_length, self.max_patches = torch.stack(
            [lengths.min(), lengths.max(), patches.max()]
        ).tolist()

    def select(self, rows: torch.Tensor) -> None:
        """Keeps, repeats or reorders rows, by index."""
        for buffer in self._buffers():
            buffer.select(rows)
        self._set_lengths(self.lengths.index_select(0, rows.to(self.lengths.device)))

    def _buffers(self) -> list[PositionBuffer]:
        stores = [*self.patcher, *self.encoder, *self.decoder, *self.global_transformer]
        single = [self.ids, self.patch_index, self.patch_start, self.document_start]
        single += [self.states, self.latents, self.document_patch]
        return single + [buffer for store in stores for buffer in (store.keys, store.values)]

    # --- what generic code asks of a cache ---

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of `input_ids` held, padding included."""
        return self.columns

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = torch.arange(self.lengths.shape[0], device=self.lengths.device)
        self.select(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.select(indices)

    def crop(self, *args, **kwargs):
        raise NotImplementedError("`crop` counts columns, but an FBLTCache has a length per row: use `truncate`.")

    def reset(self):
        raise NotImplementedError("`reset` is not supported: make a new FBLTCache.")
