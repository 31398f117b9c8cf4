"""Compiled message catalogues (`.mo`) -> their messages and translations."""

import struct
from collections.abc import Iterator


def translations(data: bytes) -> Iterator[str]:
    """The translations in a catalogue's order, plural forms one by one; see [`messages`]."""
    for _, forms in messages(data):
        yield from forms


def messages(data: bytes) -> Iterator[tuple[list[str], list[str]]]:
    """Messages and their translations in a catalogue's order; its header and messages left as they were are left out.

    Yields:
        The message, or its singular and plural; and the translation, or its plural forms.

    Raises:
        ValueError: `data` is no catalogue.
    """
    for order in "<>":
        if len(data) >= 20 and struct.unpack_from(f"{order}I", data)[0] == 0x950412DE:
            break
    else:
        raise ValueError("`data` does not begin as a message catalogue does: give the bytes of a .mo file.")
    count, originals, translated = struct.unpack_from(f"{order}3I", data, 8)
    for index in range(count):
        sides = []
        for table in (originals, translated):
            size, start = struct.unpack_from(f"{order}2I", data, table + 8 * index)
            sides.append(data[start : start + size].decode("utf-8", "replace"))
        message, translation = sides
        message = message.rpartition("\x04")[2]  # what stands before is the message's context
        if message and translation != message:
            yield message.split("\0"), translation.split("\0")
