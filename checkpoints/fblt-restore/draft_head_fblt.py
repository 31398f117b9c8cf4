# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The draft head: it goes over a block from left to right, so that each byte knows those before it.

One decoder call gives every position of a block a state, but no position knows what is put into another. The head is a
small recurrent cell. At each position it reads the byte before, known or just chosen, and the position's decoder state;
from its own state and the decoder's it corrects the position's logits. So a byte is drawn from the distribution given
all bytes before it, `q(x_i | x_<i, block)`: exactly what verification needs to stay lossless.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .layers_fblt import embedding, linear


class FBLTDraftHead(nn.Module):
    """Corrections to the logits of a block.

    A fresh head corrects nothing: its last map is zero.

    Args:
        config: a [`FBLTDraftHeadConfig`].
        state_width: width of the decoder's states.
    """

    def __init__(self, config, state_width: int):
        super().__init__()
        width = config.hidden_size
        self.embed_tokens = embedding(config.vocab_size, width)
        self.state_projection = linear(state_width, width)
        self.cell = nn.GRUCell(width, width)
        self.own_projection = nn.Linear(width, width)
        self.own_projection.init_std = width**-0.5
        self.decoder_projection = linear(state_width, width)
        self.output_projection = linear(width, config.vocab_size, scale=0.0)

    def forward(self, before: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The cell's states over whole blocks whose bytes are all known, as in training.

        Args:
            before: `[blocks, block_size]`, the byte before each position.
            hidden: `[blocks, block_size, width]`, decoder states.

        Returns:
            `[blocks, block_size, hidden_size]`.
        """
        read = self.embed_tokens(before) + self.state_projection(hidden)
        cell = self.cell
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        begin = read.new_zeros(1, len(read), cell.hidden_size)
        # The cell over all positions in one call: with biases, one layer, no dropout, one direction, batch first.
        return torch.gru(read, begin, weights, True, 1, 0.0, self.training, False, True)[0]

    def correction(self, state: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """`[..., hidden_size]` states of the cell, `[..., width]` of the decoder -> `[..., vocab]`, added to logits."""
        return self._output(self.own_projection(state) + self.decoder_projection(hidden))

    def _output(self, mixed: torch.Tensor) -> torch.Tensor:
        return self.output_projection(F.gelu(mixed))

    def step(
        self, byte: torch.Tensor, state: torch.Tensor, read: torch.Tensor, mixed: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One position: the cell's next state `[batch, hidden_size]`, and the corrected logits `[batch, vocab]`.

        Args:
            byte: `[batch]`, the byte before the position.
            state: `[batch, hidden_size]`, the cell's.
            read, mixed: `[batch, hidden_size]`, what the cell and the correction take from the decoder's state.
            logits: `[batch, vocab]`, the block's own.
        """
        state = self.cell(self.embed_tokens(byte) + read, state)
        return state, logits + self._output(self.own_projection(state) + mixed)

    def fill(
        self,
        before: torch.Tensor,
        hidden: torch.Tensor,
        logits: torch.Tensor,
        known: torch.Tensor,
        masked: torch.Tensor,
        choose: Callable[[torch.Tensor, int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        step: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Fills in blocks from left to right. Without branches on data, so that it can compile to one graph.

        Args:
            before: `[batch]`, the byte before each block.
            hidden: `[batch, block_size, width]`, decoder states.
            logits: `[batch, block_size, vocab]`, the block's own.
            known: `[batch, block_size]`, bytes of the block; any id where masked.
            masked: `[batch, block_size]`, what to fill in.
            choose: called with corrected logits `[batch, vocab]`, the position in the block and the block's bytes
                before it `[batch, position]`; returns scores `[batch, vocab]` and the bytes `[batch]` chosen by them.
            step: [`step`], or a compiled form of it, to call with this head.

        Returns:
            Bytes `[batch, block_size]`, and the corrected logits and the scores of each position
            `[batch, block_size, vocab]`. At positions that are not masked these are what the head would have chosen.
        """
        # What does not hang on the bytes is computed for all positions at once.
        reads, mixed = self.state_projection(hidden), self.decoder_projection(hidden)
        state = reads.new_zeros(reads.shape[0], reads.shape[2])
        byte, filled, corrected, scored = before, known[:, :0], [], []
        step = FBLTDraftHead.step if step is None else step
        for i in range(hidden.shape[1]):
            state, right = step(self, byte, state, reads[:, i], mixed[:, i], logits[:, i])
            corrected.append(right)
            scores, chosen = choose(corrected[-1], i, filled)
            scored.append(scores)
            byte = torch.where(masked[:, i], chosen, known[:, i])
            filled = torch.cat([filled, byte[:, None]], dim=1)
        return filled, torch.stack(corrected, dim=1), torch.stack(scored, dim=1)
