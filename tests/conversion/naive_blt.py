# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""BLT over one row, from a Meta state dict and its arguments: dense masks, loops over patches, nothing cached.

Written to be obviously right, as an oracle for shapes that no fixture has. `state` is a Meta state dict, `args` are the
arguments beside it.
"""

import torch
import torch.nn.functional as F

PRIMES = (1000000007, 5915587277, 1500450271)
EOS = 2


def norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """Rotary positions for `[heads, length, head_dim]`: pairs of neighbours as complex numbers."""
    _, length, dim = x.shape
    angle = torch.outer(torch.arange(length).double(), theta ** -(torch.arange(0, dim, 2).double() / dim))
    turned = torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def attend(query, key, value, heads, key_heads, mask, theta=None):
    """`mask` `[queries, keys]`, True where a query may look."""
    q, k, v = (
        x.unflatten(-1, (n, -1)).transpose(0, 1) for x, n in ((query, heads), (key, key_heads), (value, key_heads))
    )
    if theta is not None:
        q, k = rotate(q, theta), rotate(k, theta)
    k, v = (x.repeat_interleave(heads // key_heads, 0) for x in (k, v))
    scores = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)


def layer(state, prefix, x, heads, key_heads, mask, args):
    w = {name: state[f"{prefix}.{name}.weight"] for name in ("attention_norm", "ffn_norm")}
    q, k, v, o = (state[f"{prefix}.attention.w{name}.weight"] for name in "qkvo")
    y = norm(x, w["attention_norm"], args["norm_eps"])
    x = x + attend(y @ q.T, y @ k.T, y @ v.T, heads, key_heads, mask, args["rope_theta"]) @ o.T
    y = norm(x, w["ffn_norm"], args["norm_eps"])
    w1, w2, w3 = (state[f"{prefix}.feed_forward.w{i}.weight"] for i in (1, 2, 3))
    return x + (F.silu(y @ w1.T) * (y @ w3.T)) @ w2.T


def cross(state, prefix, x, source, mask, args):
    """What comes back has `x` in it once, and the caller adds it once more."""
    q, k, v, o = (state[f"{prefix}.w{name}.weight"] for name in "qkvo")
    y = norm(x, state[f"{prefix}.cross_attn_norm_q.weight"], args["norm_eps"])
    z = norm(source, state[f"{prefix}.cross_attn_norm_kv.weight"], args["norm_eps"])
    heads = args["cross_attn_nheads"]
    return 2 * x + attend(y @ q.T, z @ k.T, z @ v.T, heads, heads, mask) @ o.T


def documents(separators):
    """How many documents have ended before each position."""
    return F.pad(separators.long().cumsum(0), (1, 0))[:-1]


def local_mask(ids, window):
    i, document = torch.arange(len(ids)), documents(ids == EOS)
    back = i[:, None] - i
    return (back >= 0) & (back < window) & (document[:, None] == document)


def patch_starts(entropy_state, args, ids, threshold, limit):
    """Boolean starts `[n + 1]`, and entropies `[n]`."""
    x = entropy_state["tok_embeddings.weight"][ids]
    mask = local_mask(ids, args["sliding_window"])
    for i in range(args["n_layers"]):
        x = layer(entropy_state, f"layers.{i}", x, args["n_heads"], args["n_kv_heads"] or args["n_heads"], mask, args)
    x = norm(x, entropy_state["norm.weight"], args["norm_eps"])
    p = (x @ entropy_state["output.weight"].T).log_softmax(-1)
    entropies = -(p.exp() * p).sum(-1)
    starts, length = [True], 0
    for position in range(1, len(ids) + 1):
        length += 1
        by_rule = position == 1 or bool(entropies[position - 1] > threshold)
        starts.append(by_rule or (limit is not None and length == limit))
        length = 0 if starts[-1] else length
    return torch.tensor(starts), entropies


def logits(state, args, ids, starts):
    """Next-byte logits `[n, 260]` of a row `[n]` with the given patch starts `[n + 1]`."""
    k, n = args["cross_attn_k"], len(ids)
    patch = starts.long().cumsum(0) - 1  # of each position, the next one included
    x = state["local_encoder.tok_embeddings.weight"][ids]
    table = 0
    for function in range(args["encoder_hash_byte_group_nb_functions"]):
        for size in args["encoder_hash_byte_group_size"] or ():
            for i in range(n):
                gram = [0] * max(0, size - 1 - i) + ids[max(0, i - size + 1) : i + 1].tolist()
                value = sum(byte * PRIMES[function] ** place for place, byte in enumerate(gram))
                value = (value + 2**63) % 2**64 - 2**63  # int64 wraps around
                row = value % args["encoder_hash_byte_group_vocab"]
                x[i] = x[i] + state[f"encoder_hash_tok_embedding.{table}.weight"][row]
            table += 1

    key_heads = args["n_kv_heads"]
    mask = local_mask(ids, args["local_attention_window_len"])
    patches = int(patch[:-1].max()) + 1
    own = patch[None, :-1] == torch.arange(patches).repeat_interleave(k)[:, None]
    slots, last = None, args["n_layers_local_encoder"] - 1
    heads = args["n_heads_local_encoder"]
    for i in range(last + 1):
        x = layer(state, f"local_encoder.layers.{i}", x, heads, key_heads or heads, mask, args)
        if i == last or args["cross_attn_all_layers_encoder"]:
            if slots is None:
                highest = torch.stack([x[patch[:-1] == p].amax(0) for p in range(patches)])
                slots = highest @ state["local_encoder.patch_embedding_projection.weight"].T
                slots = slots.view(patches * k, -1)
            number = i if args["cross_attn_all_layers_encoder"] else 0
            slots = cross(state, f"local_encoder.cross_attn_layers.{number}", slots, x, own, args)

    latents = slots.view(patches, -1)
    if "global_transformer.token_embedding_projection.weight" in state:
        latents = latents @ state["global_transformer.token_embedding_projection.weight"].T
    closes = torch.tensor([bool((ids[patch[:-1] == p] == EOS).any()) for p in range(patches)])
    i, document = torch.arange(patches), documents(closes)
    causal = (i[:, None] >= i) & (document[:, None] == document)
    heads = args["n_heads_global"]
    for i in range(args["n_layers_global"]):
        name = f"global_transformer.layers.{i}"
        latents = layer(state, name, latents, heads, args["n_kv_heads_global"] or heads, causal, args)

    slots = (latents @ state["local_decoder.patch_embedding_projection.weight"].T).view(patches * k, -1)
    # A byte reads the last patch that is complete once it is there: the one before its successor's.
    reads = (patch[1:] - 1)[:, None] == torch.arange(patches).repeat_interleave(k)
    heads = args["n_heads_local_decoder"]
    for i in range(args["n_layers_local_decoder"]):
        if i == 0 or args["cross_attn_all_layers_decoder"]:
            x = cross(state, f"local_decoder.cross_attn_layers.{i}", x, slots, reads, args)
        x = layer(state, f"local_decoder.layers.{i}", x, heads, key_heads or heads, mask, args)
    return norm(x, state["local_decoder.norm.weight"], args["norm_eps"]) @ state["local_decoder.output.weight"].T
