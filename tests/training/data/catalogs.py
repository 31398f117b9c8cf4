"""Message catalogues for tests."""

import struct


def make_catalog(pairs: dict[str, str], order: str = "<") -> bytes:
    """A .mo file as `msgfmt` lays it out."""
    keys = sorted(pairs, key=str.encode)
    originals, translated, body = [], [], b""
    start = 28 + 16 * len(keys)
    for table, texts in ((originals, keys), (translated, [pairs[key] for key in keys])):
        for text in texts:
            data = text.encode()
            table.append((len(data), start + len(body)))
            body += data + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, start)
    return head + b"".join(struct.pack(f"{order}2I", *entry) for entry in originals + translated) + body
