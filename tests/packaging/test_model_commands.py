"""`fblt generate` and `fblt patch` show what the model says."""

import pytest
import torch
from click.testing import CliRunner

from fblt.cli import main
from modeling_fblt import FBLTForCausalLM
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.conversion.checkpoints import write_transformers
from tests.conversion.test_roundtrip import small_config

TEXT = "Grüße,\n\tdef main(): return 1 </s> é"


def run(*arguments, **settings):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], **settings)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module", params=["entropy", "space"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = FBLTForCausalLM(small_config(patching_mode=request.param, patching_threshold=5.5, max_patch_length=5))
    model.save_pretrained(folder)
    return folder


def test_the_patches_are_those_of_the_model(saved):
    *lines, summary = run("patch", saved, TEXT).stdout.splitlines()
    model, content = FBLTForCausalLM.from_pretrained(saved).eval(), TEXT.encode()
    ids = torch.tensor([[1, *(byte + 4 for byte in content)]])
    found = model.patch(ids)
    starts = sorted({max(i - 1, 0) for i in found.patch_starts[0, :-1].nonzero().flatten().tolist()})
    assert [int(line[:4]) for line in lines] == torch.tensor([*starts, len(content)]).diff().tolist()
    shown = "".join(line[13:] for line in lines).encode().decode("unicode_escape").encode("latin-1").decode()
    assert shown == TEXT and summary.startswith(f"{len(content)} bytes in {len(starts)} patches")
    if found.entropies is None:
        assert all(line[4:13].strip() == "-" for line in lines)
    else:
        assert [float(line[4:13]) for line in lines] == pytest.approx(found.entropies[0, starts].tolist(), abs=0.006)


def test_the_text_may_come_from_standard_input(saved):
    assert run("patch", saved, input=TEXT).stdout == run("patch", saved, TEXT).stdout


def test_it_writes_what_generate_writes(saved):
    settings = {"max_new_tokens": 12, "do_sample": False, "decoding": "ar"}
    told = run("generate", saved, "Hello", "--max-new-bytes", 12, "--greedy", "--decoding", "ar").stdout
    model, tokenizer = FBLTForCausalLM.from_pretrained(saved).eval(), build_tokenizer()
    written = model.generate(**tokenizer("Hello", return_tensors="pt"), **settings)
    assert told.removesuffix("\n") == tokenizer.decode(written[0], skip_special_tokens=True)


@pytest.mark.parametrize("command", ["patch", "generate"])
def test_what_cannot_be_is_refused_in_a_line(command, saved, tmp_path):
    result = run(command, saved, input=b"")
    assert result.exit_code == 1 and "text: is empty" in result.stderr
    write_transformers(tmp_path / "blt")
    result = run(command, tmp_path / "blt", "Hello")
    assert result.exit_code == 1 and "BltForCausalLM" in result.stderr


def test_a_decoding_that_the_model_has_not_is_refused_in_a_line(saved):
    result = run("generate", saved, "Hello", "--decoding", "blt-dv")
    assert result.exit_code == 1 and "blocks" in result.stderr
