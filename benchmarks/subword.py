"""Bytes a second of every decoding against a subword Llama with as many parameters outside its embeddings.

    python -m benchmarks.subword --threads 1 --plot
    python -m benchmarks.subword --geometry 1b --dtype bfloat16 --threads 2 --repetitions 2
    python -m benchmarks.subword --restore --model checkpoints/fblt-restore --data data/restore --threads 1

The Llama is transformers' own, of random weights, with a vocabulary of 32,000 and tied embeddings; of its dynamic and
its static cache the one counts that is faster in the run. One of its tokens is taken for as many bytes as a byte-level
BPE of 32,000 entries, trained on the data's training split, needs per token of the held-out split; without data, for 4.

Texts follow held-out prompts and are short, so that a small model's loops do not flatter acceptance: `distinct`, the
share of 8-grams that are no repetition, has to be near 1. The three bundled prompts are for trying the script. Seconds
are those from the second delivery of bytes to the last but one: the prompt's reading and the round that the length cuts
are left out, for both models.

With `--restore`, prompts are held-out lines, damaged in turn in the four ways, of which the model writes as many bytes.
With `--geometry`, a model of that shape with random weights takes the checkpoint's place. What its drafts are worth is
then scripted, as in `benchmarks.replay`: accepted as often as the checkpoint's are after the same prompts, with patches
as long as the checkpoint's. Only greedy modes of one fixed draft can be scripted.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import torch
from fblt.training.data.restore.damage import KINDS, damage
from fblt.training.evaluation.measures import distinct_ngrams, mean
from fblt.training.evaluation.samples import Prompt, load_split
from fblt.training.evaluation.writing import sampling_at
from fblt.training.packing.damaged_lines import load_lines
from fblt.training.packing.instructions import encode_instruction
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM

from fblt.restoring import prompt_of
from modeling_fblt import FBLTForCausalLM

from . import replay
from .batches import VOCABULARY, outside_embeddings, subword_twin
from .continuing import Prefix
from .decoding import held_out
from .decoding_modes import modes_of
from .harness import (
    CLOCKS,
    DTYPES,
    FILE,
    POSITIVE,
    Stopwatch,
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
from .random_models import GEOMETRIES, fill_randomly, random_model, random_prompt, without_initialization

ASSUMED = 4.0  # bytes per token where there is no text to measure them on
TEMPERATURE = 0.7
CACHES = ("dynamic", "static")
SCRIPTED = ("ar", "blt-s 8", "blt-dv one-step")
MOST_TRAINING_BYTES = 30_000_000  # for the tokenizer


def measured_bytes_per_token(training: Iterable[str], held_out: Sequence[str]) -> float:
    """Bytes of held-out texts per token of a byte-level BPE that is trained on others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(training, trainer)
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(list(held_out)))
    return sum(len(text.encode()) for text in held_out) / tokens


def first_bytes(texts: Iterable[str], most: int) -> Iterable[str]:
    """The first texts, of `most` bytes in all or a little more."""
    for text in texts:
        if most <= 0:
            return
        most -= len(text.encode())
        yield text


def lines_to_restore(options: SimpleNamespace) -> list[Prompt]:
    """Held-out lines drawn at random, damaged in turn in each way, long enough that no text comes to its end.

    Raises:
        ValueError: no line is as long as what is to be written.
    """
    lines = [text for text in load_lines(options.data, options.split)["text"] if len(text.encode()) > options.new_bytes]
    if not lines:
        raise ValueError(f"`--new-bytes` is {options.new_bytes}: no line of {str(options.data)!r} is longer.")
    order = np.random.default_rng(options.seed).permutation(len(lines))[: options.prompts]
    prompts = []
    for index, place in enumerate(order):
        generator = np.random.default_rng((options.seed, index))
        damaged = damage(lines[place], KINDS[index % len(KINDS)], generator)
        ids, labels = encode_instruction(prompt_of(damaged), lines[place])
        prompts.append(Prompt("restored", ids[labels < 0], ids[labels >= 0]))
    return prompts


def bytes_per_token(options: SimpleNamespace) -> tuple[float, str]:
    """Bytes per token of the Llama, and where the figure is from."""
    if options.bytes_per_token is not None:
        return options.bytes_per_token, "as given"
    if not options.data.exists() or options.split == "train":
        return ASSUMED, "assumed, there is no held-out data"
    training, _ = load_split(options.data, "train")
    texts, split = load_split(options.data, options.split)
    shuffled = training.shuffle(seed=options.seed)["text"]
    found = measured_bytes_per_token(first_bytes(shuffled, MOST_TRAINING_BYTES), texts["text"][:])
    return found, f"measured on the split {split!r}, with a BPE trained on 'train'"


