# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Decoding: one cached loop, and the four decodings as drafters beside it.

One iteration of the loop:

1. draft: a drafter continues after the last known byte with up to `r` bytes (`ar`: none);
2. feed: bytes that are known but not fed, and the draft, go once through all networks, which extends the caches and
   gives the next-byte distributions that verify the draft (`blt-d` skips this: it takes its draft as it is);
3. accept: the longest prefix of the draft that plain decoding would have written, and the byte after it; when
   sampling, what speculative rejection keeps, so that the text is distributed as plain sampling would have it;
4. stop or go on: bytes after a stop are dropped, the caches are taken back to the accepted bytes, and the last known
   byte is carried: it is fed in the next iteration.

Where an iteration waits for the device, once each:

- for the bounds of the rows' lengths, before drafting or feeding; in `blt-d` with `refine_steps`, after feeding too;
- for shapes of what is fed: the longest row, the most patches that a row completes, the longest open patch;
- for whether all rows have ended;
- for whether a block is filled in, after each step of an unmasking that takes several;
- for whether a causal draft goes on, after each of its bytes, with `draft_confidence`;
- for the numbers of bytes that rows have, with logits processors, and, with a draft head too, for the known bytes of
  their blocks in the first iteration and with `block_anchor="patch"`; for acceptance, where drafts adapt;
- for how far rows are, with recorded scores or logits, a streamer, or criteria beside stop ids and lengths.

