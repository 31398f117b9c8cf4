# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The UTF-8 automaton against Python's own decoder, and texts generated under it."""

import codecs
import functools
import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modeling_fblt.utf8_fblt import (
    COMPLETE,
    FBLTUTF8LogitsProcessor,
    allowed_ids,
    bytes_missing,
    open_bytes,
    utf8_state,
    valid_prefix,
)

SPECIAL, MASK, VOCAB = [0, 1, 2, 3], 260, 261
# Bytes at every border of UTF-8's rules: random strings of these hold whole, broken and open characters.
BORDERS = bytes.fromhex("00417f808f909fa0bfc0c1c2dfe0e1ecedeeeff0f1f3f4f5ff")
BYTES = st.binary(max_size=6) | st.lists(st.sampled_from(BORDERS), max_size=6).map(bytes)
TEXTS = st.text(max_size=4) | st.text(st.sampled_from("a\x7f\x80߿ࠀ\ud7ff\ue000\uffff\U00010000\U0010ffff"), max_size=4)
IDS = st.lists(st.sampled_from([byte + 4 for byte in BORDERS]) | st.integers(0, VOCAB - 1), max_size=7)


def to_ids(data: bytes) -> list[int]:
    return [byte + 4 for byte in data]


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@functools.cache
def missing(data: bytes, most: int = 3) -> int | None:
    """Fewest bytes, at most `most`, after which `data` decodes, by trying; None if there is no such end."""
    # One byte of each class that some lead tells apart.
    ends = bytes.fromhex("8090a0bf")
    for count in range(most + 1):
        if any(decodes(data + bytes(end)) for end in itertools.product(ends, repeat=count)):
            return count
    return None


def pending(ids: list[int]) -> bytes:
    """The bytes that Python's forgiving decoder still holds after the last special id."""
    special = [i for i, one in enumerate(ids) if one in (*SPECIAL, MASK)]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(bytes(one - 4 for one in ids[special[-1] + 1 if special else 0 :]))
    held = decoder.getstate()[0]
    # Of a surrogate it holds two bytes until it sees a third, though nothing can complete them.
    return held if missing(held) else b""


@functools.cache
def naive_allowed(held: bytes, room: int | None) -> torch.Tensor:
    allowed = [False] * VOCAB
    for special in SPECIAL:
        allowed[special] = not held
    for byte in range(256):
        left = missing(held + bytes([byte]), 3 - len(held))
        allowed[byte + 4] = left is not None and (bool(held) or room is None or 1 + left <= room)
    return torch.tensor(allowed)


def naive_prefix(before: list[int], ids: list[int], room: int | None) -> int:
    text = list(before)
    for i, one in enumerate(ids):
        if not naive_allowed(pending(text), None if room is None else room - i)[one]:
            return i
        text.append(one)
    return len(ids)


def check_rows(rows: torch.Tensor, room: int | None = None) -> None:
    held = [pending(row) for row in rows.tolist()]
    state = utf8_state(rows)
    assert torch.equal(bytes_missing(state), torch.tensor([missing(one) for one in held]))
    assert torch.equal(allowed_ids(state, room), torch.stack([naive_allowed(one, room) for one in held]))
    lengths = torch.full((len(rows),), rows.shape[1])
    assert torch.equal(open_bytes(rows, lengths), torch.tensor([len(one) for one in held]))


@pytest.mark.parametrize("room", [None, *range(-1, 6)])
def test_every_single_byte(room):
    check_rows(torch.arange(256)[:, None] + 4, room)


def test_every_pair_of_bytes():
    pairs = torch.cartesian_prod(torch.arange(256), torch.arange(256)) + 4
    for part in pairs.split(8192):
        check_rows(part)


@given(data=BYTES, room=st.none() | st.integers(0, 5))
@example(data=b"", room=None)
@settings(deadline=None)
def test_every_byte_string(data, room):
    """Broken ones included: what was broken is dropped, and the text starts afresh."""
    check_rows(torch.tensor([to_ids(data)], dtype=torch.long), room)


@given(text=TEXTS, cut=st.integers(0, 3), byte=st.integers(0, 255) | st.sampled_from(BORDERS))
@settings(deadline=None)
def test_a_byte_may_follow_valid_text_iff_some_continuation_decodes(text, cut, byte):
    """Straight from the definition, on the whole text."""
    data = text.encode()
    data = data[: max(0, len(data) - cut)]
    allowed = allowed_ids(utf8_state(torch.tensor(to_ids(data), dtype=torch.long)))
    assert bool(allowed[byte + 4]) == (missing(data + bytes([byte])) is not None)