def write_all(
    model, prompts: Sequence[torch.Tensor], settings: dict, new: int, clock: Callable, unit: float = 1.0
) -> dict:
    """One turn: texts of `new` ids after each prompt `[1, n]`, one at a time, none ended early.

    Args:
        unit: bytes of an id.
    """
    seconds, written, rounds, accepted, drafted, distinct = 0.0, 0, 0, 0, 0, []
    for i, ids in enumerate(prompts):
        torch.manual_seed(i)
        watch = Stopwatch(clock)
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            eos_token_id=None,
            streamer=watch,
            return_dict_in_generate=True,
            **{"do_sample": False, **settings},
        )
        if len(watch.arrivals) < 3:
            raise ValueError(f"`--new-bytes`: {new} ids were written in {len(watch.arrivals)} rounds; give more.")
        seconds += watch.seconds(drop=1)
        written += watch.bytes(drop=1)
        rounds += len(watch.arrivals) - 2
        accepted += int(getattr(output, "accepted", torch.zeros(1)).sum())
        drafted += int(getattr(output, "drafted", torch.zeros(1)).sum())
        distinct.append(distinct_ngrams(output.sequences[0, ids.shape[1] :].tolist()))
    return {
        "bytes_per_second": unit * written / seconds,
        "bytes_per_iteration": unit * written / rounds,
        "acceptance": accepted / drafted if drafted else None,
        "distinct": mean(distinct),
    }


def build_twin(model, dtype: torch.dtype) -> LlamaForCausalLM:
    """The Llama, with random weights."""
    with without_initialization(dtype):
        twin = subword_twin(outside_embeddings(model), model.config.global_config.hidden_size)
    twin.generation_config.eos_token_id = twin.generation_config.pad_token_id = None
    return fill_randomly(twin, dtype)


def mean_patch_length(model, prompts: Sequence[Prompt]) -> float:
    """Bytes per patch of the prompts and what really follows them."""
    rows = [torch.cat([torch.from_numpy(prompt.ids), torch.from_numpy(prompt.reference)])[None] for prompt in prompts]
    starts = sum(int(model.patch(row).patch_starts[:, :-1].sum()) for row in rows)
    return sum(row.shape[1] for row in rows) / starts


def scripted_turns(model, checkpoint, prompts: Sequence[Prompt], modes: dict, options, clock) -> dict[str, Callable]:
    """Turns of a model with random weights, whose drafts are accepted as the checkpoint's are."""
    patch_length = mean_patch_length(checkpoint, prompts)
    prefix = Prefix.read(model, random_prompt(1, options.prompt_bytes, options.seed))
    ids = [torch.from_numpy(prompt.ids)[None] for prompt in prompts]

    def turn(script: replay.Script) -> dict:
        found = replay.run(model, prefix, script, patch_length, options.new_bytes, clock)
        return {
            "bytes_per_second": 1 / found["seconds_per_byte"],
            "bytes_per_iteration": found["bytes_per_iteration"],
            "acceptance": found["acceptance"] if script.acceptance is not None else None,
            "distinct": None,
        }

    turns = {}
    for name in filter(modes.__contains__, SCRIPTED):
        settings = modes[name]
        kept = write_all(checkpoint, ids, settings, options.new_bytes, clock)["acceptance"]
        drafted = settings.get("draft_length", model.config.block_size - 1) if kept is not None else 0
        script = replay.Script(name, settings, drafted, kept)
        turns[name] = lambda script=script: turn(script)
    return turns


def combine(runs: dict[str, list[dict]]) -> dict[str, dict]:
    """Medians over turns, and ratios within them to the Llama's faster cache at the same temperature."""
    speed = {name: [turn["bytes_per_second"] for turn in turns] for name, turns in runs.items()}
    figures = {}
    for name, turns in runs.items():
        at = f" at {TEMPERATURE}"
        caches = [f"Llama, {cache} cache{at if name.endswith(at) else ''}" for cache in CACHES]
        fastest = max(caches, key=lambda cache: statistics.median(speed[cache]))
        figures[name] = {
            **turns[0],
            "bytes_per_second": statistics.median(speed[name]),
            "to_subword": paired_ratio(speed[name], speed[fastest]),
        }
    return figures