The loop copies nothing to the device.
"""

import functools
import inspect
from dataclasses import dataclass, replace

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import (
    GenerateBeamDecoderOnlyOutput,
    GenerateDecoderOnlyOutput,
    GenerationMode,
    LogitsProcessorList,
)
from transformers.utils import logging

from .byte_choice_fblt import ByteChoice
from .cache_fblt import FBLTCache
from .compaction_fblt import Compaction, by_row
from .compatibility_fblt import CACHE_NAME, BothCacheNames, given_cache
from .compiled_networks_fblt import compiled_networks
from .drafters_fblt import build_drafter
from .forward_steps_fblt import feed
from .generation_config_fblt import NEW_BYTES, DecodingSettings, FBLTGenerationConfig
from .generation_rules_fblt import NEVER_NONE, check_generation_config, check_objects, check_settings, make_fractions
from .generation_state_fblt import GenerationState
from .input_checks_fblt import check_cache, check_continues, check_input
from .joined_maps_fblt import join_maps
from .padding_fblt import RightPadded
from .processors_fblt import argument_of, has_choice, is_pure
from .stepwise_fblt import step_by_step
from .stopping_fblt import LEAD, Criteria, cut_at_stop
from .utf8_fblt import FBLTUTF8LogitsProcessor, open_bytes

logger = logging.get_logger(__name__)

_SIGNATURE = inspect.signature(GenerationMixin.generate)
# What plain decoding alone can give: its steps are whole forward calls.
STEPWISE = ("output_attentions", "output_hidden_states")


@dataclass
class FBLTGenerateOutput(GenerateDecoderOnlyOutput, BothCacheNames):
    """Output of `generate(..., return_dict_in_generate=True)`. Counters are `[batch]` LongTensors, one entry per row.

    Args:
        sequences: `[batch, columns]`, prompt columns and new bytes, padded after a stop.
        scores, logits: when asked for, one `[batch, vocab]` per new byte, processed and raw; zero after a stop.
        cache, past_key_values: the KV cache, by both names. It holds all bytes but the last of each row: to go on, give
            it together with the whole sequence so far.
        decoder_nfe, encoder_nfe, global_nfe, patcher_nfe: forward calls of each network, over any number of positions;
            0 of a patcher that the model does not have.
        draft_head_nfe: steps of the draft head, one for each position of a block.
        drafted, accepted: bytes drafted, and how many of them were kept.
        iterations: rounds of the loop.
        acceptance: `[batch, longest draft + 1]`, rounds with a draft by how many bytes were kept of it.
    """

    decoder_nfe: torch.Tensor | None = None
    encoder_nfe: torch.Tensor | None = None
    global_nfe: torch.Tensor | None = None
    patcher_nfe: torch.Tensor | None = None
    draft_head_nfe: torch.Tensor | None = None
    drafted: torch.Tensor | None = None
    accepted: torch.Tensor | None = None
    iterations: torch.Tensor | None = None
    acceptance: torch.Tensor | None = None


class FBLTGenerationMixin(GenerationMixin):
    """`generate` for FBLT. Greedy and sampling calls run the loop of this file; the rest of transformers' contract
    (merged configs, processors, criteria, streamers, beams over plain decoding) is prepared by `generate` itself.

    A CPU with bfloat16 instructions reads the weights of a lone bfloat16 row about 1.8 times as fast by torch's own
    product as by oneDNN's (35 against 19 GB/s, two cores, torch 2.13). torch can only be told so for the whole process,
    so it is left to callers that are alone in theirs: `with torch.backends.mkldnn.flags(enabled=False)`.
    """

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args, **kwargs):
        # Raises a TypeError or a ValueError for an argument that FBLT cannot use, before transformers looks at any.
        given = _SIGNATURE.bind(self, *args, **kwargs).arguments | kwargs
        check_objects(given)
        if given.get("negative_prompt_ids") is not None:
            check_input(self.config.vocab_size, given["negative_prompt_ids"], name="negative_prompt_ids")
        cache = given_cache(dict(given))
        try:
            return super().generate(*args, **kwargs)
        finally:
            if isinstance(cache, FBLTCache):
                cache.networks = None  # a call that ends in an error leaves no compiled ones to a caller

    def _prepare_generation_config(self, generation_config, **kwargs):
        # generate takes an argument only if the model's config has its name, which one that was made by hand, or saved
        # before there was such a setting, has not.
        for name, value in vars(FBLTGenerationConfig.settings_for(self.config)).items():
            if not hasattr(self.generation_config, name):
                setattr(self.generation_config, name, value)
        check_generation_config(generation_config)
        check_settings(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name not in NEVER_NONE}
        own_length = _counts_columns(kwargs, generation_config, self.generation_config)
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if own_length:
            prepared.max_new_tokens = None
        check_generation_config(prepared)
        make_fractions(prepared)
        DecodingSettings.of(prepared, self.config)
        return prepared, model_kwargs

    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs) -> None:
        others = [n for n in ("use_mtp", "assistant_early_exit") if getattr(generation_config, n, None)]
        if others:
            raise ValueError(
                f"`{others[0]}` is not supported: FBLT drafts and verifies by itself; choose decoding='blt-dv' or "
                "'blt-s' instead."
            )
        if generation_mode == GenerationMode.ASSISTED_GENERATION:
            # Lookup, which is a drafter here, and asks nothing of sampling that the other drafters do not.
            generation_mode = GenerationMode.SAMPLE
        elif getattr(generation_config, "prompt_lookup_num_tokens", None) is not None:
            raise ValueError(
                f"`prompt_lookup_num_tokens` is given with {generation_mode.value.replace('_', ' ')}: drafts are "
                "verified in greedy search and in sampling only; leave it None."
            )
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, *args
    ) -> None:
        cache = given_cache(model_kwargs)
        if cache is not None:
            model_kwargs[CACHE_NAME] = cache
        rows = batch_size * max(generation_config.num_beams, generation_config.num_return_sequences)
        if cache is None and generation_config.use_cache is not False:
            if generation_config.cache_implementation is not None:
                raise ValueError(
                    f"`cache_implementation` is {generation_config.cache_implementation!r}: FBLT keeps its own state "
                    "and brings its own cache; leave it None."
                )
            # Where the bytes are: the weights of an offloaded model are on no device before they are used.
            mask = model_kwargs.get("attention_mask")
            device = self.device if mask is None else mask.device
            model_kwargs[CACHE_NAME] = FBLTCache(self.config, rows, device)
        elif cache is not None:
            self._check_given_cache(cache, generation_config, rows)

    def _check_given_cache(self, cache, generation_config, rows: int) -> None:
        """Raises a ValueError for a cache of the caller's that this call cannot go on from."""
        if generation_config.use_cache is False:
            raise ValueError(
                "`past_key_values` is given with `use_cache=False`: leave one of them out, either goes by itself."
            )
        if generation_config.num_beams > 1 and isinstance(cache, FBLTCache) and len(cache.lengths) != rows:
            raise ValueError(
                f"`past_key_values` holds {len(cache.lengths)} rows with `num_beams={generation_config.num_beams}`: "
                f"beams reorder their cache, so give one that was made for all {rows} of them, or leave it out."
            )
        check_cache(self.config, cache, rows)

    def _prepare_model_inputs(self, inputs, bos_token_id, model_kwargs):
        given = model_kwargs.get("input_ids") if inputs is None else inputs
        if given is not None:
            ids, _ = check_input(self.config.vocab_size, given, model_kwargs.get("attention_mask"))
            mask = model_kwargs.get("attention_mask")
            if mask is not None and mask.shape != ids.shape:
                raise ValueError(
                    f"`attention_mask` has shape {tuple(mask.shape)}: give {tuple(ids.shape)} as `input_ids`, which "
                    "are the whole sequence so far, with a cache too."
                )
            if inputs is None:
                model_kwargs["input_ids"] = ids
            else:
                inputs = ids
        elif model_kwargs.get("attention_mask") is not None:
            raise ValueError("`attention_mask` is given without `input_ids`: give both, or neither to begin by `<s>`.")
        return super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)

    def _get_logits_processor(self, generation_config, *args, **kwargs) -> LogitsProcessorList:
        mask = (kwargs.get("model_kwargs") or {}).get("attention_mask")
        if mask is not None:
            # Processors are shown rows with their padding on the left, and told so.
            kwargs["model_kwargs"] = {**kwargs["model_kwargs"], "attention_mask": mask.sort(dim=1).values}
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        if getattr(generation_config, "valid_utf8", False):
            # Before all others: what warpers keep must be what can be written.
            processors.insert(0, FBLTUTF8LogitsProcessor(generation_config.max_length))
        return processors

    def _get_stopping_criteria(self, generation_config, *args, **kwargs):
        if generation_config.stop_strings is not None and kwargs.get("tokenizer") is None:
            raise ValueError("`stop_strings` are given without `tokenizer`: give the model's tokenizer beside them.")
        return super()._get_stopping_criteria(generation_config, *args, **kwargs)

    def _sample(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria,
        generation_config,
        synced_gpus: bool = False,
        streamer=None,
        **model_kwargs,
    ) -> FBLTGenerateOutput | torch.LongTensor:
        """The loop described at the head of this file."""
        settings = DecodingSettings.of(generation_config, self.config)
        rows = RightPadded.of(input_ids, model_kwargs.get("attention_mask"))
        cache = model_kwargs.get(CACHE_NAME)
        check_continues(rows, cache)
        settings = draftless_if_impure(settings, logits_processor)
        if goes_step_by_step(settings, generation_config, synced_gpus):
            return step_by_step(
                super()._sample,
                input_ids,
                rows,
                logits_processor,
                stopping_criteria,
                generation_config,
                self.config.mask_token_id,
                synced_gpus=synced_gpus,
                streamer=streamer,
                **model_kwargs,
            )
        join_maps(self)
        cache.networks = compiled_networks(generation_config)
        returns_dict = generation_config.return_dict_in_generate
        state = GenerationState(
            self,
            rows,
            cache,
            ByteChoice(logits_processor, generation_config.do_sample, self.config.mask_token_id),
            settings,
            budget=generation_config.max_length - input_ids.shape[1],
            overshoot=LEAD,
            pad_id=generation_config.pad_token_id,
            outputs=[n for n in ("scores", "logits") if returns_dict and getattr(generation_config, f"output_{n}")],
        )
        drafter, criteria = build_drafter(settings, self, cache.networks), Criteria(stopping_criteria)
        ended = torch.zeros_like(state.active)
        shown = int(state.known[0])
        # Streamers, criteria and processors of a user's own are shown the whole batch.
        compaction = Compaction(streamer is None and not criteria.others and by_row(logits_processor), state)

        # In every round, a row that has not ended writes a byte, so this is never the end of it.
        for done in range(state.budget * len(input_ids)):
            state.round = done
            state.active = criteria.active(state, ended)
            # 1. Draft.
            draft = drafter.draft(state)
            state.count(iterations=1)
            show_draft(streamer, draft)
            # 2. and 3. Feed and accept.
            if drafter.verifies:
                logits = state.feed_with(draft.ids, draft.lengths)
                scores = state.choose.after(state, logits, draft.ids)
                new, accepted = state.choose.verify(draft, scores)
                # Rows that take no part have drafted nothing.
                length, record = accepted + state.active, {"scores": scores, "logits": logits}
                choice = has_choice(scores)
                drafter.observe(draft.lengths, accepted)
            else:
                new, accepted, length, record = draft.ids, draft.lengths, draft.lengths * state.active, draft.record
                choice = ~draft.dead
            # 4. Stop or go on.
            length, stopped = cut_at_stop(new, length, criteria.eos, state.limit - state.known)
            state.note_choices(choice, length)
            state.count_draft(draft, accepted, length)
            state.append(new, length, **record)
            ended = ended | (stopped & state.active)
            if criteria.others:
                written, ended = criteria.offer(state, ended)
                state.take_back(written)
            elif drafter.verifies:
                state.unfeed()
            shown = show_new(streamer, state, shown)
            if state.has_ended(ended) or criteria.out_of_time(state):
                break
            ended = compaction.compact(state, drafter, ended)

        if streamer is not None:
            streamer.end()
        compaction.bring_back(state)
        state.cache.networks = None
        state.take_back(criteria.kept(state))
        return self._finish(state, input_ids, generation_config)

    def _beam_search(
        self, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
    ) -> GenerateBeamDecoderOnlyOutput | torch.LongTensor:
        """transformers' own, over plain decoding."""
        rows = RightPadded.of(input_ids, model_kwargs.get("attention_mask"))
        check_continues(rows, model_kwargs.get(CACHE_NAME))
        return step_by_step(
            super()._beam_search,
            input_ids,
            rows,
            logits_processor,
            stopping_criteria,
            generation_config,
            self.config.mask_token_id,
            **model_kwargs,
        )

    def _assisted_decoding(self, *args, **kwargs) -> FBLTGenerateOutput | torch.LongTensor:
        """Where transformers turns to when prompt lookup is asked for: the same loop."""
        return self._sample(*args, **kwargs)

    def _finish(self, state: GenerationState, input_ids: torch.Tensor, generation_config):
        """Feeds the cache up to the last byte but one, and joins the prompt's columns and the new bytes."""
        if state.settings.valid_utf8:
            state.take_back(state.written - torch.minimum(open_bytes(state.text, state.known), state.written))
        new = state.written
        sequences = torch.cat([input_ids, state.padded(int(new.max()), new)[:, input_ids.shape[1] :]], dim=1)
        if generation_config.return_dict_in_generate and bool((state.pending > 0).any()):
            # For whoever continues from the cache; no byte of this text needed it, so it is not counted.
            state.active = torch.ones_like(state.active)
            feed(self.model, *state.unfed(last=1), state.cache)
        # The loop keeps to bytes; a caller who owns the cache counts columns.
        state.cache.columns = state.prompt.shape[1] + int((new - 1 - state.pending).min())
        if not generation_config.return_dict_in_generate:
            return sequences
        return FBLTGenerateOutput(
            sequences=sequences,
            acceptance=state.acceptance,
            **{CACHE_NAME: state.cache},
            **state.recorded(),
            **state.counts,
        )


