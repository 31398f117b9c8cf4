"""Compiled layers train as they are: the same losses and gradients, step by step."""

import pytest
import torch
from fblt.training.recipe import load_recipe
from fblt.training.run import run

from tests.thorough import few, long_run
from tests.training.forked import fork
from tests.training.runs import losses, write_recipe
from tests.training.test_distributed import TRAINER, WHOLE_BLOCKS, assert_same_logs
from tests.training.test_resharding import train


@pytest.mark.parametrize("backend", few(["eager", "aot_eager", "inductor"], ["eager"]))
def test_a_run_with_compiled_layers_has_the_losses_of_one_without(tmp_path, backend):
    """With layers computed twice, patches of other numbers in every step, and an evaluation in between."""
    torch._dynamo.reset()
    trainer = {"max_steps": 3, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    trainer["activation_checkpointing"] = True
    settings = {"optimizer": {"name": "adamw", "learning_rate": 1e-3}, "trainer": trainer}
    run(load_recipe(write_recipe(tmp_path, "plain", **settings)))
    torch._dynamo.utils.counters.clear()
    run(load_recipe(write_recipe(tmp_path, "compiled", compile_layers=backend, **settings)))
    expected, found = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert list(expected) == [1, 2, 3]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for step, entry in expected.items():
        assert found[step] == pytest.approx(entry, rel=1e-5), step


@long_run
@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp_cpu", "fsdp2_cpu"])
def test_two_processes_with_compiled_layers_train_as_one_without(tmp_path, config):
    one, two = (
        write_recipe(
            tmp_path,
            name,
            WHOLE_BLOCKS,
            {**TRAINER, "per_device_train_batch_size": batch},
            optimizer={"name": "adamw", "learning_rate": 1e-3},
            **changes,
        )
        for name, batch, changes in (("one", 4, {}), ("two", 2, {"compile_layers": "aot_eager"}))
    )
    train(one)
    fork(config, 2, train, two)
    assert_same_logs(tmp_path / "one", tmp_path / "two")


def test_an_unknown_backend_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="`compile_layers` is True: give one of"):
        load_recipe(write_recipe(tmp_path, "unknown", compile_layers=True))
