# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Conversations with random models: whatever the configuration, the rows and the settings, each step writes what plain
decoding from scratch writes, for rows together and alone, with and without a cache, with padding on any side.
"""

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from modeling_fblt.configuration_fblt import BYTE_OFFSET, MASK_ID
from tests.fuzz.strategies import configs, ids, make_model, rows, shaping, verified
from tests.fuzz.tally import case
from tests.thorough import THOROUGH, cases


def packed(texts: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """Rows with padding on a side, or in the middle."""
    width = max(map(len, texts)) + (side == "middle")
    columns, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    for i, text in enumerate(texts):
        place = torch.arange(len(text))
        if side == "left":
            place = place + width - len(text)
        if side == "middle":
            place = torch.where(place < len(text) // 2, place, place + width - len(text))
        columns[i, place], mask[i, place] = torch.tensor(text), 1
    return {"input_ids": columns, "attention_mask": mask}


class Conversation(RuleBasedStateMachine):
    """A model, rows of text, and a cache of them from the last answer, if it was kept."""

    @initialize(
        config=configs(), seed=st.integers(0, 1000), texts=rows, side=st.sampled_from(["left", "right", "middle"])
    )
    def begin(self, config, seed, texts, side):
        self.model, self.texts, self.side, self.cache = make_model(config, seed), texts, side, None

    def write(self, inputs: dict, new: int, **given) -> tuple[list[list[int]], object]:
        """New bytes of each row up to and with a stop, and the cache."""
        output = self.model.generate(
            **inputs, max_new_tokens=new, return_dict_in_generate=True, pad_token_id=0, **given
        )
        stops = given["eos_token_id"]
        stops = set(stops) if isinstance(stops, list) else {stops}
        written = []
        for row in output.sequences[:, inputs["input_ids"].shape[1] :].tolist():
            end = next((i + 1 for i, one in enumerate(row) if one in stops), len(row))
            written.append(row[:end])
        return written, output.past_key_values

    @rule(data=st.data(), shape=shaping(), new=st.integers(1, 14), keeps=st.booleans())
    def answer(self, data, shape, new, keeps):
        """A verified decoding, from the cache where there is one, writes what `ar` writes from scratch."""
        inputs, chosen = packed(self.texts, self.side), data.draw(verified(self.model.config))
        with case("verified equals ar" if self.cache is None else "going on equals from scratch"):
            expected, _ = self.write(inputs, new, decoding="ar", **shape)
            given = {} if self.cache is None else {"past_key_values": self.cache}
            written, cache = self.write(inputs, new, **chosen, **shape, **given)
            assert written == expected and all(MASK_ID not in row for row in written)
        self.cache = None
        # A cache holds rows of columns: rows that stopped early have padding, which is not part of the text.
        if keeps and self.side == "left" and all(len(row) == new for row in written):
            self.cache = cache
            self.texts = [text + row for text, row in zip(self.texts, written, strict=True)]

    @rule(said=st.lists(ids, min_size=1, max_size=5))
    def say(self, said):
        """The other side adds bytes; the cache stays behind."""
        self.texts = [text + said for text in self.texts]

    @precondition(lambda self: self.cache is not None)
    @rule(place=st.integers(0, 10**6))
    def edit(self, place):
        """An edited byte that the cache holds is refused, and nothing else changes."""
        row = place % len(self.texts)
        held = int(self.cache.lengths[row])
        if held == 0:
            return
        edited = [list(text) for text in self.texts]
        edited[row][place % held] = (edited[row][place % held] + 7) % 256
        inputs = packed(edited, "left")
        with case("edited caches are refused"), pytest.raises(ValueError, match="`past_key_values`"):
            self.model.generate(**inputs, past_key_values=self.cache, max_new_tokens=2)

    @rule(data=st.data(), shape=shaping(), new=st.integers(1, 8))
    def alone(self, data, shape, new):
        """Each row writes what it writes alone."""
        chosen = data.draw(verified(self.model.config))
        with case("rows together equal rows alone"):
            together, _ = self.write(packed(self.texts, self.side), new, **chosen, **shape)
            for text, row in zip(self.texts, together, strict=True):
                # With its mask: without one, transformers takes every `<pad>` of a text for padding.
                (found,), _ = self.write(packed([text], "left"), new, **chosen, **shape)
                # A row whose open character was taken back has padding after it, for other rows go on.
                assert found + [0] * (len(row) - len(found)) == row

    @rule(shape=shaping(), new=st.integers(1, 7), how=st.sampled_from(["use_cache", "states"]))
    def step_by_step(self, shape, new, how):
        """transformers' own loop writes the same."""
        with case("step by step equals ar"):
            expected, _ = self.write(packed(self.texts, self.side), new, decoding="ar", **shape)
            slow = {"use_cache": False} if how == "use_cache" else {"output_hidden_states": True}
            found, _ = self.write(packed(self.texts, self.side), new, decoding="ar", **slow, **shape)
            assert [row[: len(e)] for row, e in zip(found, expected, strict=True)] == expected

    @rule(data=st.data(), new=st.integers(1, 12), seed=st.integers(0, 1000), drafted=st.booleans())
    def draw(self, data, new, seed, drafted):
        """Sampled text that is to be valid UTF-8 is, in every decoding."""
        chosen = data.draw(verified(self.model.config))
        if drafted and self.model.config.block_size is not None:
            chosen = {"decoding": "blt-d", "unmasking": data.draw(st.sampled_from(["one_step", "confidence"]))}
        # Whole characters before, so that all that is open is the model's own doing.
        inputs = packed([[1, *(i for i in text if i < 0x80)] for text in self.texts], self.side)
        with case("valid UTF-8 decodes"):
            torch.manual_seed(seed)
            shared = {"valid_utf8": True, "do_sample": True, "top_k": 0, "eos_token_id": MASK_ID}
            written, _ = self.write(inputs, new, **shared, **chosen)
            for row in written:
                assert len(row) == new
                bytes(i - BYTE_OFFSET for i in row if i >= BYTE_OFFSET).decode("utf-8")

    @rule(cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5))
    def feed_in_parts(self, cuts):
        """Logits and boundaries of a row do not hang on how it is cut."""
        text = torch.tensor([max(self.texts, key=len)])
        with case("incremental equals full"):
            whole, cache, start, parts = self.model(text, use_cache=False).logits, None, 0, []
            for cut in [*cuts, text.shape[1]]:
                part = text[:, start : start + cut]
                if part.shape[1]:
                    output = self.model(part, past_key_values=cache, use_cache=True)
                    cache, start = output.past_key_values, start + cut
                    parts.append(output.logits)
            torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-9, rtol=0)

    @precondition(lambda self: self.model.config.block_size is not None)
    @rule(seed=st.integers(0, 1000))
    def train(self, seed):
        """A training step has a finite loss, whatever the rows."""
        with case("losses are finite"):
            torch.manual_seed(seed)
            inputs = packed(self.texts, self.side)
            labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == MASK_ID, -100)
            loss = self.model.train()(**inputs, labels=labels).loss
            self.model.eval()
            assert bool(loss.isfinite())


def test_conversations_with_random_models():
    run_state_machine_as_test(
        Conversation,
        settings=settings(
            max_examples=cases(4, 100000),
            stateful_step_count=cases(4, 8),
            deadline=None,
            derandomize=not THOROUGH,
            suppress_health_check=list(HealthCheck),
            # A failure of a long run is kept, so that the next run begins with it.
            database=DirectoryBasedExampleDatabase(".hypothesis/examples") if THOROUGH else None,
        ),
    )
