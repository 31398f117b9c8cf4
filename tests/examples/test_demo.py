"""The demo on a tiny random checkpoint, and the spans of its display on made-up bytes."""

import io
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from examples import demo, demo_table
from examples.display import STYLES, PlainDisplay, RichDisplay, plain, recording_console, styled
from fblt.drafts import DraftStreamer, Kind, classify, spans
from fblt.restoring import prompt_of, room_for
from modeling_fblt import FBLTConfig, FBLTForCausalLM
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.cli import refusal, succeed

WRITE = ["--part", "write", "--model"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
ESCAPES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def ids(text: str | bytes) -> list[int]:
    return [byte + 4 for byte in (text.encode() if isinstance(text, str) else text)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), block_size=4)


def save_checkpoint(folder, block_size):
    torch.manual_seed(0)
    model = FBLTForCausalLM(
        FBLTConfig(
            patcher_config=SMALL,
            encoder_config=SMALL | {"hash_vocab_size": 50},
            global_config=SMALL,
            decoder_config=SMALL,
            patching_threshold=5.0,
            block_size=block_size,
        )
    )
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def table_row(output: str, label: str) -> list[str]:
    """Cells of a row of the plain table."""
    (line,) = [line for line in output.splitlines() if line.startswith(label + "  ")]
    return line[len(label) :].split()


# --- the whole demo ---


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(demo.os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(demo.torch, "get_num_threads", lambda: 1)


def test_plain_output(checkpoint):
    prompts = ["--prompt", "def f():\n    return", "--prompt", "é", "--temperature", "0"]
    output = succeed(demo.main, *WRITE, checkpoint, *prompts, "--max-new-bytes", "20")
    assert "busy" not in output
    assert not ESCAPES.search(output)
    assert max(map(cell_len, output.splitlines())) < 100
    assert table_row(output, "bytes written") == ["40"] * 4
    assert table_row(output, "same bytes as ar") == ["-", "yes", "yes", table_row(output, "same bytes as ar")[3]]
    assert table_row(output, "decoder calls per byte")[0] == "1.000"
    assert table_row(output, "traffic per byte, of ar's")[0] == "100%"
    assert table_row(output, "  with the patcher, of ar's")[0] == "100%"
    assert table_row(output, "  times ar's")[0] == "1.00x"
    assert table_row(output, "drafted bytes kept")[3] == "unchecked"
    assert all(float(cell) > 0 for cell in table_row(output, "bytes per second"))


def test_text_is_sampled_from_a_seed_and_blt_d_comes_last(checkpoint):
    def written(*arguments: str) -> str:
        output = succeed(demo.main, *WRITE, checkpoint, "--prompt", "ab", "--max-new-bytes", "24", *arguments)
        assert output.index("ar: one") < output.index("blt-s: ") < output.index("blt-dv: ") < output.index("blt-d: ")
        return output[: output.index("bytes written")]

    first = written()
    assert first == written("--seed", "0", "--temperature", "0.7") != written("--seed", "1")
    assert first != written("--temperature", "0")
    output = succeed(demo.main, *WRITE, checkpoint, "--prompt", "ab", "--max-new-bytes", "4")
    assert "sampled at temperature 0.7 from seed 0" in " ".join(output.split())
    assert "same bytes as ar" not in output


def test_lines_are_restored_before_text_is_written(checkpoint):
    """A user's lines, in the room that a restoration may take, greedily."""
    arguments = ["--restorer", checkpoint, "--model", checkpoint, "--prompt", "ab", "--max-new-bytes", "4"]
    output = succeed(demo.main, *arguments, "--text", "cd", "--decoding", "ar", "--decoding", "blt-s")
    restored, written = output.split("=== Writing on from a prompt")
    assert "cd" in restored
    assert "Text 1 of 1" in restored and "Text 1 of 1" in written
    assert table_row(restored, "same bytes as ar") == ["-", "yes"]
    assert 0 < int(table_row(restored, "bytes written")[0]) <= room_for(prompt_of("cd").encode())
    assert table_row(written, "bytes written") == ["4", "4"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ([], ["restore", "write"]),
        (["--text", "cd"], ["restore"]),
        (["--prompt", "ab"], ["write"]),
        (["--text", "cd", "--part", "write"], ["write"]),
    ],
)
def test_who_brings_a_text_sees_what_becomes_of_it(given, shown, monkeypatch):
    found = []
    monkeypatch.setattr(demo, "show", lambda part, *others: found.append(part.option))
    succeed(demo.main, *given)
    assert found == [{"restore": "--restorer", "write": "--model"}[name] for name in shown]


