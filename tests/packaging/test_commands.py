"""The base of the command line: refusals, and commands that are imported when they are called."""

import sys

import click
import pytest
from click.testing import CliRunner

from fblt import cli
from fblt.commands import Command, LazyGroup


@click.command(cls=Command)
@click.argument("kind")
def command(kind: str) -> None:
    """One that fails as it is told."""
    raise {"value": ValueError, "file": FileNotFoundError, "bug": KeyError, "pipe": BrokenPipeError}[kind]("the reason")


@pytest.mark.parametrize("kind", ["value", "file"])
def test_a_refusal_is_one_line(kind):
    result = CliRunner().invoke(command, [kind])
    assert (result.exit_code, result.stderr) == (1, "Error: the reason\n")


def test_a_bug_keeps_its_traceback():
    assert isinstance(CliRunner().invoke(command, ["bug"]).exception, KeyError)


def test_a_closed_pipe_is_no_refusal():
    assert "the reason" not in CliRunner().invoke(command, ["pipe"]).stderr


def test_help_lists_every_command_without_importing_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("fblt.conversion")]:
        monkeypatch.delitem(sys.modules, name)
    told = CliRunner().invoke(cli.main, ["--help"]).output
    assert all(f"  {name} " in told for name in cli.COMMANDS)
    assert not [name for name in sys.modules if name.startswith("fblt.conversion")]


def test_a_missing_package_is_named_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    group = LazyGroup(members={"needy": ("needy:main", "Needs much.")})
    result = CliRunner().invoke(group, ["needy"])
    assert result.exit_code == 1 and "a_package_that_is_not_there" in result.stderr and "pip install" in result.stderr


def test_an_unknown_command_is_refused():
    assert CliRunner().invoke(cli.main, ["no-such-command"]).exit_code == 2
