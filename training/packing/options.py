"""What packing is asked to do, checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..data.inputs import Source, parse_source
from ..data.manifest import is_packed
from .parts import Part


@dataclass(frozen=True)
class PackOptions:
    """The command's arguments; see `fblt pack --help`."""

    source: Sequence[str]
    output: Path
    sequence_length: int
    model: str | None = None
    recipe: str | None = None
    patch_online: bool = False
    text_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    license: dict[str, str] = field(default_factory=dict)
    max_bytes: dict[str, int] = field(default_factory=dict)
    hold_out: float | None = None
    seed: int = 0
    streaming: bool = False
    batch_size: int = 32
    device: str = "cpu"
    workers: int = 1
    overwrite: bool = False
    part: Part | None = None

    def columns(self) -> dict[str, str]:
        """Our name of each column by the source's."""
        if self.prompt_column is not None:
            return {self.prompt_column: "prompt", self.completion_column: "completion"}
        return {self.text_column or "text": "text"}

    def recorded(self) -> list[str]:
        """The arguments that decide what is packed, as a command line takes them."""
        elsewhere = {"output", "model", "recipe", "workers", "overwrite", "part"}
        arguments = []
        for name, value in vars(self).items():
            option = f"--{name.replace('_', '-')}"
            if name in elsewhere or value is None or value is False:
                continue
            if value is True:
                arguments.append(option)
            elif isinstance(value, dict):
                arguments += [part for key, given in value.items() for part in (option, f"{key}={given}")]
            else:
                values = value if isinstance(value, (list, tuple)) else [value]
                arguments += [part for given in values for part in (option, str(given))]
        return arguments


def check_options(options: PackOptions, finished: bool = False) -> list[Source]:
    """Raises an error that names argument, value and remedy; returns the sources.

    Args:
        finished: `output` is what a killed process of the same command had just published, so it may exist.
    """
    numbers = {"sequence_length": 2, "seed": 0, "batch_size": 1, "workers": 1}
    for name, least in numbers.items():
        if getattr(options, name) < least:
            raise ValueError(f"`--{name.replace('_', '-')}` is {getattr(options, name)}: give {least} or more.")
    if options.hold_out is not None and not 0 <= options.hold_out < 1:
        raise ValueError(f"`--hold-out` is {options.hold_out}: give a share of the documents, 0 or more and below 1.")
    if sum((options.model is not None, options.recipe is not None, options.patch_online)) != 1:
        raise ValueError("Give one of `--model`, `--recipe` and `--patch-online`: what finds the patch starts.")
    if (options.prompt_column is None) != (options.completion_column is None):
        raise ValueError("Give `--prompt-column` and `--completion-column` together.")
    if options.text_column is not None and options.prompt_column is not None:
        raise ValueError("Give `--text-column`, or `--prompt-column` and `--completion-column`, not both.")
    if options.output.exists() and not options.overwrite and not finished:
        raise output_exists(options.output)
    if options.output.exists() and not is_packed(options.output):
        raise ValueError(f"`--output` {str(options.output)!r} holds no packed rows, so it stays: give another folder.")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` {options.device!r} cannot be used here: {error}") from error
    return [parse_source(text) for text in options.source]


def output_exists(output: Path) -> ValueError:
    return ValueError(f"`--output` {str(output)!r} exists: give another folder or pass `--overwrite`.")


def check_names(options: PackOptions, sources: list[Source]) -> dict[str, str]:
    """Checks that limits and licences name sources; returns every source's licence."""
    given = [name for source in sources for name in source.part_names]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"`--source` gives {twice} twice: call one of them otherwise, NAME=LOCATION.")
    check_known("--max-bytes", options.max_bytes, given)
    check_known("--license", options.license, given)
    licences = {name: value for source in sources for name, value in (source.parts or {source.name: ""}).items()}
    licences |= options.license
    if unlicensed := [name for name in given if not licences[name]]:
        raise ValueError(
            f"`--license` is missing for {unlicensed}: give `--license {unlicensed[0]}=SPDX-ID`, or what you know."
        )
    return licences


def check_known(option: str, values: dict, sources: list[str]) -> None:
    """Raises an error if an option names a source that there is not."""
    if unknown := sorted(set(values) - set(sources)):
        raise ValueError(f"`{option}` names {unknown}, but the sources are {sources}.")
