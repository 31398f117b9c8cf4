"""A tiny random model and a small data set that the training tests share."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("datasets")

from datasets import Dataset, DatasetDict  # noqa: E402

from modeling_fblt import FBLTConfig, FBLTForCausalLM  # noqa: E402

WORDS = ("the", "patch", "of\nbytes", "écrit", "\treturn", "a", "block", "and so on.", "def f(x):")


def tiny_config(**changes) -> FBLTConfig:
    """A config whose random patcher starts patches at irregular positions."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    settings = {
        "block_size": 5,
        "cross_attn_k": 1,
        "patching_threshold": 5.54,
        "patcher_config": {**size, "sliding_window": 64},
        "encoder_config": {**size, "sliding_window": 12, "hash_vocab_size": 31},
        "global_config": size,
        "decoder_config": {**size, "sliding_window": 16},
    }
    return FBLTConfig(**{**settings, **changes})


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A saved FBLT with random weights, with the code it needs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model = FBLTForCausalLM(tiny_config())
    # A head as small as a fresh one leaves every text without any structure to measure.
    model.lm_head.weight.data.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data folder with a `test` split of two sources of different sizes."""
    generator = torch.Generator().manual_seed(0)

    def text(words: int) -> str:
        drawn = torch.randint(len(WORDS), (words,), generator=generator)
        return " ".join(WORDS[i] for i in drawn.tolist())

    rows = [{"source": "code", "text": text(120)} for _ in range(3)]
    rows += [{"source": "prose", "text": text(200)} for _ in range(3)] + [{"source": "prose", "text": "short"}]
    folder = tmp_path_factory.mktemp("data") / "tiny"
    DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(str(folder))
    return folder
