"""What decoding costs: parameters per network, network calls, and the memory traffic that they imply (Eq. 8)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

COMPONENTS = ("patcher", "encoder", "global", "decoder", "draft_head")


def component_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters that one call of each network reads.

    Embedding tables (bytes and hashed n-grams) are left out, because a lookup reads a few of their rows; the next-byte
    head runs with every decoder call and counts there.

    Args:
        model: an `FBLTForCausalLM`.

    Returns:
        One count per name in `COMPONENTS`; 0 for a patcher or a draft head that the model does not have.
    """
    networks = {
        "patcher": [model.model.patcher],
        "encoder": [model.model.encoder],
        "global": [model.model.global_transformer],
        "decoder": [model.model.decoder, model.lm_head],
        "draft_head": [getattr(model, "draft_head", None)],  # whose step reads all of it
    }
    return {name: sum(read_per_call(part) for part in parts if part is not None) for name, parts in networks.items()}


def read_per_call(network: nn.Module) -> int:
    """Parameters of a network, those of embedding tables left out."""
    tables = {id(p) for module in network.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return sum(p.numel() for p in network.parameters() if id(p) not in tables)


def calls(output: Any) -> dict[str, float]:
    """Network calls of a generation, summed over its rows.

    Args:
        output: what `generate(..., return_dict_in_generate=True)` returned (`FBLTGenerateOutput`).

    Returns:
        One count per name in `COMPONENTS`.
    """
    # A model may carry code from before there were draft heads.
    found = {name: getattr(output, f"{name}_nfe", None) for name in COMPONENTS}
    return {name: 0.0 if count is None else float(count.sum()) for name, count in found.items()}


def traffic_gb(
    calls: Mapping[str, float],
    parameters: Mapping[str, int],
    bytes_per_parameter: float = 2,
    with_patcher: bool = False,
) -> float:
    """Estimated memory traffic in GB, `b [N_dec P_dec + N_glob (P_enc + P_glob)] / 1e9` (Eq. 8 of the paper).

    It supposes that reading parameters is what decoding waits for: one row, and a small cache. As in the paper, the
    encoder is counted with the global transformer. That leaves out the calls that the small encoder makes alone: here
    it also runs on bytes that complete no patch, most of all under `ar`. Every step of a draft head counts.

    Args:
        calls: see [`calls`]; counts for a whole generation, or per byte for the traffic of one byte.
        parameters: see [`component_parameters`].
        bytes_per_parameter: 2 for bfloat16, the paper's choice.
        with_patcher: add the calls of the entropy model, which the paper leaves out.
    """
    read = calls["decoder"] * parameters["decoder"] + calls["global"] * (parameters["encoder"] + parameters["global"])
    read += calls.get("draft_head", 0) * parameters.get("draft_head", 0)
    if with_patcher:
        read += calls["patcher"] * parameters["patcher"]
    return bytes_per_parameter * read / 1e9
