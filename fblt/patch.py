"""Shows where a model starts patches in a text.

    fblt patch checkpoints/fblt-demo "She had been expecting her sister"
    fblt patch checkpoints/fblt-demo README.md --output patches.html

A line of the output is a patch: its length in bytes, the entropy of the patcher before its first byte, in nats, and the
text. Where the model patches without entropies, `-` stands for them. Bytes that are no text of their own, such as half
a character, are shown as `\\xe4`; newlines and tabs are shown as `\\n` and `\\t`.
"""

from pathlib import Path

import click

from .commands import Command
from .files import appearing_file, write_text_atomically
from .inputs import MODEL, TEXT, load, read_text
from .patch_html import patches_page
from .patches import Patches, find_patches

FORMATS = ("html", "svg", "png")
LONGEST_PICTURE = 10_000  # bytes; what is longer nobody looks at, and takes minutes to draw


@click.command(cls=Command)
@MODEL
@TEXT
@click.option("--output", type=click.Path(path_type=Path), help="Draw them: a file that ends in .html, .svg or .png.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, mps.")
def main(model: str, text: str, output: Path | None, device: str) -> None:
    """Show the patches that MODEL, a folder or a Hub repository, makes of TEXT.

    TEXT is a text, the path of a file of UTF-8 text, or `-`, the default, for standard input.
    """
    content, name = read_content(text)
    if output is not None:
        check_picture(output, content)
    network, _ = load(model, device)
    patches = find_patches(network, content)
    if output is None:
        show(patches)
    else:
        title = f"Patches of {name or 'a text'} by {Path(model).resolve().name}"
        draw(patches, title, output)
    click.echo(patches.summary)


def read_content(text: str) -> tuple[bytes, str | None]:
    """The bytes of an argument, and the name of the file that they are read from, if it names one.

    Raises:
        ValueError: no byte, or no UTF-8.
    """
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long a name, or a null byte: a text
        is_file = False
    if not is_file:
        return read_text(text).encode(), None
    content = path.read_bytes()
    if not content:
        raise ValueError(f"text: the file {path} is empty; give at least one byte")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"text: the file {path} is no UTF-8 ({error}); convert it first") from error
    return content, path.name


def check_picture(output: Path, content: bytes) -> None:
    """Raises a ValueError where no picture can be drawn, before any work."""
    if output.suffix[1:].lower() not in FORMATS:
        raise ValueError(f"--output {output}: give a name that ends in .html, .svg or .png")
    if len(content) > LONGEST_PICTURE:
        raise ValueError(
            f"--output {output}: the text has {len(content)} bytes, a picture shows at most {LONGEST_PICTURE}; give "
            "a part of it, or leave --output out to list its patches"
        )


def show(patches: Patches) -> None:
    """Prints a line per patch."""
    for start, end in zip(patches.starts, [*patches.starts[1:], len(patches.content)], strict=True):
        entropy = "-" if patches.entropies is None else f"{patches.entropies[start]:.2f}"
        shown = patches.content[start:end].decode(errors="backslashreplace").replace("\n", "\\n").replace("\t", "\\t")
        click.echo(f"{end - start:>4}  {entropy:>5}  {shown}")


def draw(patches: Patches, title: str, output: Path) -> None:
    """Writes a picture; its format is the name's ending."""
    form = output.suffix[1:].lower()
    if form == "html":
        write_text_atomically(output, patches_page(patches, title))
    else:
        from .patch_figure import patches_figure  # here: matplotlib is not needed to list patches

        with appearing_file(output) as file:
            file.write_bytes(patches_figure(patches, title, form))


if __name__ == "__main__":
    main()
