"""The command `fblt`: one name for everything that this package does from a shell."""

import click

from . import __version__
from .commands import LazyGroup

COMMANDS = {
    "generate": ("fblt.generate:main", "Write on from a text."),
    "restore": ("fblt.restore:main", "Give the lines of a file their accents, case, punctuation and spelling back."),
    "serve": ("fblt.serving.command:main", "Serve a model to OpenAI's clients, over HTTP."),
    "patch": ("fblt.patch:main", "Show where a model starts patches in a text."),
    "page": ("fblt.page.command:main", "Show a page on which a model writes, for a browser."),
    "convert": ("fblt.conversion.convert_blt:main", "Make an FBLT of a BLT, in whichever layout it comes."),
    "validate-blt": ("fblt.conversion.validate:main", "Compare a converted FBLT with the BLT it was made of."),
    "export-blt": ("fblt.conversion.export_blt:main", "Write an FBLT as a BLT, in Meta's layouts or transformers'."),
    "add-diffusion": (
        "fblt.conversion.add_diffusion:main",
        "Prepare an FBLT without blocks for fine-tuning with the block loss.",
    ),
    "prepare": ("fblt.training.data.prepare:main", "Build a data set that this project trains on."),
    "train-patcher": (
        "fblt.training.components.train_patcher:main",
        "Train a recipe's patcher and find its threshold.",
    ),
    "pack": ("fblt.training.packing.pack:main", "Pack any texts into rows with patch starts, ready for training."),
    "train": ("fblt.training.train:main", "Train, continue or fine-tune from a recipe; resumes with the same command."),
    "plan": (
        "fblt.training.evaluation.costs.plan:main",
        "Compute what a recipe will cost on GPUs: memory, hours, traffic.",
    ),
    "train-draft-head": (
        "fblt.training.components.train_draft_head:main",
        "Train a draft head for saved weights, left as they are.",
    ),
    "evaluate": ("fblt.training.evaluation.evaluate:main", "Measure a checkpoint on held-out text."),
    "evaluate-restoration": (
        "fblt.training.evaluation.restoration.evaluate:main",
        "Measure how well a model restores held-out lines.",
    ),
    "export": ("fblt.training.publishing.export:main", "Make a training checkpoint a folder to load and share."),
    "model-card": (
        "fblt.training.publishing.model_card:main",
        "Write the model card of a checkpoint that was measured.",
    ),
    "push": ("fblt.training.publishing.push:main", "Publish a saved model on the Hugging Face Hub."),
    "sync-code": ("fblt.remote_code:main", "Copy the code of modeling_fblt into checkpoint folders, or check it."),
}


@click.group(cls=LazyGroup, members=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fblt")
def main() -> None:
    """FBLT: byte-level language models that write many bytes at a time."""
