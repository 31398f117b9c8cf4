"""Measures how well a model restores held-out lines, beside leaving them alone and each word's most frequent form.

    fblt evaluate-restoration --model checkpoints/fblt-restore --data data/restore --output figures.json

Greedy decoding. Typing errors are made at 3 % of letters. The lines are the first of each language in a split, whose
order the data set drew by a hash. See `evaluation.restoration.measures` for what counts as a word right.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import torch
import transformers
from rich.console import Console

from fblt.commands import Command
from fblt.files import write_text_atomically

from ...data.restore.damage import KINDS, damage
from ...packing.damaged_lines import load_lines
from ..evaluate import describe_checkpoint, load_model
from .baselines import FrequentForms
from .errors import count_errors
from .measures import figures
from .tables import print_restoration
from .writing import restore

FORMAT = 2  # of the JSON file; raise it when a key changes its meaning
TYPO_RATE = 0.03
SPLITS = ("test", "test_prose")
LEFT_ALONE, FREQUENT = "left alone", "most frequent form"


def first_of_each_language(data: str | Path, split: str, count: int) -> dict[str, list[str]]:
    """Up to `count` lines of each language of a split, by language."""
    lines = load_lines(data, split)
    found: dict[str, list[str]] = {}
    for language, text in zip(lines["language"], lines["text"], strict=True):
        own = found.setdefault(language, [])
        if len(own) < count:
            own.append(text)
    return dict(sorted(found.items()))


def damaged_lines(lines: Sequence[str], kind: str, seed: int) -> list[str]:
    """Each line with one kind of damage, typing errors at `TYPO_RATE`: a function of its place, kind and seed."""
    return [
        damage(line, kind, np.random.default_rng((seed, KINDS.index(kind), index)), TYPO_RATE)
        for index, line in enumerate(lines)
    ]


def evaluate(model, options: SimpleNamespace) -> dict:
    """Every figure under the command line's options, as the JSON file has it."""
    train = load_lines(options.data, "train")
    by_language: dict[str, list[str]] = {}
    for language, text in zip(train["language"], train["text"], strict=True):
        by_language.setdefault(language, []).append(text)
    forms = {language: FrequentForms(lines) for language, lines in by_language.items()}
    splits = {
        split: {
            kind: restorations(model, first_of_each_language(options.data, split, options.lines), kind, forms, options)
            for kind in options.damage
        }
        for split in options.splits
    }
    return {
        "format": FORMAT,
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "typo_rate": TYPO_RATE,
        "environment": {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "checkpoint": describe_checkpoint(model, Path(options.model)),
        "splits": splits,
    }


def restorations(
    model, lines: dict[str, list[str]], kind: str, forms: dict[str, FrequentForms], options: SimpleNamespace
) -> dict:
    """Figures of one split and kind of damage: by method, of each language and of all, costs and samples.

    `all` is of all lines together; `mean_of_languages` gives languages equal weight.
    """
    languages = [language for language, own in lines.items() for _ in own]
    wanted = [line for own in lines.values() for line in own]
    given = damaged_lines(wanted, kind, options.seed)
    restored = {
        LEFT_ALONE: given,
        FREQUENT: [forms[lang].restore(text, kind) for lang, text in zip(languages, given, strict=True)],
    }
    costs = {}
    for name in options.decoding:
        found = restore(model, given, parse_decoding(name), options.batch_size)
        restored[name], costs[name] = found.texts, found.costs()
    telling = [
        [forms[lang].is_ambiguous(word, kind) for word in line.split()]
        for lang, line in zip(languages, wanted, strict=True)
    ]
    methods = {}
    for name, texts in restored.items():
        parts = {"all": list(range(len(wanted)))}
        for language in lines:
            parts[language] = [index for index, own in enumerate(languages) if own == language]
        methods[name] = {
            part: figures([wanted[i] for i in own], [texts[i] for i in own], [telling[i] for i in own])
            for part, own in parts.items()
        }
        of_each = [methods[name][language]["words_right"]["value"] for language in lines]
        methods[name]["mean_of_languages"] = float(np.mean(of_each))
    plain = restored.get("ar")
    judged = options.decoding[0]
    return {
        "lines": {language: len(own) for language, own in lines.items()},
        "methods": methods,
        "errors": count_errors(wanted, restored[judged]),
        "errors_of": judged,
        "costs": costs,
        "equal_to_ar": {
            name: sum(one == other for one, other in zip(plain, restored[name], strict=True))
            for name in options.decoding
            if plain is not None and name != "ar"
        },
        "samples": samples(languages, wanted, given, restored, options.samples),
    }


def samples(languages: list[str], wanted: list[str], given: list[str], restored: dict, count: int) -> list[dict]:
    """The first lines of each language, not chosen."""
    kept = []
    for index, language in enumerate(languages):
        if languages[:index].count(language) < count:
            texts = {name: texts[index] for name, texts in restored.items() if name != LEFT_ALONE}
            kept.append({"language": language, "line": wanted[index], "damaged": given[index], **texts})
    return kept


def parse_decoding(text: str) -> dict:
    """`NAME[:SETTING=VALUE,...]`, such as `blt-d:confidence_threshold=0.9`, as settings of `generate`."""
    name, _, rest = text.partition(":")
    settings: dict = {"decoding": name}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--decoding {text}: {item!r} is no SETTING=VALUE, such as block_size=8")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


@click.command(cls=Command, help=__doc__)
@click.option("--model", required=True, help="Folder of a saved FBLT.")
@click.option("--data", required=True, help="Folder of lines, such as data/restore.")
@click.option("--splits", multiple=True, type=click.Choice(SPLITS), default=SPLITS, show_default=True)
@click.option("--damage", multiple=True, type=click.Choice(KINDS), default=tuple(KINDS), show_default=True)
@click.option(
    "--decoding",
    multiple=True,
    default=("ar", "blt-dv"),
    show_default=True,
    help="A name, with settings if need be, such as blt-d:confidence_threshold=0.9.",
)
@click.option("--lines", type=click.IntRange(1), default=100, show_default=True, help="Of each language and kind.")
@click.option("--samples", type=click.IntRange(0), default=2, show_default=True, help="Of each language to keep.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Lines at a time.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--output", help="JSON file to write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the typing errors.")
def main(**options) -> None:
    options = SimpleNamespace(**options)
    for name in options.decoding:
        parse_decoding(name)
    evaluation = evaluate(load_model(options.model, options.device), options)
    print_restoration(evaluation, Console())
    if options.output is not None:
        write_text_atomically(options.output, json.dumps(evaluation, indent=2, ensure_ascii=False) + "\n")
        click.echo(f"written: {options.output}")


if __name__ == "__main__":
    main()