def test_threads_are_taken_and_a_busy_machine_is_told(checkpoint, monkeypatch):
    threads = []
    monkeypatch.setattr(demo.torch, "set_num_threads", threads.append)
    monkeypatch.setattr(demo.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    arguments = [*WRITE, checkpoint, "--prompt", "ab", "--max-new-bytes", "4", "--decoding", "ar"]
    assert "busy" not in succeed(demo.main, *arguments, "--threads", "1")
    assert threads == [1]
    monkeypatch.setattr(demo.os, "getloadavg", lambda: (1.7, 0.0, 0.0), raising=False)
    told = " ".join(succeed(demo.main, *arguments).split())
    assert "This machine is busy (load 1.7 and 1 of torch's threads on 2 cores): speeds mean little" in told
    assert demo.busy(2) is not None
    monkeypatch.setattr(demo.os, "getloadavg", lambda: (0.4, 0.0, 0.0), raising=False)
    assert demo.busy(2) is None and demo.busy(3) is not None


def test_one_decoding_and_patches(checkpoint):
    arguments = [*WRITE, checkpoint, "--prompt", "ab", "--max-new-bytes", "4", "--decoding", "blt-s"]
    output = succeed(demo.main, *arguments, "--show-patches", "--temperature", "0")
    assert "    |a" in output
    assert table_row(output, "same bytes as ar") == ["-"]
    assert table_row(output, "traffic per byte, of ar's") == ["-"]


def test_checkpoint_without_blocks(tmp_path):
    plain = save_checkpoint(tmp_path, block_size=None)
    output = succeed(demo.main, *WRITE, plain, "--prompt", "ab", "--max-new-bytes", "3")
    assert "Without blt-dv, blt-d" in output
    assert table_row(output, "bytes written") == ["3", "3"]


def test_picture(checkpoint, tmp_path):
    picture = tmp_path / "demo.svg"
    arguments = [
        *WRITE,
        checkpoint,
        "--prompt",
        "ab",
        "--max-new-bytes",
        "6",
        "--decoding",
        "ar",
        "--decoding",
        "blt-dv",
    ]
    assert not ESCAPES.search(succeed(demo.main, *arguments, "--save-svg", picture))
    drawn = picture.read_text().replace("&#160;", " ")
    assert "blt-dv: blocks, verified" in drawn and "bytes per second" in drawn


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([*WRITE, "nowhere"], "`--model` is 'nowhere'"),
        (["--part", "restore", "--restorer", "nowhere"], "`--restorer` is 'nowhere'"),
        (["--part", "sing"], "--part"),
        (["--max-new-bytes", "0"], "--max-new-bytes"),
        (["--decoding", "fast"], "--decoding"),
        (["--temperature", "-1"], "--temperature"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_wrong_arguments(arguments, message):
    assert message in refusal(demo.main, *arguments)


# --- spans of the display ---


@pytest.mark.parametrize(
    "draft, new, kinds",
    [
        ("", "x", "w"),
        ("", "xyz", "www"),
        ("abcd", "abcd", "kkkk"),
        ("abcd", "abcde", "kkkkw"),
        ("abcd", "abx", "kkc"),
        ("abcd", "x", "c"),
        ("abcd", "ab", "kk"),  # cut by a stop
    ],
)
def test_classify(draft, new, kinds):
    names = {"w": Kind.WRITTEN, "k": Kind.KEPT, "c": Kind.CORRECTED}
    assert classify(ids(draft), ids(new)) == [names[kind] for kind in kinds]


def feed(streamer: DraftStreamer) -> None:
    """A prompt, a draft of which two bytes are kept and one is corrected, and a pending draft."""
    streamer.put(torch.tensor([[1, *ids("p")]]))
    streamer.put_draft(value=torch.tensor(ids("abcd")))
    streamer.put(torch.tensor(ids("ab\n")))
    streamer.put_draft(value=torch.tensor(ids("ef")))


def test_streamer():
    seen = []
    streamer = DraftStreamer(lambda s: seen.append((len(s.ids), len(s.draft))))
    feed(streamer)
    assert streamer.ids == [1, *ids("pab\n")] and streamer.draft == ids("ef")
    assert streamer.kinds == [Kind.PROMPT] * 2 + [Kind.KEPT] * 2 + [Kind.CORRECTED]
    assert seen == [(2, 0), (2, 4), (5, 0), (5, 2)]
    assert streamer.seconds > 0


def test_styles_of_a_growing_text():
    streamer = DraftStreamer()
    feed(streamer)
    text = styled(streamer)
    assert text.plain == "pab↵\nef"  # a corrected line break is made visible
    styles = {text.plain[span.start : span.end]: span.style for span in text.spans}
    expected = {"p": Kind.PROMPT, "ab": Kind.KEPT, "↵\n": Kind.CORRECTED, "ef": Kind.DRAFTED}
    assert styles == {part: STYLES[kind] for part, kind in expected.items()}


def test_patches_take_turns_in_shade():
    streamer = DraftStreamer()
    streamer.put(torch.tensor([[1, *ids("abcd")]]))
    starts = [True, True, False, True, False]
    assert plain(streamer, starts) == "|ab|cd"
    shaded = ["on grey" in span.style for span in styled(streamer, starts).spans]
    assert shaded == [False, True]


def test_bytes_that_are_no_text():
    kinds = [Kind.WRITTEN] * 20
    text = lambda raw: "".join(span.text for span in spans(raw, kinds))  # noqa: E731
    assert text(ids("aé日👩")) == "aé日👩"
    assert text(ids("é")[:1]) == "\ufffd"  # cut inside a character
    assert text(ids(b"\xc3a")) == "\ufffda"
    assert text([1, *ids("é")[:1], 2, 260]) == "\ufffd</s><mask>"
    assert text(ids("\x1b[2J\r\u202e\u0085")) == "\ufffd[2J\ufffd\ufffd\ufffd"
    assert text(ids("a\tb\n")) == "a    b\n"
    assert text(ids("a b   c")) == "a b ··c"
    assert text(ids("\t" * 8)) == "    " * 6 + "→   " * 2


def test_character_of_two_origins():
    """A character counts as its last byte does, and starts a patch where any of its bytes does."""
    found = spans(ids("aé"), [Kind.PROMPT, Kind.KEPT, Kind.CORRECTED], [False, False, True])
    assert [(span.text, span.kind, span.starts_patch) for span in found] == [
        ("a", Kind.PROMPT, False),
        ("é", Kind.CORRECTED, True),
    ]


def test_plain_lines_are_narrow():
    streamer = DraftStreamer()
    streamer.put(torch.tensor([ids("日" * 100 + "\n\n" + "x" * 300)]))
    lines = plain(streamer).split("\n")
    assert max(map(cell_len, lines)) <= 92 and "".join(lines).count("x") == 300 and "" in lines


def test_growing_text_on_a_terminal(monkeypatch):
    """A live display redraws in place and leaves the finished text."""
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, height=8, color_system="truecolor")
    display = RichDisplay(console, pause=0)
    with display.writing("blt-dv") as streamer:
        feed(streamer)
        streamer.put(torch.tensor(ids("line\n" * 30)))  # more than the terminal holds
    display.written("blt-dv", "1 round", streamer, None)
    shown = file.getvalue()
    assert "ef" in shown  # the pending draft
    assert "\x1b[2K" in shown  # lines that were wiped
    assert shown.count("line") > 30  # all of them at the end


def test_table_in_both_displays(capsys):
    rows = [("bytes", ["1", "2"]), ("same bytes as ar", ["-", "yes"])]
    PlainDisplay().table(["ar", "blt-s"], rows, ["A note."])
    assert table_row(capsys.readouterr().out, "same bytes as ar") == ["-", "yes"]
    recorder = recording_console()
    RichDisplay(recorder).table(["ar", "blt-s"], rows, ["A note."])
    drawn = recorder.export_text()
    assert "same bytes as ar" in drawn and "A note." in drawn


def test_a_model_without_a_patcher_has_no_rows_of_one():
    tally = demo_table.Tally(written=[[5] * 9], seconds=1.0, rounds=9)
    for count in (0, 1):
        parameters = dict.fromkeys(("encoder", "global", "decoder", "draft_head"), 1) | {"patcher": count}
        tally.calls |= {"decoder": 9.0, "global": 3.0}
        rows = dict(demo_table.table_rows({"ar": tally}, parameters, greedy=True))
        assert ("patcher calls per byte" in rows) == ("  with the patcher, MB" in rows) == bool(count)


def test_unequal_verified_decoding_is_explained():
    tallies = {"ar": demo_table.Tally(written=[[5], [6]]), "blt-dv": demo_table.Tally(written=[[5], [7]])}
    assert demo_table.compare(tallies["blt-dv"], tallies["ar"]) == "1 of 2"
    parameters = dict.fromkeys(("patcher", "encoder", "global", "decoder"), 1)
    told = demo_table.notes(tallies, parameters, temperature=0.0, seed=0)
    assert told[-1].startswith("blt-dv: a verified decoding can differ")
