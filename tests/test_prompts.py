"""Many prompts: read from a file, written on from in batches as each would be alone, resumed with the same draws."""

import json

import pytest

from fblt import generate as command
from fblt import prompts as module
from fblt.batches import Journal
from fblt.inputs import load
from fblt.prompts import continue_prompts, read_prompts
from tests.cli import call, refusal
from tests.modeling.tiny import tiny_model

PROMPTS = ["Hello", "", "é " * 30, "a </s> b", "Hello", "x = 1"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model = tiny_model(seed=7, patching_mode="space").float()
    model.generation_config.eos_token_id = [2, *range(60, 140)]
    model.save_pretrained(folder)
    return folder


def test_prompts_are_lines_or_keys(tmp_path):
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_bytes("\r\n".join(PROMPTS).encode() + b"\r\n")
    assert [entry["prompt"] for entry in read_prompts(text)] == PROMPTS
    lines.write_text("\n".join(json.dumps({"id": i, "prompt": p}) for i, p in enumerate(PROMPTS)))
    assert read_prompts(lines) == [{"id": i, "prompt": p} for i, p in enumerate(PROMPTS)]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"a\n\xff\n", "line 2"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": 1}\n', 'line 2 has no text under "prompt"'),
        ("a.jsonl", b"[1]\n", "line 1"),
        ("a.jsonl", b'{"prompt": "a"}\n\n', "line 2 cannot be read"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_by_line(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="--prompts"):
        read_prompts(tmp_path / name)
    assert told in refusal(command.main, tmp_path / "no-model", "--prompts", tmp_path / name)


def test_each_is_written_on_from_as_it_would_be_alone(saved, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps({"id": i, "prompt": p}) for i, p in enumerate(PROMPTS)))
    arguments = [saved, "--prompts", source, "--greedy", "--decoding", "blt-s", "--max-new-bytes", 9]
    assert call(command.main, *arguments, "--batch-size", 2, "--output", output).stdout == ""
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert call(command.main, *arguments).stdout == output.read_text()
    model, _ = load(str(saved))
    settings = {"do_sample": False, "decoding": "blt-s", "max_new_tokens": 9}
    for number, (entry, prompt) in enumerate(zip(found, PROMPTS, strict=True)):
        assert entry == {"id": number, "prompt": prompt, **continue_prompts(model, [prompt], 1, settings)[0]}
    assert {entry["finish_reason"] for entry in found} == {"stop", "length"}


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(saved, tmp_path, monkeypatch):
    model, _ = load(str(saved))
    settings = {"do_sample": True, "decoding": "ar", "max_new_tokens": 9}
    whole = continue_prompts(model, PROMPTS, 2, settings, seed=5)
    assert whole[0] != whole[4]  # equal prompts in two batches
    journal, write, calls = Journal(tmp_path / "out", {}), module.write, []

    def killed(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments, **more)

    monkeypatch.setattr(module, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        continue_prompts(model, PROMPTS, 2, settings, 5, journal)
    journal.close()
    again = Journal(tmp_path / "out", {})
    assert list(again.finished) == [0]
    assert continue_prompts(model, PROMPTS, 2, settings, 5, again) == whole
    again.close()


def test_options_that_do_not_go_together_are_refused(saved, tmp_path):
    source = tmp_path / "in"
    source.write_text("a\n")
    assert "belongs to --prompts" in refusal(command.main, saved, "a", "--output", tmp_path / "out")
    assert "give one of them" in refusal(command.main, saved, "a", "--prompts", source)
