"""Lines restored by a model: greedy decoding in batches of prompts of similar length."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from modeling_fblt.configuration_fblt import BYTE_OFFSET, PAD_ID

from ...packing.damaged_lines import prompt_of
from ...packing.sequences import encode_document

# Restoring lengthens a line by its accents' second and third bytes and by punctuation.
ROOM_FACTOR, ROOM_BYTES = 2, 24
NETWORKS = ("decoder", "encoder", "global", "draft_head")


@dataclass
class Restored:
    """Texts in the order of the prompts, new bytes, seconds, and calls of each network summed over lines.

    Calls of a draft head are its steps, a position each.
    """

    texts: list[str]
    written: int
    seconds: float
    cpu_seconds: float
    calls: dict[str, int]

    def costs(self) -> dict[str, float]:
        """Calls, and milliseconds of processor and wall time, per new byte, `</s>` included."""
        per_byte = {f"{name}_calls_per_byte": count / self.written for name, count in self.calls.items()}
        return {
            "bytes": self.written,
            **per_byte,
            "cpu_ms_per_byte": 1e3 * self.cpu_seconds / self.written,
            "ms_per_byte": 1e3 * self.seconds / self.written,
        }


@torch.inference_mode()
def restore(model, damaged: Sequence[str], settings: dict, batch_size: int, progress: bool = True) -> Restored:
    """The model's restorations of damaged lines.

    Args:
        settings: of `generate`, such as `{"decoding": "blt-dv"}`.
        batch_size: lines at a time; lines of similar length share a batch.
    """
    prompts = [torch.from_numpy(encode_document(prompt_of(line))[:-1].astype("int64")) for line in damaged]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    result = Restored([""] * len(prompts), 0, 0.0, 0.0, dict.fromkeys(NETWORKS, 0))
    eos = model.config.eos_token_id
    groups = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    for group in tqdm(groups, desc=f"restoring, {settings['decoding']}", unit="batch", disable=not progress):
        longest = max(len(prompts[index]) for index in group)
        ids = torch.full((len(group), longest), PAD_ID)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(group):
            ids[row, longest - len(prompts[index]) :] = prompts[index]
            mask[row, longest - len(prompts[index]) :] = 1
        wall, cpu = time.perf_counter(), time.process_time()
        output = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=ROOM_FACTOR * longest + ROOM_BYTES,
            do_sample=False,
            return_dict_in_generate=True,
            **settings,
        )
        result.seconds += time.perf_counter() - wall
        result.cpu_seconds += time.process_time() - cpu
        for name in result.calls:
            result.calls[name] += int(getattr(output, f"{name}_nfe").sum())
        for index, row in zip(group, output.sequences[:, longest:].tolist(), strict=True):
            end = row.index(eos) if eos in row else len(row)
            result.written += min(end + 1, len(row))
            result.texts[index] = text_of(row[:end])
    return result


def text_of(ids: Sequence[int]) -> str:
    """The text of ids, special ones left out; bytes that are no UTF-8 as U+FFFD."""
    return bytes(i - BYTE_OFFSET for i in ids if BYTE_OFFSET <= i < BYTE_OFFSET + 256).decode("utf-8", "replace")