def _counts_columns(arguments: dict, given: GenerationConfig | None, default: GenerationConfig) -> bool:
    """Whether a caller's `max_length` is the limit: then the default of new bytes must not stand against it.

    Args:
        arguments: of `generate`; they are asked first.
        given: the config handed to `generate`.
        default: the model's, where `max_new_tokens` may be nobody's choice.
    """
    for max_length, new in (
        (arguments.get("max_length"), arguments.get("max_new_tokens")),
        (getattr(given, "max_length", None), getattr(given, "max_new_tokens", None)),
    ):
        if max_length is not None or new is not None:
            return new is None
    return default.max_length is not None and default.max_new_tokens == NEW_BYTES


def show_draft(streamer, draft) -> None:
    """Hands a streamer that wants drafts the first row's, before it is judged."""
    if hasattr(streamer, "put_draft") and draft.ids.shape[1] and int(draft.lengths[0]):
        streamer.put_draft(value=draft.ids[0, : int(draft.lengths[0])].cpu())


def show_new(streamer, state: GenerationState, shown: int) -> int:
    """Hands a streamer what the first row knows beyond `shown` bytes; how many were shown then."""
    if streamer is None or int(state.known[0]) == shown:
        return shown
    streamer.put(state.text[0, shown : int(state.known[0])].cpu().clone())  # the text is written to in place
    return int(state.known[0])


