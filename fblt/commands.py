"""What all commands share: they are click commands whose refusals are one clean line, not a traceback."""

from importlib import import_module

import click

# What the code raises when it refuses bad input or cannot read or write: the message is for the user.
REFUSALS = (ValueError, OSError)
OURS = ("fblt", "modeling_fblt")
EXTRAS = "in a checkout, pip install -c constraints.txt -e '.[train,bench,serve,page]' brings all that commands use."


class Command(click.Command):
    """A command that turns a refusal of the code it calls into `Error: ...` and exit code 1."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except BrokenPipeError:  # the reader of a pipe has seen enough: no refusal, and click ends quietly
            raise
        except REFUSALS as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:  # of a package that only some uses of the command need
            refuse_missing_package(self.name, error)
            raise


def refuse_missing_package(command: str | None, error: ModuleNotFoundError) -> None:
    """Says how to get the package that a command cannot import; does nothing where the missing module is ours."""
    if (error.name or "").partition(".")[0] not in OURS:
        raise click.ClickException(f"`{command}` needs the package {error.name}: {EXTRAS}") from error


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: `--help` needs no torch.

    Args:
        members: by command name, where it is (`"package.module:function"`) and its line of help.
    """

    def __init__(self, *args, members: dict[str, tuple[str, str]], **kwargs):
        super().__init__(*args, **kwargs)
        self.members = members

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.members)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.members:
            return None
        module, function = self.members[name][0].split(":")
        try:
            return getattr(import_module(module), function)
        except ModuleNotFoundError as error:
            refuse_missing_package(name, error)
            raise

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.members.items()])
