"""What is known before a run: parameters exactly, operations and memory as a step that is made has them."""

import json

import pytest
import torch
from fblt.training.evaluation.costs.dry_run import Arrival, cache_bytes, dry_step, fake_model, regular_starts
from fblt.training.evaluation.costs.memory import Weights, optimizer_step, sharded_memory, whole_memory
from fblt.training.evaluation.costs.plan import Run, block_operations, fullest_step, main, parameters
from fblt.training.running.optimizers import build_optimizer
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode

from modeling_fblt import FBLTConfig, FBLTForCausalLM
from tests.cli import refusal, succeed
from tests.thorough import long_run
from tests.training.runs import MODEL, write_recipe

PATCH = 4


def tiny(k: int, tables: int = 31, layers: int = 1, **changes) -> FBLTConfig:
    network = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
    local = {**network, "sliding_window": 64}
    return FBLTConfig(
        patching_mode="static",
        patch_size=PATCH,
        max_patch_length=None,
        cross_attn_k=k,
        encoder_config={**local, "hash_vocab_size": tables},
        global_config={**network, "hidden_size": 96, "num_key_value_heads": 1},
        decoder_config=local,
        **changes,
    )


def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 260, (rows, length))
    return {"input_ids": ids, "labels": ids}


def real_model(config: FBLTConfig) -> FBLTForCausalLM:
    torch.manual_seed(0)
    model = FBLTForCausalLM(config).train()
    model.set_attn_implementation("sdpa")
    return model


def a_run(config: FBLTConfig, rows: int, length: int, optimizer: str = "adamw", checkpointing: bool = False) -> Run:
    return Run(config, rows, length, 1, 1, optimizer, False, checkpointing)


@pytest.mark.parametrize(
    ("config", "rows", "length"),
    [
        (tiny(2, block_size=8, corruption="per_block", block_fraction=0.5), 4, 512),
        pytest.param(tiny(1), 2, 96, marks=long_run),
        pytest.param(
            tiny(2, layers=2, block_size=4, corruption="draft", draft_head_config={"hidden_size": 8}),
            4,
            256,
            marks=long_run,
        ),
    ],
)
def test_operations_are_those_that_torch_counts(config, rows, length):
    """The model finds its patches here, and draws its own masks; the plan knows the patches' mean length alone."""
    model = real_model(config)
    model.set_attn_implementation("eager")  # the one whose operations torch counts on CPUs
    with FlopCounterMode(display=False) as counter:
        loss = model(**batch(rows, length)).loss
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    step, _ = fullest_step(a_run(config, rows, length), PATCH, 1)
    planned = step.forward | block_operations(config, rows, length, PATCH)
    assert sum(planned.values()) == pytest.approx(forward, rel=0.02)
    ratio = step.backward / sum(step.forward.values())
    assert ratio * forward == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    ("config", "rows", "length", "optimizer", "checkpointing"),
    [
        # Activations are most of it; then weights and the optimizer's state are; then what is not checkpointed.
        (tiny(2, block_size=8), 2, 512, "adamw", False),
        pytest.param(tiny(2, tables=20_000, block_size=4), 1, 64, "muon", False, marks=long_run),
        pytest.param(tiny(2, tables=5_000, layers=2, block_size=4), 4, 256, "adamw", True, marks=long_run),
    ],
)
def test_memory_is_that_of_a_step(config, rows, length, optimizer, checkpointing):
    """torch's own tracker is the judge, of a second step, when the optimizer has its state."""
    config.diffusion_t_min = 1 - 1e-6  # what is masked does not depend on chance
    model = real_model(config)
    if checkpointing:
        model.activation_checkpointing_enable()
    built = build_optimizer(model, optimizer)
    parts = built.parts.values() if optimizer == "muon" else [built]
    given = batch(rows, length)

    def step() -> None:
        model(**given).loss.backward()
        for part in parts:
            part.step()
        model.zero_grad()

    step()
    tracker = MemTracker()
    tracker.track_external(model, *parts)
    with tracker:
        step()
    (measured,) = tracker.get_tracker_snapshot("peak").values()
    cost, weights = fullest_step(a_run(config, rows, length, optimizer, checkpointing), PATCH, 1)
    backward = whole_memory(weights, cost.arrivals, processes=1, accumulates=False)
    update = optimizer_step(weights, shards=1, at_once=False)
    assert max(sum(backward.values()), sum(update.values())) == pytest.approx(measured["Total"], rel=0.1)


