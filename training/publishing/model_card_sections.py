"""The model card's sections, as Markdown. Every number comes from the evaluation, the manifest or the recipe."""

import textwrap

from modeling_fblt import FBLTConfig

from ..evaluation.drafts import REFINED, kinds_of
from ..evaluation.tables import QUALITY_HEADINGS, equality_lines, interval, number, quality_rows

SPLITS = ("train", "validation", "test")
PROSE_WIDTH = 120  # columns


def markdown_table(headings: list[str], rows: list[list[str]], text_columns: int = 1) -> str:
    """A Markdown table; all columns but the first `text_columns` are right-aligned."""
    lines = [headings, ["---"] * text_columns + ["---:"] * (len(headings) - text_columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def overview(name: str, evaluation: dict) -> str:
    checkpoint = evaluation["checkpoint"]
    parameters = checkpoint["parameters"]
    sizes = ", ".join(f"{network} {count / 1e6:.2f} M" for network, count in parameters.items())
    block = checkpoint["block_size"]
    patch = number(evaluation["next_byte"]["all"]["mean_patch_length"], 1)
    return f"""# {name}

A small [Fast Byte Latent Transformer](https://arxiv.org/abs/2605.08044), trained to show how FBLT works. It reads
and writes bytes: a patcher groups them into patches of {patch} bytes on average, a global transformer works on patches,
and a light decoder writes bytes, one at a time or in blocks of {block} that a block-diffusion head fills in.

- {sum(parameters.values()) / 1e6:.2f} M parameters ({sizes}), {checkpoint["weights_mb"]:.2f} MB of weights
- decodings: `ar` (a byte at a time), `blt-s` (the decoder drafts, the model verifies), `blt-d` (blocks), `blt-dv`
  (blocks, verified; the default). The verified ones return the bytes of `ar`."""


def usage(folder: str) -> str:
    return f"""## Use

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
inputs = tokenizer("It was the first time that", return_tensors="pt")
settings = {{"max_new_tokens": 128, "do_sample": True, "temperature": 0.7, "valid_utf8": True}}
output = model.generate(**inputs, **settings, return_dict_in_generate=True)
print(tokenizer.decode(output.sequences[0], skip_special_tokens=True))
print(output.decoder_nfe, output.global_nfe)  # calls of the decoder and of the global transformer
```

Give `decoding` to choose one: `ar`, `blt-s`, `blt-d` or `blt-dv`."""


def folded(title: str, section: str) -> str:
    """A section that a reader opens: its heading stays to be linked to, what stands below it is folded."""
    heading, _, body = section.partition("\n")
    return f"{heading}\n\n<details>\n<summary>{title}: show</summary>\n\n{body.strip(chr(10))}\n\n</details>"


def in_short(evaluation: dict) -> str:
    """The few figures that tell what the weights are worth."""
    drafts, writing = evaluation["drafts"], evaluation["writing"]["decodings"]
    rows = [["bits per byte of held-out text", number(evaluation["next_byte"]["all"]["bits_per_byte"], 2)]]
    for words, kind in (
        ("a block in one step", "one_step"),
        ("a block and the draft head", "head"),
        ("`blt-s`", "blt-s"),
    ):
        if kind in drafts:
            mean = number(drafts[kind]["leading_correct"]["mean"], 2)
            rows.append([f"leading right bytes of a draft of real text, {words}", mean])
    for name in ("blt-s", "blt-dv"):
        row = writing[name]
        told = f"{number(row['decoder_calls_per_byte'], 2)} and {number(row['global_calls_per_byte'], 2)}"
        plain = f"`ar`: {number(writing['ar']['decoder_calls_per_byte'], 2)} and "
        plain += number(writing["ar"]["global_calls_per_byte"], 2)
        rows.append([f"decoder and global calls per byte of greedy text, `{name}` ({plain})", told])
    return "\n\n".join(["## In short", markdown_table(["", "measured"], rows)])


def recipe_section(recipe: dict, progress: dict, hardware: str) -> str:
    """What was trained, how long and on what, and where it departs from the paper's objective."""
    trainer, planned = recipe["trainer"], recipe["trainer"]["max_steps"]
    batch = trainer["per_device_train_batch_size"] * trainer.get("gradient_accumulation_steps", 1)
    steps, hours = progress.get("steps"), progress.get("hours")
    if steps is None:
        done = f"{planned} steps planned"
    else:
        seen = steps * batch * recipe["sequence_length"] / 1e6
        done = f"{steps} of {planned} steps ({seen:.1f} MB of text seen, repeats counted)"
    time = "time not recorded" if hours is None else f"{hours:.1f} hours, the patcher's own training left out"
    lines = [
        f"- {done} of {batch} rows of {recipe['sequence_length']} bytes, "
        f"{trainer.get('lr_scheduler_type', 'linear')} schedule, seed {recipe['seed']}",
        f"- {hardware}; {time}{'; bfloat16 autocast' if trainer.get('bf16') else ''}",
        f"- an entropy patcher whose threshold gives {recipe['patcher']['mean_patch_length']:g} bytes per patch on "
        f"validation text, at most {recipe['model']['max_patch_length']}",
    ]
    return "\n".join(["## Training", "", *lines, "", "Departures from the paper:", "", *departures(recipe)])


def wrapped(card: str) -> str:
    """The card with its prose in lines of at most `PROSE_WIDTH`; tables, code, texts and metadata stay as they are."""
    lines, in_code = [], False
    for line in card.split("\n"):
        fence = line.startswith(("```", "---"))
        in_code ^= fence
        if in_code or fence or len(line) <= PROSE_WIDTH or line.startswith(("    ", "|", "<", "#")):
            lines.append(line)
        else:
            hanging = "  " if line.startswith("- ") else ""
            fill = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": hanging}
            lines += textwrap.wrap(line, PROSE_WIDTH, **fill)
    return "\n".join(lines)


def departures(recipe: dict) -> list[str]:
    """Where the recipe's objective is not the paper's, which is the config's default."""
    paper, optimizer = FBLTConfig(), recipe["optimizer"]
    draft_fraction = recipe["model"].get("draft_fraction", paper.draft_fraction)
    texts = {
        "corruption": lambda value: (
            f"{draft_fraction:.0%} of blocks are draft-shaped: their first 0, 1 or few bytes known, the rest masked,"
            " weight 1; the other blocks draw a masking probability each (paper: one per sequence, weight 1/t)"
        ),
        "random_anchor_fraction": lambda value: (
            f"{value:.0%} of the blocks stand at a random byte, not at a patch start"
        ),
        "block_fraction": lambda value: f"a step trains the blocks of {value:.0%} of the patches, drawn at random",
        "distillation": lambda value: (
            f"{value:.0%} of the block loss is the divergence from the model's own next-byte distribution (no gradient "
            "into it) instead of the negative log-likelihood of the byte"
        ),
        "diffusion_loss_weight": lambda value: (
            f"the block loss has weight {value:g} (paper: {paper.diffusion_loss_weight:g})"
        ),
    }
    lines = []
    for name, text in texts.items():
        value = recipe["model"].get(name, getattr(paper, name))
        if value != getattr(paper, name):
            lines.append(f"- {text(value)}")
    if optimizer["name"] == "muon":
        lines.append(
            f"- Muon (learning rate {optimizer['muon_learning_rate']:g}) for matrices, AdamW "
            f"({optimizer['learning_rate']:g}) for the rest"
        )
    return lines or ["- none"]


def data(manifest: dict, recipe: dict) -> str:
    limits = recipe.get("max_bytes") or {}
    rows = []
    for source in manifest["sources"]:
        sizes = [
            f"{part['documents']} / {part['bytes'] / 1e6:.2f}" for part in (source["splits"][split] for split in SPLITS)
        ]
        used = f"first {limits[source['name']] / 1e6:g} MB" if source["name"] in limits else "all"
        packages = ", ".join(f"{package['name']} {package['version']}" for package in source["packages"])
        rows.append([source["description"], source["license"], packages, *sizes, used])
    sizes = [f"{split}, documents / MB" for split in SPLITS]
    table = markdown_table(["source", "licence", "Debian packages", *sizes, "used"], rows, text_columns=3)
    changes = "\n".join(f"- {change}" for change in manifest["transformations"])
    return f"""## Data and licences

The code and the weights are under the Apache License 2.0. The texts keep their own licences:

{table}

"used": of the shuffled training documents. Whole files, books and blocks of glosses are held out. Text was changed so:

{changes}"""


def metrics(evaluation: dict) -> str:
    next_byte, drafts, writing = (evaluation[part] for part in ("next_byte", "drafts", "writing"))
    settings, environment = evaluation["settings"], evaluation["environment"]
    parts = [
        "## Metrics",
        f"By `fblt evaluate` on the `{settings['split']}` split, {environment['dtype']} on "
        f"{environment['device']}, seed {settings['seed']}.",
        f"Next byte, documents cut into rows of {settings['row_length']} bytes; non-blank: bytes other than space, "
        "tab, newline.",
        _next_byte_table(next_byte),
        f"Drafts of real text at {drafts['count']} random anchors, the carried byte known. Accuracy by offset from it:",
        _offset_table(drafts),
        "Leading correct bytes, i.e. drafted bytes before the first wrong one: of the one-step block draft, "
        f"{'of the same block filled in by the draft head, ' if 'head' in drafts else ''}"
        f"{'of that draft after refinement passes, ' if REFINED[0] in drafts else ''}of the decoder's own greedy "
        f"draft (`blt-s`), of plain decoding (`ar`); the most is {drafts['block_size'] - 1}.",
        _leading_table(drafts),
        f"One step / `blt-s`: {interval(drafts['one_step_to_blt_s'])}. "
        f"`blt-s` / `ar`: {interval(drafts['blt_s_to_ar'])}."
        + "".join(
            f" {name} / `ar`: {interval(drafts[f'{kind}_to_ar'])}."
            for kind, name in (("head", "Draft head"), *((kind, f"`{kind}`") for kind in REFINED))
            if kind in drafts
        ),
        f"Greedy text after {writing['prompts']} held-out prompts of {settings['prompt_bytes']} bytes, "
        f"{writing['new_bytes']} bytes each. Distinct 8-grams / all 8-grams of each text's new bytes, averaged (real "
        f"text: {number(writing['reference_distinct_8grams'])}): low values are loops, and flatter call counts and "
        "acceptance. Calls and weights read (Eq. 8 of the paper, bfloat16) are per byte.",
        _writing_table(writing),
        "\n".join(f"- {line.strip()}" for line in equality_lines(writing["equality"])),
        *(_quality(evaluation["quality"]) if "quality" in evaluation else []),  # those of before had none
    ]
    return "\n\n".join(parts)


def _quality(figures: dict) -> list[str]:
    """What the text of every setting is like, for what it costs: greedy, and at each temperature."""
    parts = [
        f"Text of every setting after {figures['prompts']} prompts, {figures['new_bytes']} bytes each: bits per byte "
        "under the model's own next-byte head, share of words that occur in the training text, distinct 8-grams, calls "
        "and weights read per byte, share of drafted bytes kept; +-: standard errors over texts. Verified settings "
        "(`ar`, `blt-s`, `blt-dv`) are distributed as `ar` is, greedy or sampled; `blt-d` is not."
    ]
    for temperature in figures["settings"]:
        parts.append("Greedy:" if temperature == "greedy" else f"Sampled at {temperature}:")
        rows = [[f"`{name}`", *cells] for name, cells in quality_rows(figures, temperature)]
        parts.append(markdown_table(["setting", *QUALITY_HEADINGS], rows))
    return parts


def _next_byte_table(figures: dict) -> str:
    rows = [
        [
            name,
            str(row["bytes"]),
            *(number(row[key]) for key in ("bits_per_byte", "accuracy", "accuracy_non_blank")),
            number(row["mean_patch_length"], 2),
        ]
        for name, row in [*figures["sources"].items(), ("all", figures["all"])]
    ]
    return markdown_table(
        ["source", "bytes", "bits per byte", "accuracy", "accuracy, non-blank", "bytes per patch"], rows
    )


def _offset_table(figures: dict) -> str:
    rows = [
        [f"{kind}, {counted.replace('_', '-')}", *(number(value) for value in values)]
        for kind in kinds_of(figures)[:-1]
        for counted, values in figures[kind]["accuracy_by_offset"].items()
    ]
    return markdown_table(["draft", *(str(offset) for offset in range(1, figures["block_size"]))], rows)


def _leading_table(figures: dict) -> str:
    rows = []
    for kind in kinds_of(figures):
        leading = figures[kind]["leading_correct"]
        mean = f"{number(leading['mean'])} ± {number(leading['standard_error'])}"
        rows.append([kind, mean, *map(str, leading["histogram"])])
    counts = (f"{count} bytes" for count in range(figures["block_size"]))
    return markdown_table(["continuation", "mean ± standard error", *counts], rows)


def _writing_table(figures: dict) -> str:
    headings = [
        "decoding",
        "distinct 8-grams",
        "to `ar`",
        "decoder",
        "encoder",
        "global",
        "patcher",
        "global per iteration",
    ]
    headings += ["accepted", "MB read", "to `ar`", "MB read, with patcher", "to `ar`"]
    keys = ["distinct_8grams", "distinct_8grams_to_ar"]
    keys += [f"{network}_calls_per_byte" for network in ("decoder", "encoder", "global", "patcher")]
    keys += ["global_calls_per_iteration", "acceptance", "traffic_mb_per_byte", "traffic_mb_per_byte_to_ar"]
    keys += ["traffic_with_patcher_mb_per_byte", "traffic_with_patcher_mb_per_byte_to_ar"]
    rows = [[f"`{name}`", *(number(row[key]) for key in keys)] for name, row in figures["decodings"].items()]
    return markdown_table(headings, rows)


def progress_section(before: dict, now: dict) -> str:
    """The main figures of an earlier state of the checkpoint beside those of this one."""
    drafts = {"one-step block": "one_step", "`blt-s`": "blt-s", "next byte": "ar"}
    rows = [
        ["training steps", *(str((e["checkpoint"]["training"] or {}).get("steps", "-")) for e in (before, now))],
        ["bits per byte", *(number(e["next_byte"]["all"]["bits_per_byte"]) for e in (before, now))],
    ]
    for name, kind in drafts.items():
        means = (number(e["drafts"][kind]["leading_correct"]["mean"]) for e in (before, now))
        rows.append([f"leading correct bytes, {name}", *means])
    rows.append(["one step / `blt-s`", *(interval(e["drafts"]["one_step_to_blt_s"]) for e in (before, now))])
    for kind in ("ar", "blt-d"):
        distinct = (number(e["writing"]["decodings"][kind]["distinct_8grams"]) for e in (before, now))
        rows.append([f"distinct 8-grams, `{kind}`", *distinct])
    calls = (number(e["writing"]["decodings"]["blt-d"]["decoder_calls_per_byte"]) for e in (before, now))
    rows.append(["decoder calls per byte, `blt-d`", *calls])
    return "\n\n".join(
        [
            "## Before and after",
            "An earlier state of this checkpoint under the same evaluation.",
            markdown_table(["", "before", "now"], rows),
        ]
    )


def samples(evaluation: dict) -> str:
    parts = ["## Samples", "Greedy, not chosen: the first prompts of the evaluation."]
    for sample in evaluation["writing"]["samples"]:
        lines = [f"### {sample['source']}"]
        for name, text in sample.items():
            if name != "source":
                lines.append(f"{name}:\n\n{indented(text)}")
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)


def indented(text: str) -> str:
    """Text as a Markdown code block by indentation, which no text of its own can end."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def limits(evaluation: dict, manifest: dict, recipe: dict) -> str:
    millions = sum(evaluation["checkpoint"]["parameters"].values()) / 1e6
    repeats = evaluation["writing"]["decodings"]["ar"]["distinct_8grams"]
    real = evaluation["writing"]["reference_distinct_8grams"]
    texts = "; ".join(source["description"] for source in manifest["sources"])
    return f"""## Limits

- A demonstration: {millions:.1f} M parameters, trained on little text. What it writes is no source of facts.
- Greedy text repeats itself (`ar`: {number(repeats)} distinct 8-grams, real text: {number(real)}), which flatters
  acceptance and call counts: trust the figures on real text.
- It has read nothing but: {texts}.
- One training run (seed {recipe["seed"]}): differences between runs of the same recipe were not measured.
- `blt-d` is not verified: nothing ties its text to that of `ar`."""
