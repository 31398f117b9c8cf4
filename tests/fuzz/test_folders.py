"""Hostile and damaged folders, given to everything that reads folders: it is right, or refused with a clear error.

`FBLT_THOROUGH=1` tries many more. What is refused raises ValueError or OSError with a message; a bare KeyError,
AttributeError or RuntimeError, a hang, or a wrong result is a failure.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

pytest.importorskip("datasets")

from fblt.conversion.convert_blt import convert  # noqa: E402
from fblt.training.packing.build import pack_corpus  # noqa: E402
from fblt.training.packing.options import PackOptions  # noqa: E402
from fblt.training.packing.patching import load_trained_patcher  # noqa: E402
from fblt.training.packing.run_rows import rows_for_model  # noqa: E402
from fblt.training.recipe import load_recipe  # noqa: E402
from fblt.training.run import run  # noqa: E402
from fblt.training.running.checkpoints import newest_checkpoint, set_damaged_aside  # noqa: E402

from modeling_fblt import FBLTConfig, FBLTForCausalLM  # noqa: E402
from modeling_fblt.networks_fblt import FBLTPatcher  # noqa: E402
from tests.conversion.checkpoints import write_hub, write_training, write_transformers  # noqa: E402
from tests.fuzz.damage import damage, within  # noqa: E402
from tests.thorough import cases  # noqa: E402
from tests.training.runs import MODEL, write_recipe  # noqa: E402

SECONDS = 60  # the longest that a refusal may take, of the process's own time


def attack(whole: Path, tmp_path: Path, number: int, use: Callable[[Path], None], refusals: tuple, **settings) -> None:
    """Damages a copy of a folder `number` times, each time anew, and uses it."""
    failures = []
    for seed in range(number):
        folder = tmp_path / "attacked" / whole.name
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(whole, folder)
        elsewhere = folder.parent / "elsewhere"
        elsewhere.write_text("a secret")
        done = damage(folder, random.Random(seed), elsewhere, **settings)
        try:
            with within(SECONDS):
                use(folder)
        except refusals as error:
            if not str(error):
                failures.append(f"{seed}: {done}: {type(error).__name__} without a message")
        except BaseException as error:
            failures.append(f"{seed}: {done}: {type(error).__name__}: {str(error)[:150]}")
    assert not failures, f"{len(failures)} of {number}:\n" + "\n".join(failures)


# --- conversion ---


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_training(folder / "training")
    write_hub(folder / "meta", folder / "training")
    write_transformers(folder / "transformers")
    return folder


@pytest.mark.parametrize("layout", ["training", "meta", "transformers"])
def test_convert(sources, tmp_path, layout):
    convert(str(sources / layout), tmp_path / "whole", validate=False)
    expected = FBLTForCausalLM.from_pretrained(tmp_path / "whole").state_dict()

    def use(folder: Path) -> None:
        output = folder.parent / "out"
        try:
            convert(str(folder), output, validate=False)
        except BaseException:
            assert not output.exists() and not list(folder.parent.glob(".out*"))
            raise
        assert not any(b"a secret" in file.read_bytes() for file in output.rglob("*") if file.is_file())
        model = FBLTForCausalLM.from_pretrained(output)
        if layout == "training":  # whose pickles have checksums
            torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)
        shutil.rmtree(output)

    attack(sources / layout, tmp_path, cases(12, 700), use, (ValueError, OSError))


# --- training ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A patcher, packed rows and a run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder, "run", trainer={"save_steps": 1, "max_steps": 2})
    options = {"source": [f"words={folder / 'data'}"], "license": {"words": "CC0-1.0"}, "sequence_length": 96}
    pack_corpus(PackOptions(**options, output=folder / "packed", recipe=str(recipe)))
    run(load_recipe(recipe))
    return folder


def test_a_patcher(trained, tmp_path):
    patcher = FBLTPatcher(FBLTConfig(**MODEL).patcher_config)
    threshold = load_trained_patcher(patcher, trained / "patcher")
    assert isinstance(threshold, float)
    attack(
        trained / "patcher",
        tmp_path,
        cases(40, 2000),
        lambda folder: load_trained_patcher(patcher, folder),
        (ValueError, OSError),
    )


def test_packed_rows(trained, tmp_path):
    recipe = load_recipe(trained / "run.yaml")
    model = FBLTForCausalLM.from_pretrained(trained / "run/final").model
    whole = rows_for_model(recipe | {"data": str(trained / "packed")}, model)

    def use(folder: Path) -> None:
        found = rows_for_model(recipe | {"data": str(folder)}, model)
        for split, rows in whole.items():
            for column in ("input_ids", "patch_starts"):
                assert torch.equal(found[split][:][column], rows[:][column])

    attack(trained / "packed", tmp_path, cases(25, 1500), use, (ValueError, OSError))


def test_checkpoints(trained, tmp_path):
    def use(folder: Path) -> None:
        set_damaged_aside(folder)
        newest = newest_checkpoint(folder)
        whole = trained / "run" / newest.name
        for file in whole.rglob("*"):
            if file.is_file() and file.suffix != ".py":
                assert (newest / file.relative_to(whole)).read_bytes() == file.read_bytes()

    attack(trained / "run", tmp_path, cases(25, 1500), use, (ValueError, OSError), files=("checkpoint-*/*",))


# --- loading ---


def test_from_pretrained(trained, tmp_path):
    ids = torch.arange(4, 40)[None]
    expected = FBLTForCausalLM.from_pretrained(trained / "run/final")(ids).logits.shape

    def use(folder: Path) -> None:
        logits = FBLTForCausalLM.from_pretrained(folder)(ids).logits
        assert logits.shape == expected

    # The last is what the reader of JSON says of 5,000 brackets, and transformers passes on.
    refusals = (ValueError, OSError, TypeError, SafetensorError, RecursionError)
    attack(trained / "run/final", tmp_path, cases(25, 1500), use, refusals, files=("config.json", "*.safetensors"))
