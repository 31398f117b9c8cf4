"""Restoring text: what a model is given of a line, and a file restored at once, line by line, or after kills."""

import multiprocessing
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fblt import restore as command
from fblt.batches import Journal
from fblt.inputs import load
from fblt.restoring import LONGEST, accepted, restore_pieces, restore_text, room_for, segments
from modeling_fblt import FBLTForCausalLM
from tests.cli import call, refusal
from tests.modeling.tiny import tiny_config, tiny_model

# A random model that writes these alone ends some lines and goes on for ever in others.
WRITTEN = [2, *(byte + 4 for byte in b"a e.")]
TEXT = b"\n".join(
    [
        b"un ete a la mer",
        b"",
        b"  \t ",
        b"caf\xe9 au lait",
        b"  indente\r",
        b"une cle\tdeux cles\t3",
        b"-- 12 --",
        b"un ete a la mer",
        "Où est la clé ?".encode(),
        b"nul \x00 dedans",
        b"Une phrase. " * 30 + b"Et la fin",
        b"sans fin",
    ]
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model = tiny_model(seed=7, patching_mode="space")
    model.generation_config.suppress_tokens = sorted(set(range(260)) - set(WRITTEN))
    model.float().save_pretrained(folder)
    return folder


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text("aé.,; \t\r-", max_size=600).map(str.encode)))
def test_the_parts_of_a_line_are_the_line(line):
    parts = segments(line)
    assert b"".join(part if isinstance(part, bytes) else part.encode() for part in parts) == line
    for part in parts:
        if isinstance(part, str):
            assert 0 < len(part.encode()) <= LONGEST and part == part.strip() and not set(part) & set("\t\r\n")
    if len(line) <= LONGEST and not set(line) & set(b"\t\r\v\f"):
        assert len(parts) - sum(isinstance(part, bytes) for part in parts) <= 1


def test_long_lines_are_cut_at_sentences_first():
    pieces = [part for part in segments(("x" * 90 + ". Abc " + "y" * 60 + ", d " * 40).encode()) if part != b" "]
    assert pieces[0] == "x" * 90 + "." and pieces[1].endswith(",")
    assert [len(part) for part in segments(b"z" * 450)] == [200, 200, 50]
    words = [part for part in segments(b"word " * 100) if isinstance(part, str)]
    assert set(" ".join(words).split()) == {"word"}


@pytest.mark.parametrize("line", [b"", b"  \t", b"caf\xe9 au lait", b"-- 12 --", b"nul \x00 dedans", b"\xff\xfe"])
def test_what_is_no_text_is_left_alone(line):
    assert not [part for part in segments(line) if isinstance(part, str)]


def test_what_a_model_wrote_is_taken_only_as_a_line_of_text():
    def ids(text: bytes) -> list[int]:
        return [byte + 4 for byte in text]

    assert accepted([*ids("été".encode()), 2], 6, {2}) == "été"
    assert accepted([*ids(b"ete")], 6, {2}) is None  # no end
    assert accepted([*ids(b"ete"), 2], 3, {2}) is None  # a longer room than its own, because of others in its batch
    for text in (b"", b"a\nb", b"a\x00", b"\xc3", "a\u2028b".encode()):
        assert accepted([*ids(text), 2], 9, {2}) is None


def test_a_restoration_may_be_longer_than_its_line_but_not_without_bound():
    assert 2 * LONGEST <= room_for(b"x" * LONGEST) <= 3 * LONGEST


def test_a_text_keeps_its_lines_and_what_is_no_text():
    out, counts = restore_text(TEXT, lambda pieces: [None if "fin" in p else p.upper() for p in pieces])
    for given_line, line in zip(TEXT.split(b"\n"), out.split(b"\n"), strict=True):
        if b"fin" not in given_line:
            whole = b"\xe9" in given_line or b"\x00" in given_line
            assert line == (given_line if whole else given_line.decode().upper().encode())
    assert out.endswith(b"UNE PHRASE. Et la fin\nsans fin") or out.endswith(b"\nsans fin")
    assert counts["lines"] == 12 and counts["left_alone"] == 3 and counts["kept"] == 2


def restored_line_by_line(folder: Path, data: bytes, **settings) -> bytes:
    model, _ = load(str(folder))
    return b"\n".join(
        restore_text(line, lambda pieces: [restore_pieces(model, [piece], 1, settings)[0] for piece in pieces])[0]
        for line in data.split(b"\n")
    )


@pytest.mark.parametrize("decoding", ["ar", "blt-dv"])
def test_a_file_is_restored_as_its_lines_are_alone(saved, tmp_path, decoding):
    (tmp_path / "in").write_bytes(TEXT)
    output = tmp_path / "out"
    arguments = ["--model", saved, "--decoding", decoding, "--batch-size", 4]
    told = call(command.main, tmp_path / "in", *arguments, "--output", output)
    assert told.exit_code == 0 and told.stdout == ""
    assert "12 lines" in told.stderr and "3 lines hold no text" in told.stderr and "left as they were" in told.stderr
    assert output.read_bytes() == restored_line_by_line(saved, TEXT, decoding=decoding) != TEXT
    assert call(command.main, tmp_path / "in", *arguments).stdout_bytes == output.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def restore_slowly(source: str, output: str, model: str) -> None:
    """In a process that is to be killed: a moment passes after each batch."""
    add = Journal.add

    def slow(self, *arguments) -> None:
        add(self, *arguments)
        time.sleep(0.05)

    Journal.add = slow
    command.main([source, "--model", model, "--output", output, "--batch-size", "2"], standalone_mode=False)


def test_a_killed_run_goes_on_without_a_line_lost_or_doubled(saved, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    data = b"\n".join([TEXT, *(b"encore une ligne %c" % byte for byte in range(97, 123))]) + b"\n"
    source.write_bytes(data)
    context = multiprocessing.get_context("fork")
    journal, seen = tmp_path / ".out-partial", []
    for batches in (1, 3, 8):
        process = context.Process(target=restore_slowly, args=(str(source), str(output), str(saved)))
        process.start()
        while process.is_alive() and (not journal.exists() or journal.read_bytes().count(b"\n") <= batches):
            time.sleep(0.005)
        process.kill()
        process.join()
        assert not output.exists()
        seen.append(journal.read_bytes().count(b"\n"))
    assert seen == sorted(seen)
    result = call(command.main, source, "--model", saved, "--output", output, "--batch-size", 2)
    assert result.exit_code == 0 and output.read_bytes() == restored_line_by_line(saved, data)
    assert not journal.exists()


def test_an_interrupted_run_is_not_continued_with_another_model_or_file(saved, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"une ligne\n")
    arguments = [source, "--model", saved, "--output", output]
    (tmp_path / ".out-partial").write_text('{"format": 1}\n[0, ["Une ligne."]]\n')
    told = refusal(command.main, *arguments)
    assert "--model" in told and "FILE" in told and "remove that file" in told
    assert not output.exists()


def test_bad_calls_are_refused(saved, tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.write_bytes(b"une ligne\n")
    assert "is FILE itself" in refusal(command.main, source, "--model", saved, "--output", source)
    monkeypatch.setattr(command, "BUNDLED", tmp_path / "nowhere")
    assert "give a folder" in refusal(command.main, source)
    blockless = FBLTForCausalLM(tiny_config(block_size=None))
    blockless.save_pretrained(tmp_path / "plain")
    assert "blocks" in refusal(command.main, source, "--model", tmp_path / "plain", "--decoding", "blt-dv")