def draftless_if_impure(settings: DecodingSettings, processors: LogitsProcessorList) -> DecodingSettings:
    """Settings under which processors that may not be pure functions of the prefix see what plain decoding shows them.

    Raises:
        ValueError: the decoding is `blt-d`, which is not plain decoding.
    """
    impure = next((p for p in processors if not is_pure(p)), None)
    if impure is None or (settings.decoding == "ar" and settings.prompt_lookup_num_tokens is None):
        return settings
    what = (
        f"{argument_of(impure)} may depend on more than the text so far, such as on how often it was called, and "
        "drafts would show it other texts"
    )
    if settings.decoding == "blt-d":
        raise ValueError(
            f"{what}: choose decoding='ar', or, if it is a pure function of the text so far and its scores, set "
            "`pure_in_prefix = True` on its class."
        )
    logger.warning_once(
        f"{what}: decoding as 'ar', a byte at a time. If it is a pure function of the text so far and its scores, set "
        "`pure_in_prefix = True` on its class."
    )
    return replace(settings, decoding="ar", prompt_lookup_num_tokens=None, draft_confidence=None, paper_passes=False)


def goes_step_by_step(settings: DecodingSettings, generation_config, synced_gpus: bool) -> bool:
    """Whether transformers' own loop is to decode, a forward call per byte: without a cache, to return what each call
    saw, or where weights are sharded and all processes must call in step. Verified decodings write what plain decoding
    writes, so it can stand in for them.

    Raises:
        ValueError: asked of `blt-d`, which is not plain decoding.
    """
    asked = [n for n in STEPWISE if generation_config.return_dict_in_generate and getattr(generation_config, n, None)]
    if generation_config.use_cache is False:
        asked.append("use_cache")
    if synced_gpus:
        asked.append("synced_gpus")
    if asked and settings.decoding == "blt-d":
        raise ValueError(
            f"`{asked[0]}` does not go with `decoding='blt-d'`, which has no forward call per byte and needs its "
            "cache: choose another decoding, or leave it out."
        )
    return bool(asked)


__all__ = ["FBLTGenerateOutput", "FBLTGenerationConfig", "FBLTGenerationMixin"]