@given(ids=IDS, room=st.none() | st.integers(0, 5))
@settings(deadline=None)
def test_special_ids_leave_nothing_open(ids, room):
    check_rows(torch.tensor([ids], dtype=torch.long), room)
    for special in (*SPECIAL, MASK):
        assert utf8_state(torch.tensor([*ids, special])) == COMPLETE


@pytest.mark.parametrize(
    "point", [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0x10FFFF]
)
def test_code_points_at_the_borders(point):
    ids = torch.tensor([to_ids(chr(point).encode())])
    size = ids.shape[1]
    state = utf8_state(ids[:, :0])
    for column in range(size):
        assert allowed_ids(state)[0, ids[0, column]]
        state = utf8_state(ids[:, : column + 1])
        assert bytes_missing(state).item() == size - column - 1
    start = torch.tensor([COMPLETE])
    rooms = [valid_prefix(start, ids, torch.tensor([size]), room).item() for room in range(6)]
    assert rooms == [size if room >= size else 0 for room in range(6)]


@pytest.mark.parametrize(
    ("data", "valid"),
    [
        ("80", 0),  # stray continuation
        ("bf", 0),
        ("c080", 0),  # overlong
        ("c1bf", 0),
        ("e08080", 1),
        ("e09fbf", 1),
        ("f0808080", 1),
        ("f08fbfbf", 1),
        ("eda080", 1),  # U+D800
        ("edbfbf", 1),  # U+DFFF
        ("f4908080", 1),  # U+110000
        ("f5808080", 0),
        ("f888808080", 0),
        ("fe", 0),
        ("ff", 0),
        ("c3c3a9", 1),  # a character broken off by another
        ("e28241", 2),
        ("f09f9841", 3),
    ],
)
def test_what_utf8_forbids(data, valid):
    ids = torch.tensor([to_ids(bytes.fromhex(data))])
    assert valid_prefix(torch.tensor([COMPLETE]), ids, torch.tensor([ids.shape[1]])).item() == valid


@given(
    rows=st.lists(st.tuples(IDS, IDS | TEXTS.map(lambda text: to_ids(text.encode())), st.integers(-1, 6)), min_size=1),
    limited=st.booleans(),
)
@settings(deadline=None)
def test_valid_prefix_is_a_loop_over_allowed_ids(rows, limited):
    """For texts that end in a valid, open or broken character, whatever stands beyond a row's length."""
    width = max(len(draft) for _, draft, _ in rows)
    ids = torch.tensor([draft + [0x41 + 4] * (width - len(draft)) for _, draft, _ in rows], dtype=torch.long)
    lengths = torch.tensor([len(draft) for _, draft, _ in rows])
    state = torch.stack([utf8_state(torch.tensor(before, dtype=torch.long)) for before, _, _ in rows])
    room = torch.tensor([room for _, _, room in rows]) if limited else None
    expected = [naive_prefix(before, draft, room if limited else None) for before, draft, room in rows]
    assert valid_prefix(state, ids, lengths, room).tolist() == expected


def test_a_drafts_own_ids_use_up_its_room():
    """Special ids too; an open character is finished whatever the room."""
    ids = torch.tensor([to_ids("aé€a".encode()), [*to_ids(b"a"), 2, *to_ids("€aa".encode())]])
    for room, expected in {0: [0, 0], 1: [1, 2], 2: [1, 2], 3: [3, 2], 5: [3, 5], 6: [6, 6], 7: [7, 7]}.items():
        room = torch.tensor([room, room])
        assert valid_prefix(torch.tensor([COMPLETE] * 2), ids, torch.tensor([7, 7]), room).tolist() == expected
    state = utf8_state(torch.tensor(to_ids(b"\xe2")))[None]
    assert valid_prefix(state, torch.tensor([to_ids(b"\x82\xaca")]), torch.tensor([3]), 1).tolist() == [2]


@given(rows=st.lists(IDS | BYTES.map(to_ids), min_size=1, max_size=5), filler=st.integers(0, VOCAB - 1))
@settings(deadline=None)
def test_open_bytes_of_padded_rows(rows, filler):
    width = max(map(len, rows))
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], dtype=torch.long)
    expected = [len(pending(row)) for row in rows]
    assert open_bytes(ids, torch.tensor([len(row) for row in rows])).tolist() == expected


