"""Every decoding of a checkpoint on held-out prompts, greedy and sampled: calls, traffic, speed, and whether greedy
texts equal `ar`'s.

    python -m benchmarks.decoding --threads 2 --plot
    python -m benchmarks.decoding --only "blt-s 8*" --only "blt-dv head*" --prompts 8
    python -m benchmarks.decoding --profile --compile --int8

Speed is that of whole `generate` calls, one prompt at a time, the reading of the prompt included. Modes take turns on
every prompt. Sampled modes, named after their temperature, are compared with `ar` at the same one. transformers' BLT of
the same shape takes its turns too, without a cache and with fewer bytes.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fblt.training.evaluation.measures import share
from fblt.training.evaluation.next_bytes import next_byte_figures
from fblt.training.evaluation.prompts import PROMPTS
from fblt.training.evaluation.samples import EncodedDocument, Prompt, draw_prompts, encode, limit, load_split
from fblt.training.evaluation.traffic import COMPONENTS, component_parameters, traffic_gb
from fblt.training.evaluation.writing import equality, write
from rich.console import Console

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET

from .continuing import MOST_NEW, Prefix
from .decoding_modes import modes_of, plain_of, writes_as_plain
from .harness import (
    CLOCKS,
    DTYPES,
    FILE,
    POSITIVE,
    benchmark,
    build_console,
    build_table,
    interleave,
    number,
    option,
    paired_ratio,
    report,
    start,
    summary_of,
)
from .plots import bars
from .profiling import profile_generation
from .transformers_blt import transformers_twin
from .variants import VARIANTS, build_variant

# What is profiled, and what other ways to run the model are tried with.
FEW = ("ar", "blt-s 8", "blt-dv one-step")


def bundled_prompts(length: int) -> list[Prompt]:
    """The demo's prompts, as long as its shortest and at most `length` bytes: their last bytes."""
    texts = [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + BYTE_OFFSET for text in PROMPTS]
    length = min([length, *map(len, texts)])
    nothing = np.zeros(0, dtype=np.int64)
    return [Prompt("bundled", np.concatenate([[BOS_ID], text[-length:]]), nothing) for text in texts]


def held_out(options) -> tuple[list[Prompt], list[EncodedDocument]]:
    """Prompts, and documents for bits per byte; the bundled prompts alone where there is no data."""
    if not options.data.exists():
        return bundled_prompts(options.prompt_bytes), []
    dataset, _ = load_split(options.data, options.split)
    count = max(options.prompts, options.equality_prompts)
    prompts = draw_prompts(encode(dataset), count, options.prompt_bytes, options.new_bytes, options.seed)
    return prompts, encode(limit(dataset, options.text_bytes, options.seed))


def generate(model, prompt: Prompt, settings: dict, new_bytes: int):
    """Text after one prompt, with counters; greedy unless the settings say otherwise."""
    ids = torch.from_numpy(prompt.ids)[None]
    mask = torch.ones_like(ids)
    return model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=new_bytes,
        return_dict_in_generate=True,
        **{"do_sample": False, **settings},
    )


def time_mode(model, prompts: Sequence[Prompt], number: int, settings: dict, new_bytes: int, clock: Callable) -> dict:
    """One prompt: seconds, bytes, calls and rounds. Every mode is given the same random numbers to sample with."""
    torch.manual_seed(number)
    began = clock()
    output = generate(model, prompts[number], settings, new_bytes)
    seconds = clock() - began
    return {
        "seconds": seconds,
        "bytes": output.sequences.shape[1] - len(prompts[number].ids),
        "calls": {name: int(getattr(output, f"{name}_nfe").sum()) for name in COMPONENTS},
        **{name: int(getattr(output, name).sum()) for name in ("iterations", "drafted", "accepted")},
    }


