"""`fblt generate` and `fblt patch` show what the model says."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from html import unescape

import pytest
import torch
from click.testing import CliRunner

from fblt.cli import main
from fblt.patches import characters, find_patches
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


def test_the_text_may_come_from_a_file(saved, tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(TEXT.encode())
    assert run("patch", saved, file).stdout == run("patch", saved, TEXT).stdout


def test_a_page_shows_every_byte_with_its_entropy_and_every_start(saved, tmp_path):
    run("patch", saved, TEXT, "--output", tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    patches = find_patches(FBLTForCausalLM.from_pretrained(saved).eval(), TEXT.encode())
    shown = "".join(re.findall(r"</span><span>(.*?)</span></span>", page))
    assert unescape(shown).replace("·", " ").replace("↵", "\n").replace("→", "\t") == TEXT
    bars = re.findall(r'<i class="(.*?)" style="--height:(\d+)%">', page)
    assert len(bars) == len(TEXT.encode())
    assert [i for i, (kinds, _) in enumerate(bars) if "start" in kinds] == patches.starts
    if patches.entropies is None:
        assert {height for _, height in bars} == {"0"} and "nats" not in page
    else:
        heights = torch.tensor([float(height) for _, height in bars])
        expected = torch.tensor(patches.entropies) / max(patches.entropies) / 1.05 * 100
        assert torch.allclose(heights, expected, atol=0.51)
        over = [i for i, entropy in enumerate(patches.entropies) if entropy > 5.5]
        assert [i for i, (kinds, _) in enumerate(bars) if "over" in kinds] == over


@pytest.mark.parametrize("ending", ["svg", "PNG"])
def test_a_figure_is_drawn_in_the_format_of_its_name(saved, tmp_path, ending):
    picture = tmp_path / f"patches.{ending}"
    run("patch", saved, TEXT + " $x$ 你 " * 12, "--output", picture)
    if ending == "svg":
        assert ElementTree.fromstring(picture.read_text()).tag.endswith("svg")
        first = picture.read_bytes()
        run("patch", saved, TEXT + " $x$ 你 " * 12, "--output", picture)
        assert picture.read_bytes() == first
    else:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_byte_belongs_to_one_character():
    content = "é\n你".encode() + b"\xff\xe4" + "😀".encode()[:3] + b"a\\"
    found = characters(content)
    assert [c.start for c in found[1:]] == [c.end for c in found[:-1]] and found[-1].end == len(content)
    assert [c.text for c in found] == ["é", "\n", "你", r"\xff", r"\xe4", r"\xf0", r"\x9f", r"\x98", "a", "\\"]


def test_a_picture_that_cannot_be_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    result = run("patch", "nowhere", "text", "--output", tmp_path / "patches.gif")
    assert result.exit_code == 1 and "ends in .html, .svg or .png" in result.stderr
    result = run("patch", "nowhere", "x" * 10_001, "--output", tmp_path / "patches.svg")
    assert result.exit_code == 1 and "10001 bytes" in result.stderr
    for content, told in ((b"", "is empty"), (b"\xff", "no UTF-8")):
        (tmp_path / "file").write_bytes(content)
        result = run("patch", "nowhere", tmp_path / "file")
        assert result.exit_code == 1 and told in result.stderr
    assert not (tmp_path / "patches.svg").exists()


def test_a_figure_without_matplotlib_is_refused_with_the_remedy(saved, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "fblt.patch_figure", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("patch", saved, "text", "--output", tmp_path / "patches.png")
    assert result.exit_code == 1 and "needs the package matplotlib" in result.stderr
    assert run("patch", saved, "text", "--output", tmp_path / "patches.html").exit_code == 0


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


def test_a_folder_that_is_not_there_is_said_to_be_none(tmp_path):
    result = run("generate", tmp_path / "nothing", "Hello")
    assert result.exit_code == 1 and "there is no such folder here" in result.stderr


def test_a_decoding_that_the_model_has_not_is_refused_in_a_line(saved):
    result = run("generate", saved, "Hello", "--decoding", "blt-dv")
    assert result.exit_code == 1 and "blocks" in result.stderr
