"""The manifest of a data folder: what it holds and where that came from."""

import json
from pathlib import Path

MANIFEST = "manifest.json"
PACK = "fblt pack"  # as a manifest's `script`: the folder holds packed rows
PACK_NAMES = (PACK, "training.pack")  # the second is what folders of earlier versions say


def is_packed(data: str | Path) -> bool:
    """Whether a data folder holds packed rows rather than documents."""
    return read_manifest(data).get("script") in PACK_NAMES


def read_manifest(data: str | Path) -> dict:
    """The manifest of a data folder; empty where there is none.

    Raises:
        ValueError: it is damaged.
    """
    file = Path(data) / MANIFEST
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise ValueError(f"{file}: is damaged, or no manifest of a data folder: make the folder anew.")
    return manifest


def described_sources(data: str | Path) -> dict[str, str]:
    """Licences of the sources that a data folder's manifest names.

    Raises:
        ValueError: it is damaged.
    """
    sources = read_manifest(data).get("sources", [])
    try:
        found = {part["name"]: part["license"] for part in sources}
    except (TypeError, KeyError):
        found = {None: None}
    if not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise ValueError(
            f"{Path(data) / MANIFEST}: `sources` does not name sources and licences: make the folder anew."
        )
    return found
