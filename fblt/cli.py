"""The command `fblt`: one name for everything that this package does from a shell."""

import click

from . import __version__
from .commands import LazyGroup

COMMANDS = {
    "sync-code": ("fblt.remote_code:main", "Copy the code of modeling_fblt into checkpoint folders, or check it."),
    "train": ("fblt.training.train:main", "Train, continue or fine-tune from a recipe; resumes with the same command."),
}


@click.group(cls=LazyGroup, members=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fblt")
def main() -> None:
    """FBLT: byte-level language models that write many bytes at a time."""
