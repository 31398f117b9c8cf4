"""The wheel, installed where no checkout is: what it holds, its commands, a model loaded, converted and trained."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fblt import __version__
from tests.conversion.checkpoints import FIXTURE, needs_fixture, write_training
from tests.thorough import long_run
from tests.training.runs import write_recipe

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("conversion", "training", "benchmarks")
pytestmark = pytest.mark.slow

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def call(*command, cwd: Path, **environment: str) -> str:
    """Output of a process that sees nothing of this one's import paths."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shipped() -> set[str]:
    """The files that a wheel has to hold, by the names it holds them under."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = set()
    for name in tracked:
        top, *inner = name.split("/")
        if "examples" in inner or not name.endswith((".py", ".yaml")):
            continue
        if top in ROOMS:
            found.add(f"fblt/{name}")
        elif top in ("fblt", "modeling_fblt"):
            found.add(name)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that neither an earlier build nor a stray file gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("conversion", "training", "benchmarks", "fblt", "modeling_fblt"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    call(*command, "--wheel-dir", folder, folder / "source", cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Scripts of a fresh environment that has the wheel, and what this one has but for an editable checkout."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    site = call(
        scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder.parent
    ).strip()
    # A path in a .pth file is searched, but .pth files that lie there are not read: those of an editable install.
    paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(site) / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    command = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet", "--no-deps"]
    call(*command, "--no-index", wheel, cwd=folder.parent)
    return scripts


def test_it_holds_every_module_under_one_name(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"fblt-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"fblt", "modeling_fblt", info}
    assert {name for name in names if not name.startswith(info)} == shipped()


def test_every_module_imports_and_every_command_explains_itself(installed, tmp_path):
    script = """
import importlib, json, pkgutil, sys, fblt, modeling_fblt
from click.testing import CliRunner
from fblt.cli import COMMANDS, main
for package in (fblt, modeling_fblt):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
for name in COMMANDS:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output, (name, result.output, result.exception)
print(json.dumps([fblt.__file__, modeling_fblt.__file__]))
"""
    files = json.loads(call(installed / "python", "-c", script, cwd=tmp_path).splitlines()[-1])
    assert all(Path(file).is_relative_to(installed.parent) for file in files)


def test_the_console_command(installed, tmp_path):
    assert __version__ in call(installed / "fblt", "--version", cwd=tmp_path)
    told = call(installed / "fblt", "--help", cwd=tmp_path)
    assert all(name in told for name in ("convert", "train"))


def test_it_loads_the_bundled_checkpoint(installed, tmp_path):
    script = """
import sys, modeling_fblt
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert type(model) is modeling_fblt.FBLTForCausalLM
ids = AutoTokenizer.from_pretrained(sys.argv[1])("def main():", return_tensors="pt")
print(model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] - ids.input_ids.shape[1])
"""
    checkpoint = ROOT / "checkpoints" / "fblt-demo"
    assert call(installed / "python", "-c", script, checkpoint, cwd=tmp_path).split() == ["4"]


@long_run
def test_it_converts(installed, tmp_path):
    write_training(tmp_path / "source")
    call(installed / "fblt", "convert", "--source", "source", "--output", "converted", cwd=tmp_path)
    assert "AutoModel" in json.loads((tmp_path / "converted" / "config.json").read_text())["auto_map"]


@needs_fixture
def test_it_converts_the_fixture(installed, tmp_path):
    told = call(installed / "fblt", "convert", "--source", FIXTURE, "--output", "converted", cwd=tmp_path)
    assert "logits" in told and (tmp_path / "converted" / "model.safetensors").is_file()


@long_run
def test_it_trains(installed, tmp_path):
    recipe = write_recipe(tmp_path, "run", trainer={"max_steps": 2})
    call(installed / "fblt", "train", recipe, cwd=tmp_path, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()
