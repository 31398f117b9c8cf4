# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Building blocks with weights: norm, rotary, attention, feed-forward, cross-attention."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_fblt import AttentionContext, share_heads
from .counting_fblt import counted_from, scalar
from .gather_fblt import take_columns
from .joined_maps_fblt import LayerMatrices, without_gradient

# cos, sin: [batch, length, head_dim]; or both as one complex number, [batch, length, head_dim / 2].
Rotary = tuple[torch.Tensor, torch.Tensor] | torch.Tensor


def linear(fan_in: int, fan_out: int, scale: float = 1.0) -> nn.Linear:
    """A bias-free linear map, drawn with standard deviation `scale / sqrt(fan_in)`."""
    layer = nn.Linear(fan_in, fan_out, bias=False)
    layer.init_std = scale * fan_in**-0.5
    return layer


def embedding(rows: int, width: int) -> nn.Embedding:
    """An embedding table, drawn with standard deviation `1 / sqrt(width)`."""
    table = nn.Embedding(rows, width)
    table.init_std = width**-0.5
    return table


def as_computed(x: torch.Tensor) -> torch.Tensor:
    """`x` in the dtype that autocast multiplies in: cast once here, not by every linear map that reads it."""
    if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def at_least_float32(cast: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What `Module._apply` is given to move or cast a tensor, with float32 in place of any narrower float."""

    def apply(tensor: torch.Tensor) -> torch.Tensor:
        result = cast(tensor)
        if not result.is_floating_point() or result.dtype.itemsize >= torch.float32.itemsize:
            return result
        return tensor.to(result.device, torch.float32)

    return apply


class _RootMeanSquare(torch.autograd.Function):
    """`x / rms(x)` over the last dimension, with a gradient of a few passes where torch's has many on CPUs."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, eps: float) -> torch.Tensor:
        scale = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + eps).rsqrt()
        normed = x * scale
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        normed, scale = ctx.saved_tensors
        along = (grad * normed).mean(-1, keepdim=True)
        return torch.addcmul(grad, normed, along, value=-1).mul_(scale), None


