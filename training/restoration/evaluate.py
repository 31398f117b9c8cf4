"""Measures how well a model restores held-out lines, beside leaving them alone and each word's most frequent form.

    python -m training.restoration.evaluate --model checkpoints/fblt-restore --data data/restore --output figures.json

Greedy decoding. Typing errors are made at 3 % of letters. The lines are the first of each language in a split, whose
order the data set drew by a hash. See `training.restoration.measures` for what counts as a word right.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console

from training.evaluate import describe_checkpoint, load_model
from training.files import write_text_atomically
from training.restoration.baselines import FrequentForms
from training.restoration.damage import KINDS, damage
from training.restoration.measures import figures
from training.restoration.rows import load_lines
from training.restoration.tables import print_restoration
from training.restoration.writing import restore

FORMAT = 1  # of the JSON file; raise it when a key changes its meaning
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


def evaluate(model, options: argparse.Namespace) -> dict:
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
    model, lines: dict[str, list[str]], kind: str, forms: dict[str, FrequentForms], options: argparse.Namespace
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
    return {
        "lines": {language: len(own) for language, own in lines.items()},
        "methods": methods,
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


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.restoration.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder of a saved FBLT")
    parser.add_argument("--data", required=True, help="folder of lines, such as data/restore")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="default: both")
    parser.add_argument("--damage", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument(
        "--decoding",
        nargs="+",
        default=["ar", "blt-dv"],
        help="names, with settings if need be, such as blt-d:confidence_threshold=0.9; default: ar blt-dv",
    )
    parser.add_argument("--lines", type=int, default=100, help="of each language and kind; default: %(default)s")
    parser.add_argument("--samples", type=int, default=2, help="of each language to keep; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="lines at a time; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the typing errors; default: 0")
    options = parser.parse_args(arguments)
    for name, least in (("lines", 1), ("samples", 0), ("batch_size", 1), ("seed", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least {least}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        for name in options.decoding:
            parse_decoding(name)
        evaluation = evaluate(load_model(options.model, options.device), options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_restoration(evaluation, Console())
    if options.output is not None:
        write_text_atomically(options.output, json.dumps(evaluation, indent=2, ensure_ascii=False) + "\n")
        print(f"written: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
