"""Publishing: a complete folder goes up whole, an incomplete one not at all, and what went up loads by revision.

The stub's server stands on loopback; `huggingface_hub` and transformers talk to it as they would to the Hub. Storage by
hf-xet is turned off, because that protocol's own server is not there: large files go by Git LFS instead.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fblt.training.publishing.push import files_to_send, missing_parts, push

from modeling_fblt import FBLTForCausalLM
from tests.modeling.tiny import random_rows, tiny_model
from tests.training.publishing.hub_stub import TOKEN, running_hub

REPOSITORY = Path(__file__).parents[3]
CARD = """---
license: apache-2.0
library_name: transformers
---

# tiny

```python
folder = "checkpoints/tiny"
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
```
"""
AT_HOME = ("optimizer.pt", "trainer_state.json", "training_args.bin", "notes.docx")

PUSH = """
import sys
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from pathlib import Path
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from modeling_fblt import FBLTForCausalLM
from fblt.training.publishing import push
from tests.cli import refusal, succeed
first, second, sharded, trained = sys.argv[1:]
for folder, *options in ((first,), (second,), (sharded, "--revision", "shards")):
    succeed(push.main, "--model", folder, "--repo-id", "user/pushed", *options)
succeed(push.main, "--model", first, "--repo-id", "user/secret", "--private")
try:
    push.push(Path(first), "user/refused", None, None, HfApi(token="hf_wrong"))
except HfHubHTTPError as error:
    assert error.response.status_code == 401
else:
    raise AssertionError("a wrong token was accepted")
refusal(push.main, "--model", Path(first) / "checkpoint-7", "--repo-id", "user/incomplete")
model = FBLTForCausalLM.from_pretrained(second)
model.push_to_hub("user/direct")
rows = [list(range(1, 33))] * 2
arguments = TrainingArguments(
    trained, max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", hub_model_id="user/trained"
)
trainer = Trainer(model, arguments, train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}))
trainer.train()
trainer.push_to_hub()
"""

LOAD = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
wanted, inputs = json.loads(sys.argv[1]), torch.load(sys.argv[2])
trust = {"trust_remote_code": True}
seen = {}
for repo, revision in wanted:
    model = AutoModelForCausalLM.from_pretrained(repo, revision=revision, dtype=torch.float64, **trust).eval()
    tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision, **trust)
    assert tokenizer("ab").input_ids == [1, 101, 102]
    with torch.no_grad():
        logits = model(inputs).logits
    written = model.generate(inputs, max_new_tokens=9, decoding="blt-dv", do_sample=False)
    seen[repo, revision] = {"logits": logits, "written": written}
assert "modeling_fblt" not in sys.modules, "the repository is on the path"
try:
    AutoModelForCausalLM.from_pretrained("user/secret", **trust)
except OSError:
    seen["secret"] = "hidden"
torch.save(seen, sys.argv[3])
"""