def root_mean_square(x: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / rms(x)` over the last dimension, without a gradient: three operators, where torch's takes five on CPUs."""
    width = x.shape[-1]
    # sqrt(width) x / sqrt(|x|^2 + width eps)
    length = torch.hypot(
        torch.linalg.vector_norm(x, dim=-1, keepdim=True), scalar((width * eps) ** 0.5, x.dtype, x.device)
    )
    return torch.addcdiv(scalar(0.0, x.dtype, x.device), x, length, value=width**0.5)


class FBLTRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden.dtype.itemsize >= torch.float32.itemsize
        x = hidden if wide else hidden.float()
        if without_gradient(x):
            if x.device.type != "cpu":
                return F.rms_norm(hidden, hidden.shape[-1:], self.weight, self.variance_epsilon)
            normed = root_mean_square(x, self.variance_epsilon)
        elif x.device.type == "cpu" and x.requires_grad:
            normed = _RootMeanSquare.apply(x, self.variance_epsilon)
        else:
            normed = F.rms_norm(x, x.shape[-1:], eps=self.variance_epsilon)
        return self.weight * (normed if wide else normed.to(hidden.dtype))


class FBLTRotaryEmbedding(nn.Module):
    """Cosines and signed sines for interleaved pairs (BLT's form: components 2i and 2i + 1 rotate together)."""

    def __init__(self, config):
        super().__init__()
        config.check()  # here too: a field may have been set after the config was made
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        init = (
            self.compute_default_rope_parameters if self.rope_type == "default" else ROPE_INIT_FUNCTIONS[self.rope_type]
        )
        inv_freq, self.attention_scaling = init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)
        self.table = RotaryTable()

    def _apply(self, fn, recurse=True):
        # `model.to(torch.bfloat16)` must not round the frequencies, which loading in bfloat16 does not either.
        return super()._apply(at_least_float32(fn), recurse)

    @staticmethod
    def compute_default_rope_parameters(config, device=None, seq_len=None, **kwargs) -> tuple[torch.Tensor, float]:
        head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float, device=device) / head_dim
        return config.rope_parameters["rope_theta"] ** -exponent, 1.0

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Rotary:
        """`position_ids` `[batch, length]` -> cos, sin `[batch, length, head_dim]` in the dtype of `x`; without a
        gradient and where `x` is wide enough, one complex number for both. Batch is 1 where all rows have the same.
        """
        first, length = counted_from(position_ids), position_ids.shape[1]
        if first is not None and first + length <= self.max_seq_len_cached and without_gradient(x):
            known = self.table.of(self, x, first + length)
            if known is not None:
                return _each(known, lambda part: part[:, first : first + length])
        return self.at(x, position_ids)

    @dynamic_rope_update
    def at(self, x: torch.Tensor, position_ids: torch.Tensor) -> Rotary:
        """[`forward`], computed."""
        # Angles in float32 at least: bfloat16 cannot tell neighbouring positions apart beyond 256.
        dtype = x.dtype if x.dtype.itemsize >= torch.float32.itemsize else torch.float32
        angles = position_ids[..., None] * self.inv_freq.to(dtype)
        cos, sin = angles.cos(), angles.sin()
        if self.attention_scaling != 1:
            cos, sin = cos * self.attention_scaling, sin * self.attention_scaling
        if x.dtype == dtype and without_gradient(x):
            return torch.complex(cos, sin)
        # The sign of the quarter turn sits in the sines: (a, b) -> (a cos - b sin, b cos + a sin).
        cos, sin = torch.stack([cos, cos], dim=-1), torch.stack([-sin, sin], dim=-1)
        return as_computed(cos.flatten(-2).to(x.dtype)), as_computed(sin.flatten(-2).to(x.dtype))


class RotaryTable:
    """What [`FBLTRotaryEmbedding`] gives for the first positions, computed once. A copied or pickled model starts
    without it.
    """

    FEWEST = 1024

    def __init__(self):
        self.made: tuple | None = None  # the frequencies and the dtype it is for; positions; the table

    def __reduce__(self):
        return RotaryTable, ()

    def of(self, rotary: FBLTRotaryEmbedding, x: torch.Tensor, end: int) -> Rotary | None:
        """The table, with at least `end` positions, for states like `x`. None where frequencies cannot be told from
        others.
        """
        frequencies = rotary.inv_freq
        if type(frequencies) is not torch.Tensor or frequencies.is_inference():
            return None
        made = self.made
        key = frequencies.data_ptr(), frequencies._version, rotary.attention_scaling, x.dtype, x.device
        if made is None or made[0] != key or made[1] < end:
            most = min(max(self.FEWEST, 2 * end), rotary.max_seq_len_cached)
            with torch.inference_mode(False), torch.no_grad():
                # No part of the numbers kept: they would be looked up here.
                table = rotary.at(x.new_empty(0), torch.arange(most, device=x.device)[None])
            self.made = made = key, most, table
        return made[2]


def rotate(x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Rotates interleaved pairs. `x`: `[batch, heads, length, head_dim]`."""
    if isinstance(rotary, torch.Tensor):
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotary[:, None]).flatten(-2)
    cos, sin = (part[:, None].to(x.dtype) for part in rotary)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)


def _each(rotary: Rotary, change: Callable[[torch.Tensor], torch.Tensor]) -> Rotary:
    return change(rotary) if isinstance(rotary, torch.Tensor) else tuple(change(part) for part in rotary)


def _take_positions(rotary: Rotary, asked: torch.Tensor) -> Rotary:
    """Those of the positions `asked` `[batch, queries]`."""
    return _each(rotary, lambda part: take_columns(part.expand(len(asked), *part.shape[1:]), asked))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference attention. `[batch, heads, queries, head_dim]` -> `[batch, queries, heads, head_dim]`."""
    key, value = (share_heads(x, module.num_key_value_groups, dim=1) for x in (key, value))
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(weights, value).transpose(1, 2), weights


class FBLTAttention(nn.Module):
    """Self-attention; a context says what a query may see and holds the keys of earlier positions."""

    is_causal = False  # masks are always explicit

    def __init__(self, config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        width, heads = config.hidden_size, config.num_attention_heads
        key_heads = config.num_key_value_heads or heads
        self.num_key_value_groups = heads // key_heads
        self.head_dim = config.head_dim or width // heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = linear(width, heads * self.head_dim)
        self.k_proj = linear(width, key_heads * self.head_dim)
        self.v_proj = linear(width, key_heads * self.head_dim)
        self.o_proj = linear(heads * self.head_dim, width, config.residual_init_scale)
        self.heads = (heads, key_heads, key_heads)  # of queries, keys and values

    def forward(
        self, hidden: torch.Tensor, rotary: Rotary, context: AttentionContext, asked: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[batch, length, width]` -> the same, and the attention weights where the implementation has them.

        With `asked`, see [`FBLTLayer`], the context has to be one of these queries.
        """
        hidden = as_computed(hidden)
        key = rotate(self._heads(self.k_proj(hidden)), rotary)
        value = self._heads(self.v_proj(hidden))
        if asked is not None:
            hidden, rotary = take_columns(hidden, asked), _take_positions(rotary, asked)
        query = rotate(self._heads(self.q_proj(hidden)), rotary)
        output, weights = context.attend(self, query, key, value)
        return self.o_proj(output.flatten(2)), weights

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, length, heads * head_dim] -> [batch, heads, length, head_dim]`."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def product(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Masked attention through transformers' interface. Returns `[batch, queries, heads, head_dim]`."""
        implementation, dtype = self.config._attn_implementation, query.dtype
        function: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        if implementation == "sdpa" and dtype == torch.bfloat16 and query.shape[2] == 1 and query.device.type == "cpu":
            # A CPU's product for one bfloat16 query takes several times as long as widening its keys and values first.
            query, key, value, mask = (x.float() for x in (query, key, value, mask))
        output, weights = function(self, query, key, value, mask, scaling=self.scaling, dropout=0.0)
        return output.to(dtype), weights


class FBLTFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config):
        super().__init__()
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size, config.residual_init_scale)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = as_computed(hidden)
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class FBLTLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer (Eq. 2)."""

    def __init__(self, config, layer_idx: int):
        super().__init__()
        self.attention_norm = FBLTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = FBLTAttention(config, layer_idx)
        self.feed_forward_norm = FBLTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = FBLTFeedForward(config)
        self.matrices = LayerMatrices()

    def forward(
        self, hidden: torch.Tensor, rotary: Rotary, context: AttentionContext, asked: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[batch, length, width]` -> the same; with `asked` `[batch, queries]` the states of these positions only."""
        matrices = self.matrices.of(self) if asked is None and without_gradient(hidden) else None
        if matrices is not None:
            return self._forward_fused(hidden, rotary, context, *matrices)
        attended, weights = self.attention(self.attention_norm(hidden), rotary, context, asked)
        hidden = (hidden if asked is None else take_columns(hidden, asked)) + attended
        return hidden + self.feed_forward(self.feed_forward_norm(hidden)), weights

    def _forward_fused(
        self,
        hidden: torch.Tensor,
        rotary: Rotary,
        context: AttentionContext,
        qkv: torch.Tensor,
        back: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[`forward`] in fewer operators, without a gradient; the matrices are those of [`LayerMatrices`]."""
        batch, length, width = hidden.shape
        attention = self.attention
        hidden = hidden.reshape(-1, width)  # products of two dimensions need no further views
        heads = torch.mm(self.attention_norm(hidden), qkv).view(batch, length, -1, attention.head_dim).transpose(1, 2)
        turned = heads[:, : attention.heads[0] + attention.heads[1]]  # queries and keys turn together
        if isinstance(rotary, torch.Tensor):
            torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(rotary[:, None])
        else:
            turned.copy_(rotate(turned, rotary))
        both = heads[:, attention.heads[0] :]
        output, weights = context.attend(attention, *heads.split(attention.heads, dim=1), both)
        hidden = torch.addmm(hidden, output.reshape(batch * length, -1), back)
        gate, up = torch.mm(self.feed_forward_norm(hidden), gate_up).chunk(2, dim=-1)
        hidden = torch.addmm(hidden, F.silu(gate) * up, down)
        return hidden.view(batch, length, width), weights


class FBLTCrossAttention(nn.Module):
    """Cross-attention between bytes and the slots of one patch or latent each (Eq. 1), without positions.

    BLT's module returns `x + W_o attn(.)` and its caller adds `x` once more; here `forward` gives `2 x + W_o attn(.)`.
    """

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.cross_attn_num_heads or config.num_attention_heads
        self.num_key_value_groups = self.num_heads // (config.cross_attn_num_key_value_heads or self.num_heads)
        self.scaling = (width // self.num_heads) ** -0.5
        key_width = width // self.num_key_value_groups
        self.query_norm = FBLTRMSNorm(width, config.rms_norm_eps)
        self.key_norm = FBLTRMSNorm(width, config.rms_norm_eps)
        self.q_proj = linear(width, width)
        self.k_proj = linear(width, key_width)
        self.v_proj = linear(width, key_width)
        self.o_proj = linear(width, width, config.residual_init_scale)

    @staticmethod
    def project(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """`layer` over the last dimension of `[batch, ..., width]`, given as `[batch, rows, width]`: linear maps of
        quantised models take no more dimensions.
        """
        return layer(x.flatten(1, -2)).unflatten(1, x.shape[1:-1])

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def _key_heads(self, x: torch.Tensor) -> torch.Tensor:
        heads = x.unflatten(-1, (self.num_heads // self.num_key_value_groups, -1))
        return share_heads(heads, self.num_key_value_groups, dim=-2)


class FBLTPooling(FBLTCrossAttention):
    """Encoder side: the slots of a patch attend to that patch's bytes."""

    def forward(self, slots: torch.Tensor, bytes_: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
        """
        Args:
            slots: `[batch, patches, k, width]`.
            bytes_: `[batch, length, width]`.
            patch: `[batch, length]`, index of the patch a byte belongs to; `patches` for bytes of none.

        Returns:
            `[batch, patches, k, width]`.
        """
        batch, patches, k, _ = slots.shape
        query = self._heads(self.project(self.q_proj, self.query_norm(slots))) * self.scaling
        source = self.key_norm(bytes_)
        key = self._key_heads(self.k_proj(source))  # [batch, length, heads, head_dim]
        value = self._key_heads(self.v_proj(source))
        # A softmax over the bytes of each patch, by segments: linear in bytes however long a patch is.
        own = take_columns(query, patch.clamp(max=patches - 1))  # [batch, length, k, heads, head_dim]
        scores = (own * key[:, :, None]).sum(-1)
        scores = scores if scores.dtype.itemsize >= torch.float32.itemsize else scores.float()
        index = patch[:, :, None, None].expand_as(scores)
        nothing = scalar(0.0, scores.dtype, scores.device).expand(batch, patches + 1, k, self.num_heads)
        highest = nothing.scatter_reduce(1, index, scores.detach(), "amax", include_self=False)
        weights = (scores - highest.gather(1, index)).exp()
        total = nothing.scatter_add(1, index, weights)
        weights = (weights / total.gather(1, index)).to(value.dtype)
        weighted = (weights[..., None] * value[:, :, None]).flatten(2)  # [batch, length, k * width]
        pooled = scalar(0.0, weighted.dtype, weighted.device).expand(batch, patches + 1, weighted.shape[-1])
        pooled = pooled.scatter_add(1, patch[:, :, None].expand_as(weighted), weighted)[:, :patches]
        return torch.add(self.project(self.o_proj, pooled.unflatten(-1, (k, -1))), slots, alpha=2)


class FBLTLatentReading(FBLTCrossAttention):
    """Decoder side: a byte attends to the slots of one latent."""

    def unread_with_one_slot(self) -> list[nn.Module]:
        """What `forward` does without where a latent has one slot."""
        return [self.query_norm, self.q_proj, self.k_proj]

    def read(self, slots: torch.Tensor) -> torch.Tensor:
        """What bytes read of each latent's slots `[batch, latents, k, width]`, whichever bytes they are.

        Returns:
            `[batch, latents, k, keys and values]`; with one slot, what is added to a byte, `[batch, latents, width]`.
        """
        source = self.key_norm(slots)
        if slots.shape[2] == 1:
            # A softmax over one slot is 1 whatever query and key are, so all bytes of a latent read the same.
            return self.o_proj(self._key_heads(self.v_proj(source[:, :, 0])).flatten(2))
        # Keys and values are projected once per latent and gathered per byte: every byte reads just one.
        return torch.cat([self.project(layer, source) for layer in (self.k_proj, self.v_proj)], dim=-1)

    def forward(self, hidden: torch.Tensor, read: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: `[batch, length, width]`.
            read: of all latents, see [`read`].
            latent: `[batch, length]`, index of the latent each byte reads.

        Returns:
            `[batch, length, width]`.
        """
        own = read if read.shape[1] == 1 else take_columns(read, latent)  # of one latent there is nothing to choose
        if read.dim() == 3:
            return torch.add(own, hidden, alpha=2)
        query = self._heads(self.q_proj(self.query_norm(hidden))) * self.scaling
        key, value = (self._key_heads(part) for part in own.chunk(2, dim=-1))
        weights = torch.softmax((query[:, :, None] * key).sum(-1), dim=2)  # [batch, length, k, heads]
        attended = (weights[..., None] * value).sum(2)
        return torch.add(self.o_proj(attended.flatten(2)), hidden, alpha=2)
