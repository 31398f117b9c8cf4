"""Commands called as a shell calls them."""

import click
from click.testing import CliRunner, Result


def call(command: click.Command, *arguments: object) -> Result:
    """Runs a command; an error that is no refusal, which a shell would show as a traceback, is raised."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(command: click.Command, *arguments: object) -> str:
    """Runs a command that must succeed; returns what it printed."""
    result = call(command, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(command: click.Command, *arguments: object) -> str:
    """Runs a command that must be refused with one clean message; returns that."""
    result = call(command, *arguments)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output, result.output
    return result.stderr
