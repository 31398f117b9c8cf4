"""Batches: bytes a second for more rows, rows that end early, reading prompts, and scoring many short texts.

    python -m benchmarks.batches --threads 2 --plot

Weights are random and texts are drawn at random, so nothing is said of text, and rows are written with plain decoding
(`ar`). Rows that end early do so after an eighth of the bytes, by a bias towards `</s>` after what they then have
written; `rows stay` is the same call with a streamer, which keeps ended rows in the batch.

Scoring is what an evaluation harness asks for: the log-likelihood of a continuation after a context, requests sorted by
length, in padded batches, without the harness around it. The other model is a Llama of transformers with as many
parameters outside its embeddings and a vocabulary of 32,000, tied; a token is taken for `--bytes-per-token` bytes.
"""

import statistics
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import click
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

from fblt.batches import sorted_batches

from .harness import (
    CLOCKS,
    DTYPES,
    POSITIVE,
    Listed,
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
from .plots import lines
from .random_models import GEOMETRIES, random_model, random_prompt

PROMPT = 32  # bytes before what is written
EARLY = 8  # rows that end early do so after this share of the bytes
SEEN = 8  # bytes of a row's prompt by which it is told from the others
VOCABULARY = 32_000


class Silent(BaseStreamer):
    """Shows nothing."""

    def put(self, value: torch.Tensor) -> None:
        pass

    def end(self) -> None:
        pass


def write_seconds(model, clock: Callable[[], float], ids: torch.Tensor, new: int, **settings) -> dict[str, float]:
    """Seconds of a `generate` call, prompt included, and bytes it wrote."""
    began = clock()
    output = model.generate(ids, max_new_tokens=new, do_sample=False, decoding="ar", **settings)
    seconds = clock() - began
    pad = model.generation_config.pad_token_id
    return {"seconds": seconds, "bytes": int((output[:, ids.shape[1] :] != pad).sum())}


def ends_early(model, ids: torch.Tensor, new: int, count: int) -> list[list]:
    """A `sequence_bias` by which the first `count` rows of `ids` write `</s>` after `new // EARLY` bytes.

    The bias goes by all that a row wrote and the end of its prompt, which no other row has.
    """
    texts = model.generate(ids, max_new_tokens=new // EARLY, do_sample=False, decoding="ar").tolist()
    return [[[*text[-SEEN - new // EARLY :], model.config.eos_token_id], 1e4] for text in texts[:count]]


def read_seconds(model, clock: Callable[[], float], ids: torch.Tensor) -> float:
    """Seconds from a prompt to its first new byte."""
    began = clock()
    model.generate(ids, max_new_tokens=1, do_sample=False, decoding="ar")
    return clock() - began


def subword_twin(parameters: int, width: int) -> LlamaForCausalLM:
    """A random Llama of this width whose layers hold about so many parameters, at least one layer."""

    def build(layers: int) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=8 * width // 3,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            tie_word_embeddings=True,
        )
        return LlamaForCausalLM(config)

    one, two = (outside_embeddings(build(layers)) for layers in (1, 2))
    return build(max(1, round(parameters / (two - one)))).eval()


def outside_embeddings(model) -> int:
    """Parameters that are no embeddings, hash tables and the head among these."""
    names = ("embed", "hash", "lm_head")
    return sum(p.numel() for name, p in model.named_parameters() if not any(part in name for part in names))


@torch.inference_mode()
def score(model, requests: Sequence[tuple[list[int], int]], rows: int) -> list[float]:
    """Log-likelihoods of continuations.

    Args:
        requests: ids of a context and its continuation, and how many of them are the latter's.
        rows: of a batch.
    """
    found = [0.0] * len(requests)
    for batch in sorted_batches([bytes(len(ids)) for ids, _ in requests], rows):
        longest = max(len(requests[index][0]) for index in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            own = torch.tensor(requests[index][0])
            ids[row, : len(own)], mask[row, : len(own)] = own, 1
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, index in enumerate(batch):
            own, count = requests[index]
            judged = logits[row, len(own) - count - 1 : len(own) - 1].float().log_softmax(-1)
            found[index] = float(judged.gather(1, torch.tensor(own[-count:])[:, None]).sum())
    return found


def requests_of(count: int, vocabulary: range, bytes_per_id: float, seed: int) -> list[tuple[list[int], int]]:
    """Random requests of 40 to 120 bytes, the last quarter the continuation; the same lengths for each seed."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (torch.randint(40, 121, (count,), generator=generator) / bytes_per_id).round().long().tolist()
    drawn = [torch.randint(vocabulary.start, vocabulary.stop, (n,), generator=generator).tolist() for n in lengths]
    return [([1, *ids], max(1, len(ids) // 4)) for ids in drawn]


def combine(runs: dict) -> dict:
    """Medians over turns, ratios within them."""
    rows = runs["rows"]
    speed = {name: [turn["bytes"] / turn["seconds"] for turn in turns] for name, turns in rows.items()}
    seconds = {name: [turn["seconds"] for turn in turns] for name, turns in runs["early"].items()}
    return {
        "rows": {
            name: {
                "bytes_per_second": statistics.median(speed[name]),
                "to_one": paired_ratio(speed[name], speed[min(rows)]),
            }
            for name in rows
        },
        "early": {
            name: {
                "seconds": statistics.median(seconds[name]),
                "bytes": runs["early"][name][0]["bytes"],
                "to_none": paired_ratio(seconds[name], seconds["none"]),
            }
            for name in seconds
        },
        "prefill": {
            name: {"bytes_per_second": name / statistics.median(turns)} for name, turns in runs["prefill"].items()
        },
        "scoring": {
            name: {
                "seconds": statistics.median(turns),
                "speed_to_subword": paired_ratio(runs["scoring"]["subword Llama"], turns),
            }
            for name, turns in runs["scoring"].items()
        },
    }


def print_results(results: dict, console: Console) -> None:
    figures, line = results["figures"], summary_of(results["machine"], results["dtype"], results["clock"])
    shape = f"{results['geometry']} geometry, random weights, `ar`"
    table = build_table(f"Rows of a batch, {shape}", "rows", "bytes/s", "x the fewest", caption=line)
    for name, found in figures["rows"].items():
        table.add_row(str(name), number(found["bytes_per_second"], 0), number(found["to_one"]))
    console.print(table)
    title = f"A batch of {results['early_rows']} rows, {results['new_bytes']} bytes each unless they end early"
    table = build_table(title, "rows that end early", "bytes written", "seconds", "x of none")
    for name, found in figures["early"].items():
        table.add_row(name, str(found["bytes"]), number(found["seconds"]), number(found["to_none"]))
    console.print(table)
    table = build_table("Reading a prompt", "bytes", "bytes/s")
    for name, found in figures["prefill"].items():
        table.add_row(str(name), number(found["bytes_per_second"], 0))
    console.print(table)
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in results["parameters"].items())
    table = build_table(
        f"Log-likelihood of {results['requests']} short texts",
        "model",
        "seconds",
        "requests/s",
        "x the Llama",
        caption=f"outside embeddings: {sizes}; {results['bytes_per_token']} bytes a token assumed",
    )
    for name, found in figures["scoring"].items():
        speed = results["requests"] / found["seconds"]
        table.add_row(name, number(found["seconds"]), number(speed, 0), number(found["speed_to_subword"]))
    console.print(table)


def draw(results: dict, path) -> None:
    rows, prefill = results["figures"]["rows"], results["figures"]["prefill"]

    def speeds(found: dict) -> tuple[list, list]:
        return list(found), [entry["bytes_per_second"] for entry in found.values()]

    lines(
        path,
        f"Batches ({results['geometry']} geometry, random weights)",
        [
            ("Writing, by rows of a batch", "bytes/s (higher is better)", False, {"ar": speeds(rows)}),
            ("Reading, by bytes of a prompt", "bytes/s (higher is better)", False, {"one row": speeds(prefill)}),
        ],
        "rows, or bytes (log scale)",
        note=summary_of(results["machine"], results["dtype"], results["clock"]),
    )


@benchmark(__doc__, "batches", repetitions=3, dtype="float32")
@option("--geometry", type=click.Choice(list(GEOMETRIES)), default="small")
@option("--rows", type=Listed(POSITIVE), default=[1, 4, 16, 64])
@option("--new-bytes", type=POSITIVE, default=128, help="Bytes per row.")
@option("--early-rows", type=click.IntRange(min=2), default=16, help="Rows of which half end early.")
@option("--prompts", type=Listed(POSITIVE), default=[512, 4096, 16384, 65536], help="Bytes of prompts to read.")
@option("--requests", type=POSITIVE, default=10_000, help="Texts to score.")
@option("--score-rows", type=POSITIVE, default=64, help="Texts scored at a time.")
@option("--bytes-per-token", type=click.FloatRange(min=0, min_open=True), default=4.0, help="Of the Llama's tokens.")
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.geometry, options.rows, options.prompts = "tiny", [1, 4], [64, 256]
        options.repetitions, options.new_bytes, options.early_rows, options.requests = 2, 96, 4, 20
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]
    model = random_model(GEOMETRIES[options.geometry](), DTYPES[options.dtype])
    model.generation_config.eos_token_id = model.config.eos_token_id
    parameters = outside_embeddings(model)
    subword = subword_twin(parameters, model.config.global_config.hidden_size).to(DTYPES[options.dtype])
    ids = random_prompt(max([*options.rows, options.early_rows]), PROMPT, options.seed)
    early = ids[: options.early_rows]
    half = ends_early(model, early, options.new_bytes, options.early_rows // 2)
    never = [[[*sequence[:-2], model.config.pad_token_id, sequence[-1]], bias] for sequence, bias in half]
    long = random_prompt(1, max(options.prompts), options.seed)
    ranges = {"FBLT": (model, range(36, 131), 1.0), "subword Llama": (subword, range(3, VOCABULARY), None)}
    requests = {
        name: requests_of(options.requests, ids_of, size or options.bytes_per_token, options.seed)
        for name, (_, ids_of, size) in ranges.items()
    }

    def scored(name: str) -> float:
        began = clock()
        score(ranges[name][0], requests[name], options.score_rows)
        return clock() - began

    turns = {
        "rows": {
            rows: lambda rows=rows: write_seconds(model, clock, ids[:rows], options.new_bytes)
            for rows in sorted(options.rows)
        },
        "early": {
            "none": lambda: write_seconds(model, clock, early, options.new_bytes, sequence_bias=never),
            "half": lambda: write_seconds(model, clock, early, options.new_bytes, sequence_bias=half),
            "half, rows stay": lambda: write_seconds(
                model, clock, early, options.new_bytes, sequence_bias=half, streamer=Silent()
            ),
        },
        "prefill": {size: lambda size=size: read_seconds(model, clock, long[:, :size]) for size in options.prompts},
        "scoring": {name: lambda name=name: scored(name) for name in ranges},
    }
    write_seconds(model, clock, ids[:1], 8)  # the first calls set things up
    score(subword, requests["subword Llama"][:2], 2)
    runs = {part: interleave(candidates, options.repetitions) for part, candidates in turns.items()}
    results |= {
        "geometry": options.geometry,
        "new_bytes": options.new_bytes,
        "early_rows": options.early_rows,
        "requests": options.requests,
        "bytes_per_token": options.bytes_per_token,
        "parameters": {"FBLT": parameters, "subword Llama": outside_embeddings(subword)},
        "figures": combine(runs),
        "runs": runs,
    }
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
