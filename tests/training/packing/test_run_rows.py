"""The rows of a run: made by packing, once, and made anew when anything that decides them changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from datasets import Dataset, DatasetDict, load_from_disk  # noqa: E402
from fblt.training.packing.run_rows import rows_for_model, rows_without_starts  # noqa: E402

from modeling_fblt import FBLTForCausalLM  # noqa: E402
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID  # noqa: E402

LENGTH = 32
TEXTS = [f"document {i}: " + "some words é " * (1 + i % 4) for i in range(12)]


def save(folder: Path, texts: list[str] = TEXTS, source: str = "notes") -> Path:
    splits = {"train": texts, "validation": texts[:3]}
    data = {
        split: Dataset.from_dict({"text": found, "source": [source] * len(found)}) for split, found in splits.items()
    }
    DatasetDict(data).save_to_disk(str(folder))
    return folder


@pytest.fixture
def model(tiny_checkpoint) -> FBLTForCausalLM:
    return FBLTForCausalLM.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture
def recipe(tmp_path) -> dict:
    return {"data": str(save(tmp_path / "data")), "output": str(tmp_path / "run"), "sequence_length": LENGTH, "seed": 3}


def folders(recipe: dict) -> set[Path]:
    return set(Path(recipe["output"], "rows").iterdir())


def naive_rows(texts: list[str]) -> torch.Tensor:
    """Documents in this order, end to end, cut into rows."""
    ids = [number for text in texts for number in (BOS_ID, *(byte + BYTE_OFFSET for byte in text.encode()), EOS_ID)]
    return torch.tensor([ids[i : i + LENGTH] for i in range(0, len(ids) - LENGTH + 1, LENGTH)])


@pytest.mark.parametrize("limit", [None, 120])
def test_rows_are_the_shuffled_documents_and_starts_those_of_the_model(recipe, model, limit):
    if limit is not None:
        recipe["max_bytes"] = {"notes": limit}
    found = rows_for_model(recipe, model.model)
    for split in ("train", "validation"):
        texts = load_from_disk(recipe["data"])[split].shuffle(seed=3)["text"][:]
        if limit is not None and split == "train":
            before = np.cumsum([0, *(len(text.encode()) for text in texts)])[:-1]
            texts = [text for text, size in zip(texts, before, strict=True) if size < limit]
        expected = naive_rows(texts)
        assert torch.equal(found[split][:]["input_ids"], expected)
        assert torch.equal(found[split][:]["patch_starts"], model.patch(expected).patch_starts)


def test_the_same_rows_are_made_once(recipe, model):
    rows_for_model(recipe, model.model)
    (folder,) = folders(recipe)
    before = folder.stat().st_mtime_ns
    rows_for_model(recipe, model.model)
    # Another place with the same contents holds the same rows.
    rows_for_model(recipe | {"data": str(save(Path(recipe["data"]).parent / "copy/data"))}, model.model)
    assert folders(recipe) == {folder} and folder.stat().st_mtime_ns == before


def other_text(recipe: dict, model: FBLTForCausalLM) -> None:
    """The same folder, documents and sizes, but one letter is another."""
    save(Path(recipe["data"] + "-new"), [TEXTS[0].replace("d", "D", 1), *TEXTS[1:]])
    Path(recipe["data"]).rename(recipe["data"] + "-old")
    Path(recipe["data"] + "-new").rename(recipe["data"])


def narrower_window(recipe: dict, model: FBLTForCausalLM) -> None:
    model.model.patcher.config.sliding_window = 3


CHANGES = {
    "isolate_documents": lambda recipe, model: setattr(model.config, "isolate_documents", False),
    "threshold": lambda recipe, model: setattr(model.config, "patching_threshold", 5.5),
    "longest patch": lambda recipe, model: setattr(model.config, "max_patch_length", 3),
    "patcher's weights": lambda recipe, model: model.model.patcher.norm.weight.data[0].add_(1e-3),
    "patcher's window": narrower_window,
    "text": other_text,
    "length": lambda recipe, model: recipe.update(sequence_length=LENGTH - 1),
    "limit": lambda recipe, model: recipe.update(max_bytes={"notes": 150}),
    "held-out share": lambda recipe, model: recipe.update(hold_out=0.2),
    "seed": lambda recipe, model: recipe.update(seed=4),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_decides_rows_makes_new_ones(recipe, model, change):
    rows_for_model(recipe, model.model)
    earlier = folders(recipe)
    change(recipe, model)
    rows_for_model(recipe, model.model)
    assert len(folders(recipe) - earlier) == 1 and earlier < folders(recipe)


def test_another_isolation_of_documents_gives_other_starts(recipe, model):
    """The bug that the name of rows had: the same folder was read for both."""
    starts = []
    for isolate in (True, False):
        model.config.isolate_documents = isolate
        rows = rows_for_model(recipe, model.model)["train"][:]
        assert torch.equal(rows["patch_starts"], model.patch(rows["input_ids"]).patch_starts)
        starts.append(rows["patch_starts"])
    assert not torch.equal(*starts)


# --- what texts may stand in ---


def as_files(folder: Path) -> str:
    for i, text in enumerate(TEXTS):
        file = folder / ("train" if i < 8 else "validation") / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(folder)


def as_jsonl(folder: Path) -> str:
    folder.mkdir()
    for split, found in (("train", TEXTS[:8]), ("validation", TEXTS[8:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
    return str(folder)


def as_glob(folder: Path) -> str:
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i:02}.txt").write_text(text)
    return str(folder / "*.txt")


@pytest.mark.parametrize("write", [as_files, as_jsonl, as_glob])
def test_a_run_reads_files_of_text(recipe, model, tmp_path, write):
    recipe["data"] = write(tmp_path / "texts")
    if write is as_glob:
        with pytest.raises(ValueError, match="`hold_out` is missing"):
            rows_for_model(recipe, model.model)
        recipe["hold_out"] = 0.3
    rows = rows_for_model(recipe, model.model)
    alone = rows_without_starts(recipe, tmp_path / "patcher", LENGTH)
    text = "".join(TEXTS)
    for split in ("train", "validation"):
        ids = rows[split][:]["input_ids"]
        assert torch.equal(ids, torch.from_numpy(alone[split]).long()) and len(ids) > 2
        read = bytes(byte - BYTE_OFFSET for byte in ids.flatten().tolist() if byte not in (BOS_ID, EOS_ID))
        assert read.decode(errors="ignore")[:10] in text
    assert len(rows["train"]) > len(rows["validation"])


def test_a_patcher_trains_on_packed_rows_cut_to_its_own_length(recipe, model, tmp_path):
    rows = rows_for_model(recipe, model.model)
    (folder,) = folders(recipe)
    found = rows_without_starts(recipe | {"data": str(folder)}, tmp_path / "patcher", 20)
    for split in ("train", "validation"):
        stream = rows[split][:]["input_ids"].flatten()
        assert found[split].flatten().tolist() == stream[: len(stream) // 20 * 20].tolist()
    assert not (tmp_path / "patcher").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "data/nowhere"}, "`data` 'data/nowhere' does not exist: give a folder, a file"),
        ({"max_bytes": {"nosuch": 1}}, r"`max_bytes` names \['nosuch'\], but the sources are \['notes'\]"),
        ({"sequence_length": 10**6}, "less than one row of `sequence_length` 1000000"),
    ],
)
def test_errors_name_the_recipes_keys(recipe, model, changes, message):
    with pytest.raises(ValueError, match=message):
        rows_for_model(recipe | changes, model.model)
