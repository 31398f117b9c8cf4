"""A model that finds patch starts and does nothing else, and what identifies how it finds them."""

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fblt.batches import weights_digest
from modeling_fblt import FBLTConfig, FBLTForCausalLM
from modeling_fblt.modeling_fblt import FBLTModel
from modeling_fblt.networks_fblt import FBLTPatcher

from ..recipe import load_recipe

THRESHOLD = "patching.json"  # beside the weights of a patcher


def load_patching_model(model: str | None, recipe: str | None) -> FBLTModel:
    """The patching of a saved FBLT, or of the run that a recipe describes, in float32.

    Raises:
        FileNotFoundError: the recipe's patcher was not trained yet.
    """
    if model is None:
        settings = load_recipe(recipe)
        model = settings.get("init_from")
    if model is not None:
        whole = FBLTForCausalLM.from_pretrained(model, dtype=torch.float32)
        return patching_model(whole.config, whole.model.patcher)
    config = FBLTConfig(**settings["model"])
    if config.patching_mode != "entropy":
        return patching_model(config, None)
    patcher = FBLTPatcher(config.patcher_config)
    config.patching_threshold = load_trained_patcher(patcher, settings["patcher"]["output"], recipe)
    return patching_model(config, patcher)


def load_trained_patcher(patcher: FBLTPatcher, folder: str | Path, recipe: str = "RECIPE") -> float:
    """Fills in the weights that `fblt train-patcher` left in `folder`; returns the threshold it found.

    Raises:
        FileNotFoundError: no patcher there; the message names the command for `recipe`.
        ValueError: it is damaged, or of another geometry.
    """
    folder = Path(folder)
    if not (folder / THRESHOLD).is_file():
        raise FileNotFoundError(
            f"`patcher.output` {str(folder)!r} holds no patcher: run `fblt train-patcher {recipe}` first."
        )
    try:
        found = json.loads((folder / THRESHOLD).read_text(encoding="utf-8"))
        threshold = float(found["threshold"])
        patcher.load_state_dict(load_file(folder / "model.safetensors"))
    except (ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"`patcher.output` {str(folder)!r} holds a damaged patcher, or one of another `model.patcher_config`: run "
            f"`fblt train-patcher {recipe}` again ({error})."
        ) from error
    # Earlier versions did not note which weights a threshold was found for.
    if found.get("patcher") not in (None, f"sha256:{weights_digest(patcher)}") or not math.isfinite(threshold):
        raise ValueError(
            f"`patcher.output` {str(folder)!r} is damaged: its threshold was found for other weights. Run "
            f"`fblt train-patcher {recipe}` again."
        )
    return threshold


def patching_model(config: FBLTConfig, patcher: FBLTPatcher | None) -> FBLTModel:
    """An FBLT of this config whose `patch` works; the networks that it does not run are not there."""
    with torch.device("meta"):
        model = FBLTModel(config).eval()
    for network in ("encoder", "global_transformer", "decoder"):
        setattr(model, network, None)
    model.patcher = None if patcher is None else patcher.eval()
    return model.requires_grad_(False)


def patching_settings(model: FBLTModel | FBLTForCausalLM) -> dict:
    """All that decides where a model starts patches, fit for JSON."""
    model = model.base_model
    config = model.config
    settings = {
        "patching_mode": config.patching_mode,
        "max_patch_length": config.max_patch_length,
        "isolate_documents": config.isolate_documents,
    }
    if config.patching_mode == "entropy":
        settings["patching_threshold"] = config.patching_threshold
        settings["patcher"] = f"sha256:{weights_digest(model.patcher)}"
    elif config.patching_mode == "static":
        settings["patch_size"] = config.patch_size
    return settings