def save(folder: Path, seed: int, **options) -> Path:
    """A tiny model with a card, its code as relative links, as the bundled checkpoint has it."""
    tiny_model(seed=seed, dtype=torch.float32).save_pretrained(folder, **options)
    (folder / "README.md").write_text(CARD)
    for file in folder.glob("*.py"):
        file.unlink()
        file.symlink_to(os.path.relpath(REPOSITORY / "modeling_fblt" / file.name, folder))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two complete folders with different weights; the first was trained in, so it holds more than is published."""
    first, second = (save(tmp_path_factory.mktemp("models") / f"tiny{seed}", seed) for seed in (1, 2))
    for name in AT_HOME:
        (first / name).write_text("{}")
    (first / "checkpoint-7").mkdir()
    shutil.copy(first / "model.safetensors", first / "checkpoint-7")
    return first, second


def run(script: str, *arguments: str, **environment: str) -> None:
    """Runs a script in a process of its own: the client reads its environment once, when imported."""
    # The Makefile turns the network off for the tests; loopback is no network.
    unwanted = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    home = Path(environment["HF_HOME"])
    home.mkdir()
    caches = {"HF_HUB_CACHE": str(home / "hub"), "HF_MODULES_CACHE": str(home / "modules")}
    settings = inherited | caches | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    folder = REPOSITORY if "HF_TOKEN" in environment else home
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def hub(folders, tmp_path_factory):
    """The stub after every way of pushing, and the folder that the Trainer left."""
    home = tmp_path_factory.mktemp("pushing")
    with running_hub() as hub:
        sharded = save(home / "sharded", seed=1, max_shard_size="100KB")
        arguments = [*map(str, folders), str(sharded), str(home / "trained")]
        run(PUSH, *arguments, HF_ENDPOINT=hub.url, HF_HOME=str(home / "hf"), HF_TOKEN=TOKEN)
        yield hub, home / "trained"


@pytest.mark.slow
def test_all_that_a_model_needs_is_sent_as_real_files_and_nothing_else(hub, folders):
    files = hub[0].repositories["user/pushed"]
    first = files.commits[list(files.commits)[1]]
    expected = {file.name for file in folders[0].iterdir() if file.is_file()} - set(AT_HOME) | {".gitattributes"}
    assert set(first) == expected
    for file in folders[0].glob("*.py"):
        assert first[file.name] == (REPOSITORY / "modeling_fblt" / file.name).read_bytes()
    weights = (folders[0] / "model.safetensors").read_bytes()
    assert first["model.safetensors"] == weights == hub[0].large[hashlib.sha256(weights).hexdigest()]
    assert first["README.md"].decode() == CARD.replace('"checkpoints/tiny"', '"user/pushed"')


@pytest.mark.slow
def test_a_push_is_one_commit_on_the_branch_asked_for(hub):
    pushed = hub[0].repositories["user/pushed"]
    initial, first, second, shards = pushed.commits
    assert pushed.branches == {"main": second, "shards": shards}
    assert pushed.commits[first].keys() == pushed.commits[second].keys() != pushed.commits[initial].keys()
    assert hub[0].repositories["user/secret"].private and not pushed.private


@pytest.mark.slow
def test_weights_of_an_earlier_push_do_not_stay_beside_new_ones(hub):
    pushed = hub[0].repositories["user/pushed"]
    shards = pushed.commits[pushed.branches["shards"]]
    assert "model.safetensors" not in shards and "model.safetensors.index.json" in shards


@pytest.mark.slow
def test_a_refused_push_leaves_no_repository(hub):
    assert not {"user/refused", "user/incomplete"} & set(hub[0].repositories)


@pytest.mark.slow
def test_a_fresh_process_loads_every_revision_with_the_same_logits_and_bytes(hub, folders, tmp_path):
    hub, trained = hub
    first = list(hub.repositories["user/pushed"].commits)[1]
    sources = {
        ("user/pushed", first): folders[0],
        ("user/pushed", "main"): folders[1],
        ("user/pushed", "shards"): folders[0],
        ("user/direct", "main"): folders[1],
        ("user/trained", "main"): trained,
    }
    inputs = random_rows(2, 30)
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [json.dumps(list(sources)), str(tmp_path / "inputs.pt"), str(tmp_path / "seen.pt")]
    run(LOAD, *arguments, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"))
    seen = torch.load(tmp_path / "seen.pt")
    assert seen["secret"] == "hidden"
    expected = {}
    for name, folder in sources.items():
        model = FBLTForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        with torch.no_grad():
            expected[name] = model(inputs).logits
        torch.testing.assert_close(seen[name]["logits"], expected[name], rtol=0, atol=1e-12)
        assert torch.equal(seen[name]["written"], model.generate(inputs, max_new_tokens=9, decoding="ar"))
    assert not torch.allclose(expected["user/pushed", first], expected["user/pushed", "main"])
    assert not torch.allclose(expected["user/trained", "main"], expected["user/direct", "main"])


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors", "README.md", "masks_fblt.py"],
)
def test_whatever_is_missing_is_named_before_anything_is_sent(folders, tmp_path, name):
    folder = Path(shutil.copytree(folders[1], tmp_path / "copy"))
    assert missing_parts(folder) == []
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"incomplete, nothing was sent. It lacks\n  {name}: "):
        push(folder, "user/name", None, None, api=None)


def test_links_into_a_repository_that_is_not_there_are_named(folders, tmp_path):
    folder = Path(shutil.copytree(folders[1], tmp_path / "copy"))
    (folder / "padding_fblt.py").unlink()
    (folder / "padding_fblt.py").symlink_to("../../modeling_fblt/padding_fblt.py")
    assert missing_parts(folder) == ["padding_fblt.py: a link that points nowhere"]


def test_a_missing_shard_is_named(tmp_path):
    model = tiny_model(seed=1, dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "README.md").write_text(CARD)
    assert missing_parts(tmp_path) == []
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1 and set(shards) <= set(files_to_send(tmp_path))
    shards[0].unlink()
    assert missing_parts(tmp_path) == [f"{shards[0].name}: weights that model.safetensors.index.json names"]


def test_a_card_must_say_the_licence_and_how_to_load(folders, tmp_path):
    folder = Path(shutil.copytree(folders[1], tmp_path / "copy"))
    (folder / "README.md").write_text("# tiny\n")
    assert [line.partition(":")[0] for line in missing_parts(folder)] == ["README.md", "README.md"]
    assert "license" in missing_parts(folder)[0] and "from_pretrained" in missing_parts(folder)[1]


@pytest.mark.parametrize("repo_id", ["name", "user/na me", "user/a/b"])
def test_a_name_that_is_none_is_refused(folders, repo_id):
    with pytest.raises(ValueError, match="--repo-id"):
        push(folders[1], repo_id, None, None, api=None)
