# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""FBLT as remote code for transformers: importing the package registers it with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .cache_fblt import FBLTCache
from .configuration_fblt import FBLTConfig
from .modeling_fblt import FBLTForCausalLM, FBLTModel

AutoConfig.register("fblt", FBLTConfig)
AutoModel.register(FBLTConfig, FBLTModel)
AutoModelForCausalLM.register(FBLTConfig, FBLTForCausalLM)
FBLTConfig.register_for_auto_class()
FBLTModel.register_for_auto_class("AutoModel")
FBLTForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["FBLTCache", "FBLTConfig", "FBLTForCausalLM", "FBLTModel"]
