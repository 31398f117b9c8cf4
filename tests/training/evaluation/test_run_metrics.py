"""What a run measures: sums on the device that every device can hold."""

import pytest
import torch

pytest.importorskip("datasets")

from fblt.training.evaluation.next_bytes import next_byte_figures  # noqa: E402
from fblt.training.evaluation.run_metrics import StepSums  # noqa: E402
from fblt.training.evaluation.samples import EncodedDocument  # noqa: E402
from fblt.training.packing.sequences import encode_document  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from modeling_fblt import FBLTForCausalLM  # noqa: E402


class WithoutDoubles(TorchDispatchMode):
    """A device that has no float64, as Apple's."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise TypeError(f"{function} makes float64")
        return result


def batch() -> tuple[dict, dict]:
    inputs = {
        "input_ids": torch.zeros(2, 6, dtype=torch.long),
        "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]),
        "patch_starts": torch.tensor([[1, 0, 1, 0, 0, 1, 1], [1, 0, 1, 1, 1, 1, 1]]).bool(),
    }
    losses = {"next_byte_loss": torch.tensor(1.5), "diffusion_loss": torch.tensor(0.25)}
    return inputs, {name: loss.requires_grad_() for name, loss in losses.items()}


def test_sums_of_a_run_need_no_doubles_and_count_beyond_what_floats_can():
    with WithoutDoubles():
        sums = StepSums(torch.device("cpu"))
        sums.counts += 2**40  # float32 would lose the single bytes that follow
        for _ in range(3):
            sums.add(*batch())
        again = StepSums(torch.device("cpu"))
        again.restore(sums.state())
        found = again.figures(again.losses, again.counts, step=3)
    assert again.counts.tolist()[:2] == [2**40 + 27, 2**40 + 15]
    assert (found["next_byte_loss"], found["diffusion_loss"]) == (1.5, 0.25)


def test_next_byte_figures_need_no_doubles_on_the_device(tiny_checkpoint):
    model = FBLTForCausalLM.from_pretrained(tiny_checkpoint).eval()
    documents = [EncodedDocument("prose", encode_document("some words to read, and others").astype("int64"))]
    with WithoutDoubles():
        assert next_byte_figures(model, documents, 16, 2)["all"]["bytes"] == 30
