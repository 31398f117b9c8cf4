"""Documents to pack, options to pack them with, and the model that finds their patches."""

import json
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from datasets import Dataset, DatasetDict  # noqa: E402
from fblt.training.packing.options import PackOptions  # noqa: E402

from modeling_fblt import FBLTForCausalLM  # noqa: E402
from tests.training.packing.packs import LENGTH, texts  # noqa: E402


@pytest.fixture
def documents(tmp_path) -> Path:
    """A folder as `fblt prepare` makes it: two sources, two splits, a manifest, notices."""
    folder = tmp_path / "documents"
    rows = {split: texts(40, seed) for seed, split in enumerate(("train", "validation"))}
    data = {
        split: Dataset.from_dict({"text": found, "source": ["code", "prose"] * (len(found) // 2)})
        for split, found in rows.items()
    }
    DatasetDict(data).save_to_disk(str(folder))
    sources = [{"name": "code", "license": "PSF-2.0"}, {"name": "prose", "license": "CC0-1.0"}]
    (folder / "manifest.json").write_text(json.dumps({"script": "fblt prepare demo", "sources": sources}))
    (folder / "licenses").mkdir()
    (folder / "licenses" / "code.txt").write_text("free")
    return folder


@pytest.fixture
def options(documents, tiny_checkpoint, tmp_path):
    """Makes options; those not named are for packing `documents`."""

    def make(**changes) -> PackOptions:
        settings = {
            "source": [str(documents)],
            "output": tmp_path / "packed",
            "sequence_length": LENGTH,
            "batch_size": 2,
            "model": None if changes.get("patch_online") or "recipe" in changes else str(tiny_checkpoint),
        }
        return PackOptions(**(settings | changes))

    return make


@pytest.fixture
def model(tiny_checkpoint) -> FBLTForCausalLM:
    return FBLTForCausalLM.from_pretrained(tiny_checkpoint).eval()
