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
    """The manifest of a data folder; empty where there is none."""
    file = Path(data) / MANIFEST
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