def test_leading_dimensions_are_free():
    ids = torch.randint(VOCAB, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    state = utf8_state(ids)
    assert torch.equal(state.flatten(), utf8_state(ids.flatten(0, 1)))
    room = torch.arange(6).view(2, 3)
    allowed = allowed_ids(state, room)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(allowed[i, j], allowed_ids(state[i, j], int(room[i, j])))


def generate(prompts: torch.Tensor, budget: int, without_special: bool, seed: int) -> list[list[int]]:
    """Ids drawn from random logits under the processor alone; high temperature, so that nothing is unlikely."""
    generator = torch.Generator().manual_seed(seed)
    processor = FBLTUTF8LogitsProcessor(max_length=prompts.shape[1] + budget)
    text = prompts
    for _ in range(budget):
        scores = torch.randn(len(text), VOCAB, generator=generator)
        if without_special:
            scores[:, SPECIAL] = -torch.inf
        probabilities = processor(text, scores).softmax(-1)
        assert not probabilities.isnan().any()
        text = torch.cat([text, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    return text[:, prompts.shape[1] :].tolist()


@pytest.mark.parametrize("budget", range(1, 10))
@pytest.mark.parametrize("prompt", ["", "68c3a9", "80", "e28241", "eda080", "c3c3", "f09f98", "ff"])
def test_random_texts_fill_the_budget_and_decode(prompt, budget):
    """After valid, broken (started afresh) and open prompts; the latter's character is completed first."""
    row = [0, 1, *to_ids(bytes.fromhex(prompt))]
    held = pending(row)
    for seed, ids in enumerate(generate(torch.tensor([row] * 200), budget, True, seed=budget)):
        data = held + bytes(one - 4 for one in ids)
        assert decodes(data) and len(data) - len(held) == budget, (seed, data)


def test_random_texts_hold_characters_of_every_size():
    """The limit forbids no more than it must: long characters still occur, up to the last byte that has room."""
    rows = generate(torch.tensor([[1]] * 400), 4, True, seed=1)
    texts = [bytes(one - 4 for one in row).decode() for row in rows]
    assert {len(text[-1].encode()) for text in texts} == {1, 2, 3, 4}


def test_special_ids_fall_between_characters_only():
    for row in generate(torch.tensor([[1]] * 400), 9, False, seed=2):
        parts, part = [], []
        for one in row:
            if one in SPECIAL:
                parts.append(part)
                part = []
            else:
                part.append(one)
        assert all(decodes(bytes(one - 4 for one in each)) for each in [*parts, part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("max_length", [None, 1, 4, 5, 7])
def test_scores_are_kept_or_minus_infinity(dtype, max_length):
    """A limit that is already reached (1, 4) counts as none: such a row would have nothing left to choose."""
    prompts = torch.tensor([[0, 0, 0, 1], [0, 1, *to_ids(b"a\xe2")], [1, *to_ids(b"\xe2\x82\xac")]])
    scores = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0)).to(dtype)
    given = scores.clone()
    processed = FBLTUTF8LogitsProcessor(max_length)(prompts, scores)
    room = max_length - 4 if max_length is not None and max_length > 4 else None
    allowed = torch.stack([naive_allowed(pending(row), room) for row in prompts.tolist()])
    assert processed.dtype == dtype
    assert torch.equal(processed[allowed], given[allowed])
    assert (processed[~allowed] == -torch.inf).all()
    assert torch.equal(scores, given)
    assert not processed.softmax(-1).isnan().any()


def test_no_value_is_read_back_from_the_device():
    """On the meta device, which has no values, any such read would fail."""
    ids, lengths = torch.zeros(2, 5, dtype=torch.long, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    scores = torch.zeros(2, VOCAB, device="meta")
    assert FBLTUTF8LogitsProcessor(9)(ids, scores).shape == (2, VOCAB)
    assert valid_prefix(utf8_state(ids), ids, lengths, lengths).shape == (2,)
    assert open_bytes(ids, lengths).shape == (2,)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`max_length` is 0"):
        FBLTUTF8LogitsProcessor(0)
    with pytest.raises(ValueError, match="`scores` has 300 columns"):
        FBLTUTF8LogitsProcessor()(torch.tensor([[1]]), torch.zeros(1, 300))
