# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What an FBLT folder holds beside its weights: config, code, tokenizer, generation config, model card, licence."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import EOS_ID

_LICENCE_FIELDS = ("license", "license_name", "license_link")


@dataclass
class Provenance:
    """Where weights come from.

    Attributes:
        source: as the user named it.
        layout: of the source.
        licence: the source's own licence fields, as its model card states them.
        checks: what the conversion verified, a line each.
        notes: what a user should know.
    """

    source: str
    layout: str
    licence: dict[str, str] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def licence_of(folder: Path) -> dict[str, str]:
    """The licence fields of a folder's model card; empty where it has none."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    lines = dict(re.findall(r"^(\w+):[ \t]*(\S.*?)[ \t]*$", front[1], re.MULTILINE)) if front else {}
    return {name: lines[name] for name in _LICENCE_FIELDS if name in lines}


def write_folder(folder: Path, model: FBLTForCausalLM, dtype: torch.dtype) -> None:
    """What `save_pretrained` writes beside the weights, which may be on the meta device here: they are written apart.

    Args:
        dtype: what the config says of the weights.
    """
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = EOS_ID  # whether or not attention stops there, generation does
    model.save_pretrained(folder, state_dict={})
    model.config.dtype = dtype  # `save_pretrained` has written that of the model in memory
    model.config.save_pretrained(folder)


def copy_licences(source: Path, folder: Path) -> None:
    for file in sorted(source.glob("LICENSE*")):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def write_card(folder: Path, provenance: Provenance) -> None:
    """The model card, which names the source's licence and never claims one of ours."""
    licence = provenance.licence or {"license": "other", "license_name": "not-stated-by-the-source"}
    lines = ["---", *(f"{name}: {value}" for name, value in licence.items())]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", provenance.source) and not Path(provenance.source).exists():
        lines.append(f"base_model: {provenance.source}")
    lines += ["library_name: transformers", "pipeline_tag: text-generation", "tags: [fblt, blt, byte-level]", "---", ""]
    name = provenance.source if "base_model" in " ".join(lines) else Path(provenance.source).name
    lines += [f"# {Path(name).name} as FBLT", ""]
    lines += [f"Converted from `{name}` ({provenance.layout} layout) by FBLT's `conversion` package.", ""]
    if provenance.licence:
        stated = ", ".join(provenance.licence.values())
        lines += [f"The weights are under the licence of their source: {stated}.", ""]
    else:
        lines += [
            "The source states no licence that could be passed on here. Its weights stay under the terms that they "
            "came with; "
            "those of Meta's BLT are for non-commercial use.",
            "",
        ]
    lines += ["The code files (`*.py`) are under the Apache License 2.0.", "", "## Use", ""]
    lines += [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", trust_remote_code=True)',
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER", trust_remote_code=True)',
        'ids = tokenizer("Bytes are", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0], skip_special_tokens=True))",
        "```",
        "",
    ]
    for title, items in (("Checks of the conversion", provenance.checks), ("Notes", provenance.notes)):
        if items:
            lines += [f"## {title}", "", *(f"- {item}" for item in items), ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
