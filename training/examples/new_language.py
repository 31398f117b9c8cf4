"""Teaches a model that restores text one more language, and shows what that changed. Read it from top to bottom.

\b
    python -m training.examples.new_language                   # every weight
    python -m training.examples.new_language --lora            # small adapters on frozen weights, through PEFT
    python -m training.examples.new_language --lines mine.txt --also data/restore --output runs/mine

The language is Italian, from LibreOffice's help (MPL-2.0), which `apt-get download` fetches; or that of --lines, a line
of text each. A tenth of the documents, or of the lines, is held out. With --also, lines of the languages that the model
knows are measured before and after, too: what is learned may cost what was known.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from fblt.training.data.packages import check_tools, download, missing_packages, read_package, unpack
from fblt.training.data.restore.damage import KINDS
from fblt.training.data.restore.languages import Language
from fblt.training.data.restore.lines import LARGEST, SMALLEST, lines_of, near_key
from fblt.training.data.restore.sources import read_page
from fblt.training.evaluation.restoration.evaluate import damaged_lines, first_of_each_language
from fblt.training.evaluation.restoration.measures import figures
from fblt.training.evaluation.restoration.tables import percent
from fblt.training.evaluation.restoration.writing import restore
from fblt.training.packing.damaged_lines import DamagedLines
from fblt.training.packing.sequences import collate
from rich.console import Console
from rich.table import Table
from torch.utils.data import Subset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

from fblt.commands import Command

from .finetune import REPOSITORY, add_adapters

PACKAGE, PAGES = "libreoffice-help-it", "usr/share/libreoffice/help/it/text/**/*.html"
ITALIAN = Language(
    "it",
    ("it",),
    frozenset("il lo la gli le di del della dei che è per un una non con si da nel sono come questo più o se".split()),
    frozenset("àèéìòù"),
)
HELD_OUT = 10  # one document, or line, in so many
DAMAGE = {"accents": 0.25, "plain": 0.35, "typos": 0.3, "none": 0.1}  # shares of training lines, as the recipe has them
BATCH = 16  # lines per step
LONGEST = 2 * LARGEST + 16  # ids of a row


def italian_lines(cache: Path) -> Iterator[tuple[str, str]]:
    """Document and text of each line of the package; downloads it into `cache` if it is not there."""
    check_tools(download=bool(missing_packages([PACKAGE], cache)))
    for name in missing_packages([PACKAGE], cache):
        download(name, cache)
    with tempfile.TemporaryDirectory() as scratch:
        unpack(read_package(PACKAGE, cache), Path(scratch))
        for page in sorted(Path(scratch).glob(PAGES)):
            for block in read_page(page):
                for line in lines_of(block, ITALIAN):
                    yield page.name, line


def own_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Each line of a file, of a size to train on, as a document of its own."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if SMALLEST <= len(line.strip().encode()) <= LARGEST:
            yield line.strip(), line.strip()


def split(lines: Iterator[tuple[str, str]], given: str) -> tuple[list[str], list[str]]:
    """Training lines and held-out lines, by a hash of their documents, each but once.

    Raises:
        ValueError: too few lines, of what was `given`.
    """
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for document, line in lines:
        held_out = int(hashlib.sha256(document.encode()).hexdigest(), 16) % HELD_OUT == 0
        parts[held_out].setdefault(near_key(line), line)
    train = [line for key, line in parts[0].items() if key not in parts[1]]
    if not train or not parts[1]:
        raise ValueError(
            f"{given}: {len(train)} lines to train on, {len(parts[1])} held out; give more lines of {SMALLEST} to "
            f"{LARGEST} bytes"
        )
    return train, list(parts[1].values())


def measure(model, lines: Sequence[str], seed: int, settings: dict) -> dict[str, dict]:
    """Words right of restored lines, by kind of damage."""
    model.eval()
    found = {}
    for kind in KINDS:
        written = restore(model, damaged_lines(lines, kind, seed), settings, batch_size=32)
        found[kind] = figures(lines, written.texts)["words_right"]
    return found


@click.command(cls=Command, help=__doc__)
@click.option(
    "--model",
    default=str(REPOSITORY / "checkpoints/fblt-restore"),
    help="Folder or Hub name; default: the bundled one.",
)
@click.option("--lines", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Text; default: Italian.")
@click.option("--also", help="Folder of lines that the model knows, such as data/restore.")
@click.option("--lora", is_flag=True, help="Train adapters only.")
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Of the adapters.")
@click.option("--steps", type=click.IntRange(1), default=400, show_default=True, help=f"Of {BATCH} lines.")
@click.option("--learning-rate", type=float, help="Default: 1e-3, with --lora 3e-3.")
@click.option("--test-lines", type=click.IntRange(1), default=200, show_default=True, help="Held-out lines to restore.")
@click.option("--decoding", default="ar", show_default=True, help="Of these lines.")
@click.option("--cache-dir", type=click.Path(path_type=Path), default=Path("data/packages"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Folder to save the result to; default: nowhere.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(**given) -> None:
    options = SimpleNamespace(**given)
    learning_rate = options.learning_rate or (3e-3 if options.lora else 1e-3)
    settings = {"decoding": options.decoding}
    set_seed(options.seed)

    # 1. The lines.
    source = own_lines(options.lines) if options.lines else italian_lines(options.cache_dir)
    train, held_out = split(source, f"--lines {options.lines}" if options.lines else PACKAGE)
    tested = {"new language": held_out[: options.test_lines]}
    if options.also:
        tested |= first_of_each_language(options.also, "test", max(1, options.test_lines // 10))

    # 2. The model, in float32: small updates would be lost in bfloat16.
    model = AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=True, dtype=torch.float32)
    before = {name: measure(model, lines, options.seed, settings) for name, lines in tested.items()}

    # 3. Training, by transformers' own Trainer. Damage is drawn anew each time that a line comes up.
    if options.lora:
        model = add_adapters(model, options.rank)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = DamagedLines(train, DAMAGE, options.seed, LONGEST)
    arguments = TrainingArguments(
        output_dir=str(options.output or "runs/new-language"),
        max_steps=options.steps,
        per_device_train_batch_size=BATCH,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.steps // 10,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        seed=options.seed,
        use_cpu=not torch.cuda.is_available(),
    )
    rows = Subset(rows, range(options.steps * BATCH))
    result = Trainer(model, arguments, train_dataset=rows, data_collator=collate).train()

    # 4. After. Adapters are merged: the model is then what it was, with other weights, and as fast.
    if options.lora:
        if options.output:
            model.save_pretrained(options.output / "adapter")
        model = model.merge_and_unload()
    after = {name: measure(model, lines, options.seed, settings) for name, lines in tested.items()}

    # 5. What changed.
    console = Console()
    for name, lines in tested.items():
        table = Table("damage", "before", "after", title=f"{name}: words right, %, {len(lines)} lines")
        for kind in KINDS:
            table.add_row(kind, percent(before[name][kind]), percent(after[name][kind]))
        console.print(table)
    size = sum(len(line.encode()) for line in train) / 1e6
    console.print(
        f"trained {trained / 1e6:.2f} M weights: {options.steps} steps of {BATCH} of {len(train)} lines ", end=""
    )
    console.print(f"({size:.2f} MB) in {result.metrics['train_runtime']:.0f} s")

    # 6. A folder that from_pretrained and `fblt restore --model` load.
    if options.output:
        model.save_pretrained(options.output)
        console.print(f"saved: {options.output}")


if __name__ == "__main__":
    main()
