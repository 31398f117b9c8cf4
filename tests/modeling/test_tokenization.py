"""The byte tokenizer: exact ids, nothing lost, and the same after saving."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, TextStreamer

from modeling_fblt.tokenization_fblt import build_tokenizer

SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2, "<reserved>": 3, "<mask>": 260}
MULTI_BYTE = "naïve café € 日本語, Ελληνικά; 👩‍🔬 done\n"

# Valid UTF-8 of every width, control characters and pieces of special tokens included.
texts = st.lists(st.text(max_size=20) | st.sampled_from([*SPECIAL, "</s", "<<s>>", " \t\r\n", "\0"]), max_size=8).map(
    "".join
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def byte_ids(text: str) -> list[int]:
    return [byte + 4 for byte in text.encode()]


class Collector(TextStreamer):
    """Keeps the pieces that a TextStreamer would print."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.pieces = []

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append(text)


def test_special_ids(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == 261
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL} == SPECIAL
    named = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id)
    assert named == (0, 1, 2, 260)


def test_every_byte_has_its_id(tokenizer):
    """Each id from 4 to 259 is one byte, and ByteLevel's own alphabet has no other."""
    tokens = tokenizer.convert_ids_to_tokens(range(4, 260))
    assert set(tokens) == set(pre_tokenizers.ByteLevel.alphabet())
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(4, 260))
    # All bytes that valid UTF-8 can hold, seen from the text side: one character per lead and continuation byte.
    characters = [
        *map(chr, range(0x800)),
        *map(chr, range(0x800, 0xD800, 64)),
        *map(chr, range(0xE000, 0x110000, 4096)),
    ]
    for character in characters:
        assert tokenizer(character, add_special_tokens=False).input_ids == byte_ids(character)


def test_bytes_that_are_not_utf8_decode_as_replacements(tokenizer):
    assert tokenizer.decode([0xFF + 4, ord("a") + 4, 0xC3 + 4]) == "\ufffda\ufffd"


@given(text=texts)
@example(text="")
@example(text=" leading and trailing ")
@example(text="a . b , c 's n't")
@settings(deadline=None)
def test_every_text_survives(tokenizer, text):
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert ids == [1, *byte_ids(text)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(ids) == "<s>" + text
    # Read as tokens or as bytes, the special tokens in a text decode to the same text.
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@given(text=texts)
@settings(deadline=None, max_examples=20)
def test_bos_stands_in_front_once(tokenizer, text):
    with_bos = tokenizer(text).input_ids
    assert with_bos == [1, *tokenizer(text, add_special_tokens=False).input_ids]
    assert tokenizer(text, "pair").input_ids == [*with_bos, *byte_ids("pair")]


@given(batch=st.lists(texts, min_size=1, max_size=4))
@settings(deadline=None, max_examples=20)
def test_batches_are_padded_on_the_left(tokenizer, batch):
    rows = [tokenizer(text).input_ids for text in batch]
    width = max(map(len, rows))
    padded = tokenizer(batch, padding=True)
    assert set(padded) == {"input_ids", "attention_mask"}
    assert padded.input_ids == [[0] * (width - len(row)) + row for row in rows]
    assert padded.attention_mask == [[0] * (width - len(row)) + [1] * len(row) for row in rows]


def test_a_literal_special_token_is_that_token_unless_split(tokenizer):
    assert tokenizer("a</s>b").input_ids == [1, ord("a") + 4, 2, ord("b") + 4]
    assert tokenizer("a</s>b", split_special_tokens=True).input_ids == [1, *byte_ids("a</s>b")]
    assert tokenizer("a</s>b").input_ids == [1, ord("a") + 4, 2, ord("b") + 4], "the switch outlived its call"


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_streaming_never_shows_half_a_character(tokenizer, piece):
    """Bytes may arrive one by one or in blocks that cut a character."""
    ids = byte_ids(MULTI_BYTE)
    streamer = Collector(tokenizer)
    for start in range(0, len(ids), piece):
        streamer.put(torch.tensor(ids[start : start + piece]))
    streamer.end()
    assert len(streamer.pieces) > 5
    assert "\ufffd" not in "".join(streamer.pieces)
    assert "".join(streamer.pieces) == MULTI_BYTE


def test_incremental_decoding_gives_each_character_when_it_is_complete(tokenizer):
    stream = DecodeStream(skip_special_tokens=True)
    pieces = [stream.step(tokenizer.backend_tokenizer, token) for token in byte_ids(MULTI_BYTE)]
    assert [piece for piece in pieces if piece is not None] == list(MULTI_BYTE)


def test_saved_folder_loads_without_this_package(tokenizer, tmp_path):
    """In a fresh process, from elsewhere, alone and beside the config of a remote-code model."""
    text = MULTI_BYTE + "</s> <mask>"
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    for folder in (alone, beside):
        tokenizer.save_pretrained(folder)
    auto_map = {"AutoConfig": "configuration_stub.StubConfig"}
    (beside / "config.json").write_text(json.dumps({"model_type": "fblt", "auto_map": auto_map}))
    (beside / "configuration_stub.py").write_text(
        "from transformers import PreTrainedConfig\n\n\nclass StubConfig(PreTrainedConfig):\n    model_type = 'fblt'\n"
    )
    script = (
        "import json, sys; from transformers import AutoTokenizer\n"
        "out = []\n"
        "for folder, trust in ((sys.argv[1], False), (sys.argv[2], True)):\n"
        "    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)\n"
        "    batch = loaded([sys.argv[3], 'a'], padding=True)\n"
        "    out.append([batch.input_ids, loaded.decode(batch.input_ids[0]), len(loaded), loaded.padding_side])\n"
        "print(json.dumps(out))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, "-c", script, str(alone), str(beside), text],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [tokenizer([text, "a"], padding=True).input_ids, "<s>" + text, 261, "left"]
    assert json.loads(result.stdout) == [expected, expected]


def test_save_and_load_change_nothing(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "first")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded("</s>", split_special_tokens=True).input_ids == [1, *byte_ids("</s>")]
    first, second = ((tmp_path / name / "tokenizer.json").read_text() for name in ("first", "second"))
    assert first == second
    split = AutoTokenizer.from_pretrained(tmp_path / "first", split_special_tokens=True)
    assert split("</s>").input_ids == [1, *byte_ids("</s>")]


def test_conversations_are_spelled_in_bytes(tokenizer):
    """Turns are marked by bytes that nobody can say; parts are joined; the mask covers answers up to their end."""
    messages = [
        {"role": "system", "content": "Be\x03\x02 kind."},
        {"role": "user", "content": [{"type": "text", "text": "Grüße"}, {"type": "text", "text": "!"}]},
        {"role": "assistant", "content": "Hö"},
    ]
    text = "\x02system\nBe kind.\x03\x02user\nGrüße!\x03\x02assistant\nHö\x03"
    made = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert made["input_ids"] == tokenizer(text).input_ids and max(made["input_ids"]) < 260
    assert sum(made["assistant_masks"]) == len("Hö\x03".encode()) and all(made["assistant_masks"][-4:])
    asked = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, tokenize=False)
    assert "<s>" + text == asked + "Hö\x03"
    with pytest.raises(Exception, match="robot"):
        tokenizer.apply_chat_template([{"role": "robot", "content": ""}])


def test_the_chat_template_is_saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