def time_transformers(twin, prompt: Prompt, new_bytes: int, clock: Callable) -> dict:
    """One prompt by transformers' BLT without a cache: seconds and bytes."""
    ids = torch.from_numpy(prompt.ids)[None]
    began = clock()
    output = twin.generate(
        ids, attention_mask=torch.ones_like(ids), use_cache=False, do_sample=False, pad_token_id=0,
        eos_token_id=None, max_new_tokens=new_bytes,
    )  # fmt: skip
    return {"seconds": clock() - began, "bytes": output.shape[1] - ids.shape[1]}


def take_turns(turns: dict[str, Callable[[int], dict]], prompts: int, repetitions: int) -> dict[str, list[dict]]:
    """All modes on the first prompt, then on the next, and so on, several times over.

    Returns:
        Per mode and repetition, the sums over prompts of what `turns` measured.
    """
    single = {
        (name, number): lambda turn=turn, number=number: turn(number)
        for number in range(prompts)
        for name, turn in turns.items()
    }
    runs = interleave(single, repetitions)
    return {
        name: [_sum([runs[name, number][turn] for number in range(prompts)]) for turn in range(repetitions)]
        for name in turns
    }


def _sum(parts: list[dict]) -> dict:
    first = parts[0]
    return {
        key: _sum([part[key] for part in parts]) if isinstance(first[key], dict) else sum(part[key] for part in parts)
        for key in first
    }


def combine(runs: dict[str, list[dict]], settings: dict[str, dict], parameters: dict[str, int]) -> dict[str, dict]:
    """Per mode its costs per byte, its speed, and both against `ar` at the mode's temperature."""
    combined = {}
    for name, turns in runs.items():
        plain = [run["seconds"] / run["bytes"] for run in runs[plain_of(name)]]
        per_byte = [run["seconds"] / run["bytes"] for run in turns]
        figures = {
            "bytes_per_second": 1 / statistics.median(per_byte),
            "speed_to_ar": paired_ratio(plain, per_byte),
            "speed_to_ar_by_repetition": [a / b for a, b in zip(plain, per_byte, strict=True)],
        }
        run = turns[0]
        if "calls" in run:
            calls = {part: count / run["bytes"] for part, count in run["calls"].items()}
            figures |= {
                "settings": settings.get(name),
                "bytes": run["bytes"],
                "bytes_per_iteration": run["bytes"] / run["iterations"],
                "calls_per_byte": calls,
                "global_calls_per_iteration": run["calls"]["global"] / run["iterations"],
                "acceptance": share(run["accepted"], run["drafted"]),
                "traffic_mb_per_byte": 1e3 * traffic_gb(calls, parameters),
                "traffic_with_patcher_mb_per_byte": 1e3 * traffic_gb(calls, parameters, with_patcher=True),
            }
        combined[name] = figures
    for name, figures in combined.items():
        for key in ("traffic_mb_per_byte", "traffic_with_patcher_mb_per_byte"):
            if key in figures:
                figures[f"{key}_to_ar"] = figures[key] / combined[plain_of(name)][key]
    return combined


def compare_texts(model, prompts: Sequence[Prompt], modes: dict[str, dict], new_bytes: int, batch_size: int) -> dict:
    """Whether verified modes write `ar`'s bytes, and how close the two choices are where they do not."""
    plain, _ = write(model, prompts, modes["ar"], new_bytes, batch_size)
    found = {}
    for name, settings in modes.items():
        if not writes_as_plain(name, settings):
            continue
        texts, _ = write(model, prompts, settings, new_bytes, batch_size)
        found[name] = equality(model, prompts, plain, texts)
    return found


