"""The optimizers of recipes."""

import copy

import pytest
import torch
from fblt.training.running.float_muon import FloatMuon, orthogonal
from fblt.training.running.optimizers import NOT_FOR_MUON, build_optimizer
from torch.optim import Muon
from transformers import get_scheduler

from modeling_fblt import FBLTForCausalLM
from tests.modeling.tiny import tiny_config


def model() -> FBLTForCausalLM:
    torch.manual_seed(0)
    return FBLTForCausalLM(tiny_config())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_trained_parameter_is_in_exactly_one_group(name):
    lm = model()
    optimizer = build_optimizer(lm, name)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in lm.parameters() if p.requires_grad)


def test_muon_gets_matrices_of_layers_and_neither_tables_nor_heads():
    lm = model()
    names = {id(p): n for n, p in lm.named_parameters()}
    muon = build_optimizer(lm, "muon").parts["muon"]
    chosen = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    assert "model.decoder.layers.0.attention.q_proj.weight" in chosen
    assert not [n for n in chosen if any(part in n for part in NOT_FOR_MUON)]


def test_a_schedule_changes_what_both_parts_use():
    optimizer = build_optimizer(model(), "muon")
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert all(g["lr"] == 0.5 * g["initial_lr"] for part in optimizer.parts.values() for g in part.param_groups)


def test_a_restored_optimizer_steps_as_the_saved_one():
    first, ids = model(), torch.randint(4, 260, (2, 24))
    optimizer = build_optimizer(first, "muon")

    def step(lm, opt, seed):
        torch.manual_seed(seed)
        lm.train()(ids, labels=ids).loss.backward()
        opt.step()
        opt.zero_grad()

    step(first, optimizer, 1)
    second = copy.deepcopy(first)
    restored = build_optimizer(second, "muon")
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(first, optimizer, 2)
    step(second, restored, 2)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_unknown_optimizer_is_refused_by_name():
    with pytest.raises(ValueError, match="sgd"):
        build_optimizer(model(), "sgd")


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("schedule", "settings", "shares"),
    [
        # Shares of the full rate after 0, 5, 10, 55, 100 of 100 steps, the first ten of them warm-up.
        ("cosine", {}, [0, 0.5, 1, 0.5, 0]),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 20, "decay_type": "linear", "min_lr_ratio": 0.0},
            [0, 0.5, 1, 1, 0],
        ),
    ],
)
def test_the_trainers_schedules_move_every_group(name, schedule, settings, shares):
    optimizer = build_optimizer(model(), name)
    full = [group["lr"] for group in optimizer.param_groups]
    scheduler = get_scheduler(schedule, optimizer, 10, 100, scheduler_specific_kwargs=settings)
    found = {}
    for step in range(101):
        found[step] = [group["lr"] / rate for group, rate in zip(optimizer.param_groups, full, strict=True)]
        optimizer.step()
        scheduler.step()
    for step, share in zip((0, 5, 10, 55, 100), shares, strict=True):
        assert found[step] == pytest.approx([share] * len(full), abs=1e-9)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_muon_in_float32_is_torchs_but_for_rounding(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    moved = {}
    for kind in (Muon, FloatMuon):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.02, weight_decay=0.05)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        moved[kind] = parameter.detach() - start
        assert optimizer.state_dict()["state"][0]["momentum_buffer"].shape == shape
    assert (moved[Muon] - moved[FloatMuon]).norm() < 0.02 * moved[Muon].norm()


def test_muon_is_in_float32_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr("fblt.training.running.optimizers.is_bfloat16_slow", lambda parameters: False)
    kinds = [type(build_optimizer(model(), "muon", muon_float32=wanted).parts["muon"]) for wanted in (False, True)]
    assert kinds == [Muon, FloatMuon]
    with pytest.raises(ValueError, match="muon_float32"):
        build_optimizer(model(), "adamw", muon_float32=True)


def test_an_orthogonalised_matrix_has_singular_values_near_one():
    torch.manual_seed(0)
    muon = Muon([torch.nn.Parameter(torch.zeros(2, 2))])
    settings = muon.param_groups[0]
    found = orthogonal(torch.randn(12, 30), settings["ns_coefficients"], settings["ns_steps"], settings["eps"])
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.5
