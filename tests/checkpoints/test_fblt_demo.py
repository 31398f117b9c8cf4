"""The bundled checkpoint, as a user gets it: a copy of its folder, in a process that does not know this repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "checkpoints" / "fblt-demo"
PROMPTS = ("def main():\n\t", "And it came to pass in those days, that ", "It was a truth which she ")
NEW_BYTES = 64

pytestmark = [
    pytest.mark.contract,
    pytest.mark.checkpoint,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the bundled checkpoint is not here"),
]

WRITE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts, new_bytes = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
written = {}
for decoding in ("ar", "blt-s", "blt-dv"):
    written[decoding] = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=new_bytes, decoding=decoding, do_sample=False)
        written[decoding].append(output[0].tolist())
print(json.dumps(written))
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """The folder with its links followed, as a download would be."""
    return Path(shutil.copytree(FOLDER, tmp_path_factory.mktemp("downloaded") / "fblt-demo"))


@pytest.fixture(scope="module")
def written(copied) -> dict[str, list[list[int]]]:
    """Ids that a fresh process writes, by decoding."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(copied.parent / "modules")
    arguments = [sys.executable, "-c", WRITE, str(copied), json.dumps(PROMPTS), str(NEW_BYTES)]
    result = subprocess.run(arguments, cwd=copied.parent, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("decoding", ["blt-s", "blt-dv"])
def test_verified_decodings_write_what_plain_decoding_writes(written, decoding):
    assert written[decoding] == written["ar"]


def test_the_code_here_writes_the_same_bytes(written):
    from modeling_fblt import FBLTForCausalLM

    model = FBLTForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    prompt = written["ar"][0][:-NEW_BYTES]
    output = model.generate(torch.tensor([prompt]), max_new_tokens=NEW_BYTES, decoding="ar", do_sample=False)
    assert output[0].tolist() == written["ar"][0]


def test_its_draft_head_drafts_what_is_kept_more_often():
    from modeling_fblt import FBLTForCausalLM

    model = FBLTForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    kept = []
    for draft_head in (False, True):
        torch.manual_seed(0)
        ids = torch.tensor([[1, *(byte + 4 for byte in PROMPTS[1].encode())]])
        settings = {"decoding": "blt-dv", "refine_steps": 0, "draft_head": draft_head, "return_dict_in_generate": True}
        output = model.generate(
            ids, max_new_tokens=NEW_BYTES, do_sample=True, num_return_sequences=16, top_k=0, **settings
        )
        kept.append(int(output.accepted.sum()) / int(output.drafted.sum()))
    assert kept[1] > kept[0]


def test_it_writes_text_and_not_a_run_of_one_byte(written):
    for ids in written["ar"]:
        assert len(set(ids[-NEW_BYTES:])) > 5


def test_the_weights_are_small():
    assert sum(f.stat().st_size for f in FOLDER.glob("*.safetensors")) <= 20_500_000