def try_variants(names: Sequence[str], model, prompts, documents, modes, options, clock) -> dict[str, dict]:
    """Compiled and quantised models against the model as it is, in turns; or why they do not run."""
    few = {name: modes[name] for name in FEW if name in modes}

    def first_calls(changed) -> None:
        for settings in few.values():
            generate(changed, prompts[0], settings, options.new_bytes)

    results = {}
    for name in names:
        variant = build_variant(name, model, first_calls)
        results[name] = {"error": variant.error, "seconds_to_make": variant.seconds, **variant.notes}
        if variant.error is not None:
            continue
        models = {"as it is": model, name: variant.model}
        turns = {
            (mode, way): lambda number, mode=mode, changed=changed: time_mode(
                changed, prompts, number, few[mode], options.new_bytes, clock
            )
            for mode in few
            for way, changed in models.items()
        }
        runs = take_turns(turns, min(options.prompts, len(prompts)), options.repetitions)
        seconds = {key: [run["seconds"] / run["bytes"] for run in turn] for key, turn in runs.items()}
        results[name]["speed_to_model_as_it_is"] = {
            mode: paired_ratio(seconds[mode, "as it is"], seconds[mode, name]) for mode in few
        }
        if documents:
            results[name]["bits_per_byte"] = {
                way: next_byte_figures(changed, documents, 512, 8)["all"]["bits_per_byte"]
                for way, changed in models.items()
            }
    return results


def print_results(results: dict, console: Console) -> None:
    line = summary_of(results["machine"], results["dtype"], results["clock"])
    table = build_table(
        f"{results['model']}, {results['prompts']} {results['source']} prompts, {results['new_bytes']} bytes",
        "mode", "B/iter", "kept", "dec/B", "enc/B", "glob/B", "pat/B", "glob/iter", "MB/B", "to ar", "+patcher", "B/s",
        "x ar", "equal",
        caption=f"{line}\nMB/B: weights read per byte, Eq. 8, bfloat16; +patcher: with the patcher's, of ar's; "
        f"equal: texts that are ar's; transformers: {results['transformers']}",
    )  # fmt: skip
    for name, figures in results["modes"].items():
        calls = figures.get("calls_per_byte", {})
        same = results["equality"].get(name)
        kept = None if name.startswith("blt-d ") else figures.get("acceptance")
        table.add_row(
            name,
            number(figures.get("bytes_per_iteration")),
            number(kept),
            *(number(calls.get(part)) for part in ("decoder", "encoder", "global", "patcher")),
            number(figures.get("global_calls_per_iteration")),
            number(figures.get("traffic_mb_per_byte")),
            number(figures.get("traffic_mb_per_byte_to_ar")),
            number(figures.get("traffic_with_patcher_mb_per_byte_to_ar")),
            number(figures["bytes_per_second"], 1),
            number(figures["speed_to_ar"]),
            f"{same['equal']}/{same['prompts']}" if same else "-",
        )
    console.print(table)
    for name, same in results["equality"].items():
        for difference in same["differences"]:
            kind = "a near-tie" if difference["near_tie"] else "NOT a near-tie"
            console.print(
                f"{name}, prompt {difference['prompt']}: differs from byte {difference['position']} on, top-2 gap "
                f"{difference['top_2_gap']:.1e} logits: {kind}",
                highlight=False,
            )
    for name, found in results["variants"].items():
        outcome = found["error"] or ", ".join(
            f"{mode} {ratio:.2f}x" for mode, ratio in found["speed_to_model_as_it_is"].items()
        )
        bits = ", ".join(f"{way} {value:.4f}" for way, value in found.get("bits_per_byte", {}).items())
        console.print(f"{name}: {outcome}{'; bits per byte: ' + bits if bits else ''}", markup=False, highlight=False)
    for name, found in results["profiles"].items():
        networks = ", ".join(
            f"{part} {seconds / found['seconds']:.0%}" for part, seconds in found["seconds_by_network"].items()
        )
        console.print(
            f"\n{name}: {1e3 * found['seconds'] / found['iterations']:.1f} ms per iteration: {networks}, outside the "
            f"networks {found['outside']:.0%}; {found['operator_calls_per_iteration']:.0f} operators per iteration",
            highlight=False,
        )
        console.print(found["operators"], markup=False, highlight=False, soft_wrap=True)


