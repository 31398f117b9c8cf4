"""The model card of a model that restores text. Every number comes from the evaluation, the manifest or the recipe."""

import json
import shlex
from pathlib import Path

from huggingface_hub import ModelCardData

from ..evaluation.restoration.evaluate import FREQUENT, LEFT_ALONE
from ..evaluation.restoration.tables import MEASURES, percent
from .model_card_sections import departures, indented, markdown_table

BASELINES = (LEFT_ALONE, FREQUENT)
TITLES = {"test": "held-out documents", "test_prose": "another kind of text: the tales of a game"}


def restoration_card(
    evaluation: dict,
    manifest: dict,
    recipe: dict,
    folder: str,
    hours: float | None,
    hardware: str,
    earlier: str | None = None,
) -> str:
    """The card's text: YAML metadata and Markdown.

    Args:
        evaluation: result of `fblt evaluate-restoration`.
        manifest: the lines' `manifest.json`.
        recipe: the training recipe.
        folder: where the checkpoint is loaded from in the example.
        hours: of training; what the checkpoint's own logs say when None.
        hardware: what it was trained on.
        earlier: what the weights had been trained on before this run.
    """
    metadata = ModelCardData(
        language=list(manifest["languages"]),
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["fblt", "byte-level", "block-diffusion", "diacritics", "custom_code"],
    )
    progress = dict(evaluation["checkpoint"]["training"] or {})
    if hours is not None:
        progress["hours"] = hours
    sections = [
        _overview(Path(folder).name, evaluation, manifest),
        *_shortfall(evaluation),
        _usage(folder, evaluation),
        _figures(evaluation),
        _samples(evaluation),
        _training(recipe, progress, hardware, earlier),
        _data(manifest),
        _limits(recipe),
    ]
    return "\n\n".join([f"---\n{metadata.to_yaml()}\n---", *sections]) + "\n"


def folded(title: str, text: str) -> str:
    """Text that a reader opens by its title."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _overview(name: str, evaluation: dict, manifest: dict) -> str:
    checkpoint = evaluation["checkpoint"]
    millions = sum(checkpoint["parameters"].values()) / 1e6
    return f"""# {name}

