# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The decoding settings of FBLT: defaults, and checks that name what is wrong before any work is done."""

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from .generation_rules_fblt import AUTO, check_settings
from .lookup_fblt import LONGEST_MATCH

VERIFIED = ("blt-s", "blt-dv")
REFINED = ("blt-s", "blt-d", "blt-dv")
NEW_BYTES = 256  # written where no length is given: a paragraph
LONGEST_DRAFT = 16  # bytes; of drafts whose length is chosen, the longest that the paper tried
AUTO_PASSES = 3  # refinement passes that "auto" chooses among; each later one gains less


@dataclass
class DecodingSettings:
    """FBLT's own settings of `generate`; all may stand in `generation_config.json` or be given as arguments.

    Attributes:
        decoding: `"ar"` (one byte at a time), `"blt-s"` (the decoder drafts, the model verifies), `"blt-d"` (blocks,
            taken as drafted) or `"blt-dv"` (blocks, verified).
        block_size: bytes of a drafted block, the carried one included; the size trained for when None. `"auto"`
            (`"blt-dv"`): that size is filled in, and as much of it verified as acceptance so far makes worthwhile.
        draft_length: bytes that `"blt-s"` drafts before each verification; `"auto"` chooses it round by round.
        refine_steps: how often a draft goes once, causally, through the decoder and is replaced by what the decoder
            chooses there; fewer once nothing changes. `"blt-dv"` and `"blt-d"` refine their blocks. `"blt-s"` drafts
            in so many calls over all positions instead of a call for every byte. `"auto"` (verified decodings)
            chooses among 0 to 3 passes round by round.
        prompt_lookup_num_tokens: verified decodings first look in the row itself for what followed its last bytes, and
            draft so many bytes from there; where nothing matches, the decoding drafts by itself (`"ar"` does not).
            With an `"auto"` setting, at most so many, and only as long as that is worthwhile.
        max_matching_ngram_size: the longest match, in bytes, that lookup tells from shorter ones; 16 when None. A
            match has at least 4 bytes, or so many if that is less.
        draft_cost: what the `"auto"` settings weigh acceptance against, a round without a draft being 1: the cost of a
            decoder call, or a dict of `call`, `byte`, `verified` and `head`, see [`DraftCosts`]. When None it is
            measured at the first call. Then drafts can differ between machines, and so which text a seed of sampling
            gives.
        draft_confidence: a verified draft ends before the first byte whose likeliest choice has less probability.
        unmasking: `"one_step"`, `"sequential"` (per decoder call the leading bytes that are sure enough, at least one),
            `"confidence"` or `"entropy"` (positions in any order); when None, one step for `"blt-dv"`, which was
            fastest in the paper, and for `"blt-d"` sequential with a draft head and confidence without.
        draft_head: whether the draft head chooses the bytes of blocks, if there is one when None. It goes from left to
            right: unmasking in any other order does without it.
        confidence_threshold: top probability above which confidence unmasking fills a position in, and which
            sequential unmasking asks of every byte after the first.
        entropy_bound: cumulative entropy, in nats, that entropy-bounded unmasking may spend per step.
        block_anchor: where a block begins: at the carried `"byte"`, or at the start of the `"patch"` that holds it,
            where blocks stand in training, with the patch's known bytes unmasked.
        close_patch: `"blt-d"` drafts from the prefix with its last patch forced closed, as the paper does, instead of
            from the last complete patch.
        paper_passes: verified decodings spend the paper's two global calls per iteration: one encodes the prefix with
            its last patch forced closed, one verifies. The output is the same; for comparison.
        valid_utf8: only text that is valid UTF-8 is written. A character that does not fit into the length that is left
            is not begun; one that another stop cuts is taken back.
    """

    decoding: str = "ar"
    block_size: int | str | None = None
    draft_length: int | str = 8
    refine_steps: int | str = 0
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    draft_cost: float | dict | None = None
    draft_confidence: float | None = None
    unmasking: str | None = None
    draft_head: bool | None = None
    confidence_threshold: float = 0.7
    entropy_bound: float = 1.0
    block_anchor: str = "byte"
    close_patch: bool = False
    paper_passes: bool = False
    valid_utf8: bool = False

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
        if settings.draft_head is None:
            settings.draft_head = config.draft_head_config is not None
        if settings.unmasking is None:
            in_steps = "sequential" if settings.draft_head else "confidence"
            settings.unmasking = "one_step" if settings.decoding == "blt-dv" else in_steps
        if settings.max_matching_ngram_size is None:
            settings.max_matching_ngram_size = LONGEST_MATCH
        return settings

    def adapts(self) -> bool:
        """Whether anything is chosen round by round."""
        refines = self.decoding in REFINED and self.refine_steps == AUTO
        return refines or self.adapts_length()

    def adapts_length(self) -> bool:
        """Whether draft lengths are."""
        return (self.block_size if self.decoding == "blt-dv" else self.draft_length) == AUTO

    def passes(self) -> tuple[int, ...]:
        """The numbers of refinement passes to choose from."""
        if self.decoding not in REFINED:
            return (0,)
        return tuple(range(AUTO_PASSES + 1)) if self.refine_steps == AUTO else (self.refine_steps,)

    def block_width(self, config: Any) -> int:
        """Positions of a drafted block; 0 for decodings without blocks."""
        if self.decoding not in ("blt-d", "blt-dv"):
            return 0
        return config.block_size if self.block_size == AUTO else self.block_size

    def longest_draft(self, config: Any) -> int:
        """Bytes of the longest draft, without the byte that verification adds."""
        return max(self.longest_own_draft(config), self.prompt_lookup_num_tokens or 0)

    def longest_own_draft(self, config: Any) -> int:
        """The same, of drafts that are not looked up."""
        if self.decoding == "blt-s":
            return LONGEST_DRAFT if self.draft_length == AUTO else self.draft_length
        return self.block_width(config)

    def _check(self, config: Any) -> None:
        check_settings(vars(self))
        if self.decoding in ("blt-d", "blt-dv"):
            self._check_block(config)
        self._check_refinement()
        self._check_lookup()
        if self.close_patch and self.decoding != "blt-d":
            raise ValueError(
                "`close_patch` belongs to `decoding='blt-d'`: verification needs the true patch boundaries."
            )
        for name in ("paper_passes", "draft_confidence"):
            if getattr(self, name) not in (None, False) and self.decoding not in VERIFIED:
                raise ValueError(f"`{name}` belongs to verified decodings: choose `decoding` from {VERIFIED}.")

    def _check_refinement(self) -> None:
        steps = self.refine_steps
        if steps == AUTO and self.decoding == "blt-d":
            raise ValueError(
                "`refine_steps` is 'auto' with `decoding='blt-d'`: it is chosen from acceptance, and only verified "
                "decodings reject anything; give a number."
            )
        if steps != 0 and self.decoding == "blt-s" and self.paper_passes:
            raise ValueError(
                f"`refine_steps` is {steps!r} with `paper_passes=True` and `decoding='blt-s'`: the paper's pass drafts "
                "byte by byte; give `refine_steps=0`, or leave `paper_passes` False."
            )

    def _check_lookup(self) -> None:
        if self.prompt_lookup_num_tokens is not None and self.decoding == "blt-d":
            raise ValueError(
                "`prompt_lookup_num_tokens` is given with `decoding='blt-d'`, which verifies nothing: it would copy "
                "what is looked up as it is; choose another decoding, or leave it None."
            )

    def _check_block(self, config: Any) -> None:
        trained = config.block_size
        if trained is None:
            raise ValueError(
                f"`decoding` is {self.decoding!r}, but this checkpoint was not trained with blocks (its "
                "`block_size` is None): use 'blt-s' or 'ar', or fine-tune it with the block loss first."
            )
        if self.draft_head and config.draft_head_config is None:
            raise ValueError(
                "`draft_head` is True, but this checkpoint has no draft head (its `draft_head_config` is None): leave "
                "it None, or train a head for the checkpoint with `fblt train-draft-head`."
            )
        if self.block_size == AUTO:
            if self.decoding == "blt-d":
                raise ValueError(
                    "`block_size` is 'auto' with `decoding='blt-d'`: it is chosen from acceptance, and only "
                    "'blt-dv' rejects anything; give a number."
                )
        elif self.block_size is not None and self.block_size > trained:
            raise ValueError(
                f"`block_size` is {self.block_size!r}: this checkpoint was trained for blocks of {trained} bytes; "
                f"give 2 .. {trained}, or 'auto' (blt-dv)."
            )


class FBLTGenerationConfig(GenerationConfig):
    """A generation config that carries FBLT's settings (see [`DecodingSettings`]) beside transformers' own.

    Defaults for a model: `"blt-dv"` where it was trained with blocks, `"blt-s"` where not, and 256 new bytes at most.
    """

    @staticmethod
    def settings_for(config: Any) -> DecodingSettings:
        """A model's default settings."""
        decoding = "blt-s" if config.block_size is None else "blt-dv"
        return DecodingSettings(decoding=decoding, block_size=config.block_size)

    @classmethod
    def for_model(cls, config: Any) -> "FBLTGenerationConfig":
        return cls(
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            max_new_tokens=NEW_BYTES,
            **vars(cls.settings_for(config)),
        )