def draw(results: dict, path: Path) -> None:
    modes = results["modes"]
    equal, compared = (sum(same[key] for same in results["equality"].values()) for key in ("equal", "prompts"))
    labels = [f"{name}{'' if 'calls_per_byte' in figures else ' (BLT, no cache)'}" for name, figures in modes.items()]
    bars(
        path,
        f"Speed of every decoding of {Path(results['model']).name}, whole calls, {results['prompts']} "
        f"{results['source']} prompts\ngreedy, verified modes wrote ar's bytes in {equal} of {compared} texts; "
        "blt-d is not",
        labels,
        {"speed": [figures["speed_to_ar"] for figures in modes.values()]},
        "times as fast as ar, one byte at a time (longer is better)",
        note=summary_of(results["machine"], results["dtype"], results["clock"]),
        reference=(1, "ar"),
        digits=2,
    )


def variant_options(command: Callable) -> Callable:
    """A flag for every other way to run the model."""
    for name in reversed(VARIANTS):
        command = option(f"--{name}", is_flag=True, help="Also run the model so, and report.")(command)
    return command


@benchmark(__doc__, "decoding", repetitions=3, dtype="float32")
@option("--model", default="checkpoints/fblt-demo", help="Checkpoint folder.")
@option("--data", type=FILE, default=Path("data/demo"), help="Prepared data; bundled prompts without.")
@option("--split", default="test")
@option("--prompts", type=POSITIVE, default=24, help="Prompts that are timed.")
@option("--prompt-bytes", type=POSITIVE, default=160)
@option("--new-bytes", type=POSITIVE, default=192)
@option("--equality-prompts", type=POSITIVE, default=100, help="Prompts whose texts are compared.")
@option("--batch-size", type=POSITIVE, default=20, help="Of the comparison of texts.")
@option("--transformers-bytes", type=POSITIVE, default=8, help="Bytes that transformers' BLT writes.")
@option("--text-bytes", type=POSITIVE, default=100000, help="Held-out text for bits per byte.")
@option("--only", multiple=True, metavar="PATTERN", help="Modes of such names only; may be given several times.")
@option("--profile", is_flag=True, help="Where an iteration's time goes.")
@variant_options
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.prompts, options.new_bytes, options.equality_prompts, options.repetitions = 1, 12, 2, 1
        options.transformers_bytes, options.text_bytes = 2, 2000
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]
    model = FBLTForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype]).eval()
    modes = modes_of(model, options.only)
    prompts, documents = held_out(options)
    timed = prompts[: options.prompts]
    twin = transformers_twin(model)
    turns = {
        name: lambda number, settings=settings: time_mode(model, timed, number, settings, options.new_bytes, clock)
        for name, settings in modes.items()
    }
    if not options.only:
        turns["transformers"] = lambda number: time_transformers(
            twin.model, timed[number], options.transformers_bytes, clock
        )
    for turn in turns.values():  # the first calls set things up
        turn(0)
    runs = take_turns(turns, len(timed), options.repetitions)
    wanted = [name for name in VARIANTS if getattr(options, name)]
    results |= {
        "model": str(options.model),
        "prompts": len(timed),
        "source": prompts[0].source if prompts[0].source == "bundled" else "held-out",
        "new_bytes": options.new_bytes,
        "transformers": twin.note,
        "transformers_same_function": twin.same_function,
        "modes": combine(runs, modes, component_parameters(model)),
        "equality": compare_texts(
            model, prompts[: options.equality_prompts], modes, options.new_bytes, options.batch_size
        ),
        "variants": try_variants(wanted, model, timed, documents, modes, options, clock),
        "profiles": {},
    }
    if options.profile:
        prefix, new_bytes = Prefix.read(model, torch.from_numpy(timed[0].ids)[None]), min(options.new_bytes, MOST_NEW)
        for name in filter(modes.__contains__, FEW):
            results["profiles"][name] = profile_generation(
                lambda name=name: prefix.generate(model, new_bytes, **modes[name]), model, clock
            )
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
