"""Operators, waits and allocations: counted rightly on operations written here, and no more of them than promised."""

import json
from pathlib import Path

import pytest
import torch
from fblt.benchmarks import operators
from fblt.benchmarks.decoding import bundled_prompts
from fblt.benchmarks.decoding_modes import ANY_MODEL, WITH_BLOCKS
from fblt.benchmarks.random_models import geometry_tiny, random_model

from modeling_fblt import FBLTForCausalLM
from tests.cli import succeed

BUNDLED = Path(__file__).resolve().parents[2] / "checkpoints" / "fblt-demo"
# Operators of an iteration of the bundled checkpoint, and waits: as measured, and a little above, since acceptance,
# which decides how often the global transformer runs, may differ by a machine's rounding.
CEILINGS = {"ar": (260, 4.5), "blt-s 8": (870, 4.5), "blt-dv one-step": (460, 4.5)}


def counted(call) -> operators.Launches:
    with operators.CountLaunches() as mode:
        call()
    return mode.by_part.get(operators.LOOP, operators.Launches())


def test_views_are_no_operators():
    x = torch.randn(2, 3, 4)
    launches = counted(lambda: x.transpose(0, 1)[1:].unsqueeze(0).expand(5, -1, -1, -1))
    assert (launches.operators.total(), launches.views, launches.allocations) == (0, 4, 0)


def test_what_computes_or_writes_is_an_operator():
    x = torch.zeros(8)
    launches = counted(lambda: (x[:4].copy_(x[4:]), x.add_(1), x + 1))
    assert launches.operators == {"aten.copy_": 1, "aten.add_": 1, "aten.add": 1}
    assert (launches.allocations, launches.allocated_bytes) == (1, 32)


def test_reads_by_the_host_are_waits():
    x = torch.arange(4)
    launches = counted(lambda: (int(x.max()), x.tolist(), x[x > 1], torch.tensor([1, 2])))
    assert launches.waits == {"aten._local_scalar_dense": 1, "list": 1, "boolean index": 1, "constant": 1}
    before = torch.Tensor.tolist
    counted(lambda: x.tolist())
    assert torch.Tensor.tolist is before


def test_parts_add_up_and_repeat():
    model = random_model(geometry_tiny(block_size=6), torch.float32)
    prompts = bundled_prompts(40)[:1]
    first, again = (operators.count_decoding(model, prompts, {"decoding": "blt-dv"}, 16) for _ in range(2))
    assert first == again
    assert sum(first["operators_by_part"].values()) == pytest.approx(first["operators_per_iteration"])
    assert sum(first["operators_by_name"].values()) == pytest.approx(first["operators_per_iteration"])
    assert first["operators_per_byte"] * first["bytes_per_iteration"] == pytest.approx(first["operators_per_iteration"])
    assert "forward" not in vars(model.model.decoder)  # nothing of the counting is left behind


def test_script(tmp_path):
    output = tmp_path / "operators.json"
    succeed(operators.main, "--quick", "--plot", "--geometry", "tiny", "--output", output)
    results = json.loads(output.read_text())
    assert {"ar", "blt-s 8", "blt-dv one-step"} <= set(results["modes"])


@pytest.mark.parametrize("name", CEILINGS)
def test_an_iteration_launches_no_more_than_promised(name):
    model = FBLTForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    figures = operators.count_decoding(model, bundled_prompts(160)[:1], {**ANY_MODEL, **WITH_BLOCKS}[name], 32)
    most_operators, most_waits = CEILINGS[name]
    assert figures["operators_per_iteration"] <= most_operators
    assert figures["waits_per_iteration"] <= most_waits
    assert figures["waits_per_iteration"] <= figures["network_calls_per_iteration"] + 2