def print_results(results: dict, console: Console) -> None:
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in results["parameters"].items())
    table = build_table(
        f"{results['model']} against a subword Llama, {results['prompts']} {results['source']} prompts, "
        f"{results['new_bytes']} bytes",
        "decoding", "bytes/s", "x Llama", "B/iter", "kept", "distinct",
        caption=f"{summary_of(results['machine'], results['dtype'], results['clock'])}; outside embeddings: {sizes}; "
        f"{results['bytes_per_token']:.2f} bytes a token, {results['bytes_per_token_source']}",
    )  # fmt: skip
    for name, found in results["figures"].items():
        table.add_row(
            name,
            number(found["bytes_per_second"], 0),
            number(found["to_subword"]),
            *(number(found[key]) for key in ("bytes_per_iteration", "acceptance", "distinct")),
        )
    console.print(table)


def draw(results: dict, path: Path) -> None:
    figures = results["figures"]
    bars(
        path,
        f"Bytes a second against a subword Llama of equal parameters ({results['model']})",
        list(figures),
        {"bytes/s": [found["bytes_per_second"] for found in figures.values()]},
        "bytes/s (longer is better)",
        note=summary_of(results["machine"], results["dtype"], results["clock"]),
        digits=0,
    )


def chosen_modes(model, only: Sequence[str]) -> dict[str, dict]:
    """Every decoding, greedy and at 0.7, without those that stand for the paper's two calls; or those asked for."""
    modes = modes_of(model, only)
    if only:
        return {name: settings for name, settings in modes.items() if not name.endswith("at 1.0")}
    ways = ("two calls", "close patch", "at 1.0")
    return {name: settings for name, settings in modes.items() if not any(way in name for way in ways)}


@benchmark(__doc__, "subword", repetitions=3, dtype="float32")
@option("--model", default="checkpoints/fblt-demo", help="Checkpoint folder.")
@option("--geometry", type=click.Choice(list(GEOMETRIES)), help="Random weights of this shape, scripted drafts.")
@option("--data", type=FILE, default=Path("data/demo"), help="Prepared data; bundled prompts without.")
@option("--split", default="test")
@option("--restore", is_flag=True, help="Prompts are damaged lines of the data, by a model that restores them.")
@option("--prompts", type=POSITIVE, default=32)
@option("--prompt-bytes", type=POSITIVE, default=160)
@option("--new-bytes", type=POSITIVE, default=40)
@option("--bytes-per-token", type=click.FloatRange(min=0, min_open=True), help="Of the Llama; measured if not given.")
@option("--only", multiple=True, metavar="PATTERN", help="Modes of such names only; may be given several times.")
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.prompts, options.new_bytes, options.repetitions = 1, 48, 1
    options.equality_prompts, options.text_bytes = 1, 1  # of `held_out`, which gives more than prompts
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]
    dtype = DTYPES[options.dtype]
    checkpoint = model = FBLTForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    prompts = lines_to_restore(options) if options.restore else held_out(options)[0][: options.prompts]
    modes = chosen_modes(model, options.only)
    if options.geometry is None:
        rows = [torch.from_numpy(prompt.ids)[None] for prompt in prompts]
        turns = {
            name: lambda settings=settings: write_all(model, rows, settings, options.new_bytes, clock)
            for name, settings in modes.items()
        }
    else:
        model = random_model(GEOMETRIES[options.geometry](block_size=checkpoint.config.block_size), dtype)
        turns = scripted_turns(model, checkpoint, prompts, modes, options, clock)
    unit, source = bytes_per_token(options)
    twin = build_twin(model, dtype)
    tokens, known = max(4, round(options.new_bytes / unit)), max(1, round(options.prompt_bytes / unit))
    generator = torch.Generator().manual_seed(options.seed)
    texts = [torch.randint(3, VOCABULARY, (1, known), generator=generator) for _ in prompts]
    sampled = any(name.endswith(f" at {TEMPERATURE}") for name in turns)
    for end, settings in {"": {}, f" at {TEMPERATURE}": sampling_at(TEMPERATURE)}.items():
        for cache in CACHES if sampled or not end else ():
            way = {**settings, "cache_implementation": cache, "disable_compile": True}
            turns[f"Llama, {cache} cache{end}"] = lambda way=way: write_all(twin, texts, way, tokens, clock, unit)
    for turn in turns.values():  # the first calls set things up
        turn()
    runs = interleave(turns, options.repetitions)
    results |= {
        "model": options.geometry or str(options.model),
        "prompts": len(prompts),
        "source": prompts[0].source if prompts[0].source in ("bundled", "restored") else "held-out",
        "new_bytes": options.new_bytes,
        "bytes_per_token": unit,
        "bytes_per_token_source": source,
        "parameters": {"FBLT": outside_embeddings(model), "Llama": outside_embeddings(twin)},
        "figures": combine(runs),
        "runs": runs,
    }
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
