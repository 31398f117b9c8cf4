"""Lines restored by a model: greedy decoding in batches of prompts of similar length."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fblt.batches import bytes_of, run_batches, write
from fblt.restoring import prompt_of, room_for

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


def restore(model, damaged: Sequence[str], settings: dict, batch_size: int, progress: bool = True) -> Restored:
    """The model's restorations of damaged lines, whatever they are worth.

    Args:
        settings: of `generate`, such as `{"decoding": "blt-dv"}`.
        batch_size: lines at a time; lines of similar length share a batch.
    """
    prompts = [prompt_of(line).encode() for line in damaged]
    result = Restored([], 0, 0.0, 0.0, dict.fromkeys(NETWORKS, 0))

    def compute(number: int, batch: list[int]) -> list[str]:
        given = [prompts[index] for index in batch]
        room = max(map(room_for, given))
        wall, cpu = time.perf_counter(), time.process_time()
        written, output = write(
            model, given, max_new_tokens=room, do_sample=False, return_dict_in_generate=True, **settings
        )
        result.seconds += time.perf_counter() - wall
        result.cpu_seconds += time.process_time() - cpu
        for name in result.calls:
            result.calls[name] += int(getattr(output, f"{name}_nfe").sum())
        result.written += sum(map(len, written))
        return [bytes_of(ids).decode("utf-8", "replace") for ids in written]

    label = f"restoring, {settings['decoding']}" if progress else None
    result.texts = run_batches(prompts, batch_size, compute, label=label)
    return result
