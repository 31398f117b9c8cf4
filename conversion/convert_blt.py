# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Makes an FBLT of a BLT, whatever layout it comes in.

    fblt convert --source facebook/blt-1b --entropy facebook/blt-entropy --output fblt-1b

The output folder loads with `AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)`. It appears only when
it is complete and, unless --no-validate is given, validated.
"""

import sys
from collections import Counter
from pathlib import Path

import click
import torch

from fblt.commands import Command
from fblt.files import appearing_folder

from .folder import Provenance, copy_licences, licence_of, write_card, write_folder
from .mapping import plan_import
from .open_checkpoint import FBLT, SCHEMES, Checkpoint, empty_model, fetch, open_checkpoint, shapes_of
from .tensor_readers import ReadingError
from .validate import ValidationError
from .validate import validate as compare_with_source
from .writing import parse_size, write_safetensors

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def convert(
    source: str,
    output: Path,
    entropy: str | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "5GB",
    validate: bool = True,
    entropy_window: int | None = None,
) -> Provenance:
    """Converts and returns what was checked.

    Args:
        source, entropy: folders or Hub repositories.
        dtype: of the weights; as in the source when None.
        entropy_window: see [`meta_config.import_meta`].

    Raises:
        ValueError: of the kinds in this package; nothing is written then.
    """
    size = parse_size(max_shard_size)
    checkpoint = open_checkpoint(fetch(source), fetch(entropy) if entropy else None, entropy_window)
    if checkpoint.layout == FBLT:
        raise ReadingError(f"{source}: is an FBLT already")
    model = empty_model(checkpoint.config)
    shapes = shapes_of(model)
    table = checkpoint.links(shapes)
    plan = plan_import(checkpoint.tensors, table, shapes, SCHEMES[checkpoint.layout], dtype, checkpoint.ignored)
    provenance = Provenance(source, checkpoint.layout, licence_of(checkpoint.folder), notes=checkpoint.notes)
    provenance.checks.append(
        f"{sum(len(link.keys) for link in table)} tensors of the source fill all {len(plan.entries)} of the model; "
        "every shape "
        "fits, every value is finite"
    )
    for reason, number in Counter(plan.ignored.values()).items():
        provenance.checks.append(f"{number} tensors of the source are left out: {reason}")
    with appearing_folder(output, new=True) as folder:
        main_dtype = dtype or next(e.dtype for e in plan.entries if e.key == "lm_head.weight")
        write_folder(folder, model, main_dtype)
        write_safetensors(folder, plan.entries, size)
        copy_licences(checkpoint.folder, folder)
        if validate:
            provenance.checks += _validated(checkpoint, folder)
        write_card(folder, provenance)
    return provenance


def _validated(checkpoint: Checkpoint, folder: Path) -> list[str]:
    report = compare_with_source(checkpoint, folder)
    print(report.table(), file=sys.stderr)
    if not report.passed:
        raise ValidationError(
            "the converted model does not reproduce its source; see the table above. Nothing is written."
        )
    return [f"{line.check}: {line.result}" for line in report.lines]


@click.command(cls=Command)
@click.option("--source", required=True, help="Folder or Hub repository of a BLT.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--entropy", help="Folder or Hub repository of the entropy model, where --source has none.")
@click.option(
    "--entropy-window", type=click.IntRange(min=1), help="Bytes that the entropy model sees.  [default: as configured]"
)
@click.option("--dtype", type=click.Choice(list(DTYPES)), help="Of the weights.  [default: as in the source]")
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of each file of weights.")
@click.option("--validate/--no-validate", default=True, show_default=True, help="Compare with the source first.")
def main(dtype: str | None, **options) -> None:
    """Make an FBLT of a BLT, in whichever layout it comes."""
    provenance = convert(**options, dtype=DTYPES.get(dtype))
    for line in (*provenance.checks, *provenance.notes):
        print(line)


if __name__ == "__main__":
    main()
