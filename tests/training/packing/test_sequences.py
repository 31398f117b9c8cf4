"""Packing documents into rows, and finding their patch starts."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from fblt.training.packing.sequences import collate, encode_document, find_patch_starts, limit_sources, pack

from modeling_fblt import FBLTModel
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID
from tests.modeling.tiny import tiny_config


def test_a_document_is_its_bytes_between_bos_and_eos():
    ids = encode_document("é\t")
    assert ids.tolist() == [BOS_ID, 0xC3 + BYTE_OFFSET, 0xA9 + BYTE_OFFSET, 9 + BYTE_OFFSET, EOS_ID]


def test_packed_rows_are_the_documents_end_to_end():
    texts = ["abc", "defgh", "ij"]
    rows = pack(texts, 4)
    stream = np.concatenate([encode_document(text) for text in texts])
    assert rows.shape[1] == 4
    assert (rows.flatten() == stream[: rows.size]).all()
    assert len(stream) - rows.size < 4


def test_too_little_text_for_one_row_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="sequence_length"):
        pack(["ab"], 100)


def test_limits_keep_whole_documents_and_leave_other_sources_alone():
    documents = Dataset.from_dict({"source": ["a"] * 6 + ["b"] * 3, "text": ["x" * 10] * 9})
    kept = limit_sources(documents, {"a": 25}, seed=0)
    assert sorted(kept["source"]) == ["a"] * 3 + ["b"] * 3
    assert set(kept["text"]) == {"x" * 10}


def test_a_limit_for_an_unknown_source_is_refused_by_name():
    documents = Dataset.from_dict({"source": ["a"], "text": ["x"]})
    with pytest.raises(ValueError, match="nosuch"):
        limit_sources(documents, {"nosuch": 1}, seed=0)


def test_precomputed_patch_starts_are_those_the_model_finds_itself():
    torch.manual_seed(0)
    model = FBLTModel(tiny_config()).eval()
    rows = pack(["some text to patch " * 20], 32)
    found = find_patch_starts(model, rows, batch_size=3)
    ids = torch.from_numpy(rows.astype(np.int64))
    assert (torch.from_numpy(found) == model.patch(ids).patch_starts).all()


def test_collated_labels_are_the_bytes_themselves():
    rows = [{"input_ids": torch.arange(4, 8), "patch_starts": torch.tensor([1, 1, 0, 0, 1])} for _ in range(2)]
    batch = collate(rows)
    assert batch["input_ids"].dtype == torch.long
    assert batch["patch_starts"].dtype == torch.bool
    assert (batch["labels"] == batch["input_ids"]).all()
