# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The decoding settings of FBLT: defaults, and checks that name what is wrong before any work is done."""

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from .unmasking_fblt import UNMASKING

DECODINGS = ("ar", "blt-s", "blt-d", "blt-dv")


@dataclass
class DecodingSettings:
    """FBLT's own settings of `generate`; all may stand in `generation_config.json` or be given as arguments.

    Attributes:
        decoding: `"ar"` (one byte at a time), `"blt-s"` (the decoder drafts, the model verifies), `"blt-d"` (blocks,
            taken as drafted) or `"blt-dv"` (blocks, verified).
        block_size: bytes of a drafted block, the carried one included; the size trained for when None.
        draft_length: bytes that `"blt-s"` drafts before each verification.
        unmasking: `"confidence"`, `"entropy"` or `"one_step"`; when None, one step for `"blt-dv"`, which was fastest in
            the paper, and confidence for `"blt-d"`.
        confidence_threshold: top probability above which confidence unmasking fills a position in.
        entropy_bound: cumulative entropy, in nats, that entropy-bounded unmasking may spend per step.
        close_patch: `"blt-d"` drafts from the prefix with its last patch forced closed, as the paper does, instead of
            from the last complete patch.
    """

    decoding: str = "ar"
    block_size: int | None = None
    draft_length: int = 8
    unmasking: str | None = None
    confidence_threshold: float = 0.7
    entropy_bound: float = 1.0
    close_patch: bool = False

    @classmethod
    def of(cls, generation_config: GenerationConfig, config: Any) -> "DecodingSettings":
        """The settings of a call, checked against the model.

        Raises:
            ValueError: a setting that does not exist or that the checkpoint cannot serve, with the remedy.
        """
        names = cls.__dataclass_fields__
        given = {name: getattr(generation_config, name) for name in names if hasattr(generation_config, name)}
        settings = cls(**given)
        settings._check(config)
        if settings.block_size is None:
            settings.block_size = config.block_size
        if settings.unmasking is None:
            settings.unmasking = "one_step" if settings.decoding == "blt-dv" else "confidence"
        return settings

    def _check(self, config: Any) -> None:
        if self.decoding not in DECODINGS:
            raise ValueError(f"`decoding` is {self.decoding!r}: choose one of {DECODINGS}.")
        if self.unmasking is not None and self.unmasking not in UNMASKING:
            raise ValueError(f"`unmasking` is {self.unmasking!r}: choose one of {UNMASKING}.")
        if self.decoding in ("blt-d", "blt-dv"):
            trained = config.block_size
            if trained is None:
                raise ValueError(
                    f"`decoding` is {self.decoding!r}, but this checkpoint was not trained with blocks (its "
                    "`block_size` is None): use 'blt-s' or 'ar', or fine-tune it with the block loss first."
                )
            if self.block_size is not None and not 2 <= self.block_size <= trained:
                raise ValueError(
                    f"`block_size` is {self.block_size}: this checkpoint was trained for blocks of {trained} bytes; "
                    f"give 2 .. {trained}."
                )
        if self.decoding == "blt-s" and not (isinstance(self.draft_length, int) and self.draft_length >= 1):
            raise ValueError(f"`draft_length` is {self.draft_length!r}: give at least 1 byte.")
        if not 0.0 <= self.confidence_threshold <= 1.0:
            raise ValueError(f"`confidence_threshold` is {self.confidence_threshold}: give a probability.")
        if self.entropy_bound < 0:
            raise ValueError(f"`entropy_bound` is {self.entropy_bound}: give nats, 0 or more.")
        if self.close_patch and self.decoding != "blt-d":
            raise ValueError(
                "`close_patch` belongs to `decoding='blt-d'`: verification needs the true patch boundaries."
            )


class FBLTGenerationConfig(GenerationConfig):
    """A generation config that carries FBLT's settings (see [`DecodingSettings`]) beside transformers' own.

    Defaults for a model: `"blt-dv"` where it was trained with blocks, `"blt-s"` where not.
    """

    @classmethod
    def for_model(cls, config: Any) -> "FBLTGenerationConfig":
        decoding = "blt-s" if config.block_size is None else "blt-dv"
        settings = DecodingSettings(decoding=decoding, block_size=config.block_size)
        return cls(
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            **vars(settings),
        )
