"""Which verified setting is fastest for a checkpoint here, and writing it into its `generation_config.json`.

All settings write one prompt, then the next, so that they see the same machine. A setting's score is the geometric mean
over temperatures of the median, over prompts, of plain decoding's time per byte divided by its own. With one thread,
time is the process's own processor time, which other work on the machine changes little; with more it is wall-clock.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fblt.files import write_text_atomically

from .quality import TEMPERATURES, known_to, verified_settings
from .samples import Prompt
from .writing import write

PLAIN = "ar"
MEASURED = ("greedy", "0.7")
# What a default leaves as it is where a setting does not name it.
RESET = {
    "decoding": PLAIN,
    "draft_length": 8,
    "refine_steps": 0,
    "prompt_lookup_num_tokens": None,
    "unmasking": None,
    "draft_head": None,
}


def clock() -> Callable[[], float]:
    """The clock described at the head of this file."""
    return time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter


def speeds(model, prompts: Sequence[Prompt], new_bytes: int, seed: int) -> dict[str, dict[str, float]]:
    """Times as fast as plain decoding, by name of a setting: for each temperature of `MEASURED`, and the `score`."""
    now, settings = clock(), known_to(model, verified_settings(model))
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(-1, len(prompts)):  # the first calls set things up
        for temperature in MEASURED:
            for name, given in settings.items():
                torch.manual_seed(seed)
                began = now()
                prompt = prompts[max(number, 0)]
                texts, _ = write(model, [prompt], given, new_bytes, 1, TEMPERATURES[temperature])
                per_byte = (now() - began) / len(texts[0])
                if number >= 0:
                    seconds.setdefault((name, temperature), []).append(per_byte)
    found = {}
    for name in settings:
        ratios = {
            temperature: statistics.median(
                plain / own for plain, own in zip(seconds[PLAIN, temperature], seconds[name, temperature], strict=True)
            )
            for temperature in MEASURED
        }
        found[name] = {**ratios, "score": math.prod(ratios.values()) ** (1 / len(ratios))}
    return found


def choose(found: dict[str, dict[str, float]]) -> str:
    """The setting of the highest score; of equals the first."""
    return max(found, key=lambda name: found[name]["score"])


def write_defaults(folder: Path, settings: dict, block_size: int | None) -> dict:
    """Makes settings a checkpoint's defaults; everything else in its `generation_config.json` stays.

    Returns:
        The entries that were written.

    Raises:
        ValueError: the folder has no readable `generation_config.json`.
    """
    file = folder / "generation_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); save the model with save_pretrained first") from error
    chosen = {**RESET, "block_size": block_size, **settings}
    write_text_atomically(file, json.dumps(config | chosen, indent=2, sort_keys=True) + "\n")
    return chosen