Gives lines of text their accents, capitals, punctuation and spelling back, in {len(manifest["languages"])} languages:
{", ".join(manifest["languages"])}. It is told neither the language nor what is missing.
A [Fast Byte Latent Transformer](https://arxiv.org/abs/2605.08044) of {millions:.1f} M parameters
({checkpoint["weights_mb"]:.1f} MB): it reads and writes bytes, drafts blocks of {checkpoint["block_size"]} at once and
verifies them."""


def _shortfall(evaluation: dict) -> list[str]:
    """What a visitor must know first: after which damage a table of words does better than the model, if any."""
    name, kinds = next(iter(evaluation["splits"].items()))
    below = []
    for kind, found in kinds.items():
        right = {method: parts["all"]["words_right"]["value"] for method, parts in found["methods"].items()}
        best = max(value for method, value in right.items() if method not in BASELINES)
        if best < right[FREQUENT]:
            below.append(f"`{kind}` {100 * best:.1f} % against {100 * right[FREQUENT]:.1f} %")
    if not below:
        return []
    return [
        "**Not good enough for use yet**: putting each word's most frequent form gets more words right than the model "
        f"({TITLES.get(name, name)}: {', '.join(below)})."
    ]


def _first_sample(evaluation: dict) -> dict:
    found = next(iter(evaluation["splits"].values()))
    return (found.get("plain") or next(iter(found.values())))["samples"][0]


def _usage(folder: str, evaluation: dict) -> str:
    damaged = _first_sample(evaluation)["damaged"]
    return f"""## Use

    echo {shlex.quote(damaged)} | fblt restore --model {folder}

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
line = {json.dumps(damaged, ensure_ascii=False)}
inputs = tokenizer(line + "\\n", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=400)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


def _figures(evaluation: dict) -> str:
    environment = evaluation["environment"]
    parts = [
        "## How well it restores",
        f"By `fblt evaluate-restoration`, greedy, {environment['dtype']} on {environment['device']}; percent, with "
        "standard errors over lines. A word is what stands between blanks, its punctuation included.",
        "`accents`: marks are missing. `plain`: capitals and punctuation too. `typos`: also typing errors, in "
        f"{100 * evaluation['typo_rate']:g} % of letters. `none`: nothing is missing, and the line must come back as "
        "it is. The baselines leave the line alone, or put each word's most frequent form in the training text.",
    ]
    for split, kinds in evaluation["splits"].items():
        parts.append(f"### {TITLES.get(split, split).capitalize()}")
        parts.append(_measures_table(kinds))
        by_language = "\n\n".join(f"`{kind}`\n\n{_languages_table(found)}" for kind, found in kinds.items())
        parts.append(folded("Words right by language", by_language))
        parts.append(folded("Calls a byte, and errors by kind", f"{_costs_table(kinds)}\n\n{_errors_table(kinds)}"))
    return "\n\n".join(parts)


def _measures_table(kinds: dict) -> str:
    rows = [
        [f"`{kind}`", name, *(percent(parts["all"][measure]) for measure in MEASURES)]
        for kind, found in kinds.items()
        for name, parts in found["methods"].items()
    ]
    return markdown_table(["damage", "method", *MEASURES.values()], rows, text_columns=2)


def _languages_table(found: dict) -> str:
    rows = [
        [name, *(percent(parts[language]["words_right"]) for language in found["lines"])]
        for name, parts in found["methods"].items()
    ]
    return markdown_table(["method", *found["lines"]], rows)


def _costs_table(kinds: dict) -> str:
    networks = ("decoder", "encoder", "global")
    rows = []
    for kind, found in kinds.items():
        lines = sum(found["lines"].values())
        for name, costs in found["costs"].items():
            equal = found["equal_to_ar"].get(name)
            calls = (f"{costs[f'{network}_calls_per_byte']:.3f}" for network in networks)
            rows.append([f"`{kind}`", f"`{name}`", *calls, "" if equal is None else f"{equal} of {lines}"])
    return markdown_table(["damage", "decoding", *networks, "texts equal to `ar`'s"], rows, text_columns=2)


def _errors_table(kinds: dict) -> str:
    first = next(iter(kinds.values()))
    rows = [[f"`{kind}`", *(str(count) for count in found["errors"].values())] for kind, found in kinds.items()]
    return markdown_table([f"wrong words of `{first['errors_of']}`", *first["errors"]], rows)


def _samples(evaluation: dict) -> str:
    parts = ["## Examples", "Not chosen: the first lines of each language."]
    for split, kinds in evaluation["splits"].items():
        for kind, found in kinds.items():
            texts = []
            for sample in found["samples"]:
                shown = [f"{name}: {text}" for name, text in sample.items() if name != "language"]
                texts.append("\n\n".join([sample["language"], indented("\n".join(shown))]))
            parts.append(folded(f"{TITLES.get(split, split)}, {kind}", "\n\n".join(texts)))
    return "\n\n".join(parts)


def _training(recipe: dict, progress: dict, hardware: str, earlier: str | None) -> str:
    trainer = recipe["trainer"]
    steps, hours = progress.get("steps"), progress.get("hours")
    done = f"{trainer['max_steps']} steps planned" if steps is None else f"{steps} steps"
    time = "time not recorded" if hours is None else f"{hours:.1f} hours"
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in recipe["damage"].items())
    lines = [
        *([f"- before: {earlier}"] if earlier else []),
        f"- {done} of {trainer['per_device_train_batch_size']} lines, {hardware}, {time}, seed {recipe['seed']}",
        f"- damage drawn anew in every epoch: {shares}",
    ]
    return "\n".join(["## Training", "", *lines, "", "Departures from the paper:", "", *departures(recipe)])


def _data(manifest: dict) -> str:
    rows = []
    for source in manifest["sources"]:
        train = source["splits"]["train"]
        packages = ", ".join(package["name"] for package in source["packages"])
        size = f"{train['lines']} / {train['bytes'] / 1e6:.2f}"
        rows.append([source["description"], source["license"], packages, size])
    table = markdown_table(["source", "licence", "Debian packages", "training lines / MB"], rows, text_columns=3)
    changes = "\n".join(f"- {change}" for change in manifest["transformations"])
    return f"""## Data and licences

The code and the weights are under the Apache License 2.0. The texts keep their own licences. Whole documents, in all
their translations, were held out.

{folded("Sources", table)}

{changes}"""


def _limits(recipe: dict) -> str:
    return f"""## Limits

- It has read documentation of software: names, tales and everyday speech are restored worse.
- It works on lines of 20 to 200 bytes; `fblt restore` cuts longer ones at the ends of sentences.
- It changes what it believes is wrong: read its text before you rely on it.
- The weights are of one run (seed {recipe["seed"]}). Another run of the recipe may be a few points away."""