@long_run
def test_a_dry_run_is_a_run_without_values():
    config = tiny(2, block_size=4, draft_head_config={"hidden_size": 8}, corruption="prefix")
    real, fake = (dry_step(model, 2, 160, 3.5) for model in (real_model(config), fake_model(config)))
    assert (real.forward, real.backward) == (fake.forward, fake.backward)
    assert [(a.weight, a.size) for a in real.arrivals] == [(a.weight, a.size) for a in fake.arrivals]
    assert cache_bytes(real_model(config), 600, 3.5) == pytest.approx(
        cache_bytes(fake_model(config), 600, 3.5), abs=100
    )


@pytest.mark.parametrize("config", [tiny(2, block_size=8), FBLTConfig(**MODEL, draft_head_config={"hidden_size": 8})])
def test_parameters_are_those_of_the_model(config):
    counts = parameters(fake_model(config))
    model = FBLTForCausalLM(config)
    assert sum(counts.values()) == sum(weight.numel() for weight in model.parameters())
    assert counts["n-gram tables"] == model.model.encoder.hash_embedding.table.weight.numel()
    assert counts["global"] == sum(weight.numel() for weight in model.model.global_transformer.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=long_run)])
def test_moments_are_those_that_the_optimizer_keeps(optimizer):
    model = real_model(tiny(2, block_size=4))
    built = build_optimizer(model, optimizer)
    model(**batch(1, 64)).loss.backward()
    built.step()
    parts = built.parts.values() if optimizer == "muon" else [built]
    kept = sum(
        value.numel() for part in parts for state in part.state.values() for value in state.values() if value.dim()
    )
    assert Weights.of(model, optimizer).moments == kept


def test_shards_divide_what_is_stored():
    weights = Weights.of(fake_model(tiny(2, block_size=4)), "adamw")
    layers = sorted(weights.in_layers)[:2]
    arrivals = [Arrival("lm_head.weight", 80, 1000), *(Arrival(name, 40, 900) for name in layers)]
    two, eight = (sharded_memory(weights, arrivals, shards, 4, False) for shards in (2, 8))
    for name in ("weights", "optimizer"):
        assert two[name] == 4 * eight[name]
    # A gradient outside of layers is held whole until the end; of those in layers a device keeps its share.
    later = [*arrivals, Arrival("lm_head.weight", 0, 2000)]
    held = [sharded_memory(weights, later, shards, 4, False)["gradients"] for shards in (2, 8)]
    assert held == [80 + 2 * 20, 80 + 2 * 5]


def test_starts_have_the_mean_length_asked_for():
    assert regular_starts(1000, 2.5).sum() == pytest.approx(400, abs=2)


def test_the_command_writes_what_it_prints(tmp_path):
    recipe = write_recipe(tmp_path, "run")
    output = tmp_path / "plan.json"
    printed = succeed(main, recipe, "--gpus", "4", "--shards", "2", "--utilisation", "0.5", "--output", output)
    found = json.loads(output.read_text())
    assert f"{sum(found['parameters'].values()):,}" in printed
    assert found["bytes"] == 4 * 4 * 2 * 96  # steps, processes, rows, bytes
    assert found["hours"] * 3600 * found["bytes_per_second"] == pytest.approx(found["bytes"])
    operations = found["operations_per_byte"]
    assert operations["forward"] == pytest.approx(
        sum(count for name, count in operations.items() if name not in ("forward", "backward"))
    )
    assert found["bytes_per_second"] == pytest.approx(
        4 * 989e12 * 0.5 / (operations["forward"] + operations["backward"])
    )
    assert found["memory_needed"] == max(sum(moment.values()) for moment in found["memory"].values())


@pytest.mark.parametrize(
    ("changes", "options", "named"),
    [
        ({"init_from": "somewhere"}, [], "`init_from`"),
        ({"trainer": {"max_steps": -1}}, [], "`trainer.max_steps`"),
        ({}, ["--gpus", "4", "--shards", "3"], "`shards`"),
    ],
)
def test_what_cannot_be_planned_is_refused(tmp_path, changes, options, named):
    assert named in refusal(main, write_recipe(tmp_path, "run", **changes), *options)
