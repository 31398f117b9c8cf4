"""What MkDocs does beside its plugins: it takes in pages that lie elsewhere, and writes the page of commands.

The rooms keep their READMEs, and a reader of the repository follows links from page to page. On the site the same
files are pages, and a link to anything else of the repository becomes its name.
"""

import posixpath
import re
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from fblt.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
# By its name in the repository, what becomes which file of the site.
TAKEN_IN = {
    "training/README.md": "rooms/training.md",
    "benchmarks/README.md": "rooms/benchmarks.md",
    "conversion/README.md": "rooms/conversion.md",
    "CONTRIBUTING.md": "rooms/contributing.md",
    "CHANGELOG.md": "rooms/changelog.md",
    "checkpoints/fblt-demo/README.md": "rooms/model-card.md",
    "README.md": "index.md",
    "benchmarks/results/decoding.png": "images/decoding.png",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside of `docs/`, and the page of commands."""
    for source, place in TAKEN_IN.items():
        content = (ROOT / source).read_bytes()
        if place.endswith(".md"):
            content = FRONT_MATTER.sub("", content.decode())
        files.append(File.generated(config, place, content=content))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links of the repository links of the site."""
    places = {place: source for source, place in TAKEN_IN.items()}
    here = page.file.src_uri
    source = places.get(here, f"docs/{here}")

    def replaced(match: re.Match) -> str:
        image, text, target = match.groups()
        path, hash_sign, fragment = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return match.group()
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = TAKEN_IN.get(named, named.removeprefix("docs/") if named.startswith("docs/") else None)
        if place is None:
            return text if text.startswith("`") or text == named else f"{text} (`{named}`)"
        link = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{image}[{text}]({link}{hash_sign}{fragment})"

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(replaced, markdown[end : fence.start()]), fence.group()]
        end = fence.end()
    return "".join([*parts, LINK.sub(replaced, markdown[end:])])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings name types as transformers' do, [`Like`] this; on a page that is the name."""
    return re.sub(r"\[(<code>\w+</code>)\]", r"\1", html)


def commands_page() -> str:
    """The help of every command, as the terminal shows it."""
    context = click.Context(main, info_name="fblt", terminal_width=100)
    parts = ["# Commands", "Without an installed `fblt`, `python -m fblt COMMAND` does the same in a checkout."]
    for name in COMMANDS:
        parts += _help(main.get_command(context, name), name, context)
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command, name: str, parent: click.Context) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100)
    parts = [f"## {context.command_path}", f"```text\n{command.get_help(context)}\n```"]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            parts += _help(command.get_command(context, inner), inner, context)
    return parts
