"""Damage to lines: what each kind leaves, against naive references, and what random numbers it depends on."""

import string
import unicodedata

import numpy as np
import pytest
from fblt.training.data.restore.damage import (
    HIGHEST_TYPO_RATE,
    KINDS,
    NEIGHBOURS,
    PUNCTUATION,
    add_typos,
    check_shares,
    damage,
    draw_damage,
    make_plain,
    strip_marks,
)
from hypothesis import given, settings
from hypothesis import strategies as st

LETTERS = (
    "abcxyzABCXYZ" + "áâãäąăçčďđéěęẽíıİłňñóöőơøřşșßśťțúůűưýžżŁĐŚ" + "ạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ"
)
texts = st.text(LETTERS + " .,;:!?()\"'-–…«»„”’3")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_stripped_letters_are_those_of_the_latin_alphabet(text):
    stripped = strip_marks(text)
    assert all(c in string.ascii_letters for c in stripped if c.isalpha())
    # Everything that is no letter stays, in its order.
    assert [c for c in stripped if not c.isalpha()] == [c for c in text if not c.isalpha()]
    assert strip_marks(stripped) == stripped


def test_letters_that_have_no_separate_mark():
    assert strip_marks("Łódź, đường, ığdır, İzmir, Größe, cœur, Œuvre") == (
        "Lodz, duong, igdir, Izmir, Grosse, coeur, OEuvre"
    )


@settings(max_examples=100, deadline=None)
@given(texts)
def test_composed_and_decomposed_text_lose_their_marks_alike(text):
    assert strip_marks(unicodedata.normalize("NFD", text)) == strip_marks(unicodedata.normalize("NFC", text))


@settings(max_examples=100, deadline=None)
@given(texts)
def test_plain_text_is_lower_case_and_has_signs_within_words_only(text):
    plain = make_plain(text)
    assert plain == plain.lower() == make_plain(plain)
    assert plain == " ".join(plain.split())
    for index, character in enumerate(plain):
        if character in PUNCTUATION:
            run = plain[:index].rstrip(PUNCTUATION), plain[index:].lstrip(PUNCTUATION)
            assert run[0][-1:].isalnum() and run[1][:1].isalnum(), plain


def test_plain_text_by_example():
    assert make_plain("«Ouvrez» l’URL (version 3.5): c'est-à-dire index.html!") == (
        "ouvrez l'url version 3.5 c'est-a-dire index.html"
    )
    assert make_plain("Ja – czy on…") == "ja czy on"


def naive_neighbours(key: str) -> set[str]:
    """Keys that touch a key on a keyboard whose rows are each shifted by half a key."""
    rows = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
    row = next(index for index, keys in enumerate(rows) if key in keys)
    column = rows[row].index(key)
    places = [(row, column - 1), (row, column + 1)]
    places += [(row - 1, column), (row - 1, column + 1), (row + 1, column - 1), (row + 1, column)]
    return {rows[r][c] for r, c in places if 0 <= r < 3 and 0 <= c < len(rows[r])}


def test_keys_beside_a_key():
    for key in string.ascii_lowercase:
        assert naive_neighbours(key) <= set(NEIGHBOURS[key])
        assert key not in NEIGHBOURS[key]
        assert all(key in NEIGHBOURS[other] for other in NEIGHBOURS[key])


def one_typo_away(line: str) -> set[str]:
    """Every line that one typing error makes of `line`."""
    found = set()
    for i, letter in enumerate(line):
        if letter.isalpha():
            found |= {line[:i] + letter + line[i:], line[:i] + line[i + 1 :]}
            found |= {line[:i] + other + line[i + 1 :] for other in NEIGHBOURS[letter.lower()]}
            if line[i + 1 : i + 2].isalpha():
                found.add(line[:i] + line[i + 1] + letter + line[i + 2 :])
    return found


def test_errors_are_of_the_four_kinds_and_all_of_them_come():
    line = "ab cd"
    seen = set()
    for seed in range(3000):
        damaged = add_typos(line, 0.15, generator(seed))
        if damaged in one_typo_away(line):
            seen.add(damaged)
    assert seen == one_typo_away(line)


@settings(max_examples=100, deadline=None)
@given(st.text("abc d.", max_size=30), st.integers(0, 2**32))
def test_no_errors_at_a_rate_of_nothing_and_none_outside_letters(line, seed):
    assert add_typos(line, 0.0, generator(seed)) == line
    damaged = add_typos(line, 1.0, generator(seed))
    assert [c for c in damaged if not c.isalpha()] == [c for c in line if not c.isalpha()]


def test_the_rate_is_the_share_of_letters_that_errors_begin_at():
    line = "a" * 20_000  # only doubled and dropped letters show, and replaced ones
    damaged = add_typos(line, 0.04, generator())
    replaced = len(damaged) - damaged.count("a")
    assert 0.0075 < replaced / len(line) < 0.0125


def test_rates_are_drawn_evenly_up_to_the_highest(monkeypatch):
    rates = []
    monkeypatch.setattr("fblt.training.data.restore.damage.add_typos", lambda line, rate, _: rates.append(rate) or "")
    for index in range(2000):
        draw_damage("line", {"typos": 1.0}, (0, 0, index))
    counts, _ = np.histogram(rates, bins=6, range=(0.0, HIGHEST_TYPO_RATE))
    assert counts.sum() == 2000 and counts.min() > 250 and counts.max() < 420


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(0, 2**32))
def test_kinds_build_on_each_other(line, seed):
    assert damage(line, "none", generator(seed)) == line
    assert damage(line, "accents", generator(seed)) == strip_marks(line)
    assert damage(line, "plain", generator(seed)) == make_plain(line)
    assert damage(line, "typos", generator(seed), typo_rate=0.0) == make_plain(line)


def test_damage_is_a_function_of_its_seed():
    line = "Những người được phép sử dụng, không?"
    shares = {"accents": 0.25, "plain": 0.35, "typos": 0.3, "none": 0.1}
    drawn = [draw_damage(line, shares, (0, 0, index)) for index in range(50)]
    assert drawn == [draw_damage(line, shares, (0, 0, index)) for index in range(50)]
    assert drawn != [draw_damage(line, shares, (0, 1, index)) for index in range(50)]
    assert drawn != [draw_damage(line, shares, (1, 0, index)) for index in range(50)]


def test_kinds_come_in_their_shares():
    line = "Élan Ω"
    shares = {"accents": 0.25, "plain": 0.35, "none": 0.4}
    drawn = [draw_damage(line, shares, (0, 0, index)) for index in range(4000)]
    for kind, share in shares.items():
        assert abs(drawn.count(damage(line, kind, generator())) / 4000 - share) < 0.03


def test_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match="`kind` is 'noise'"):
        damage("a", "noise", generator())
    for shares in ({}, [], {"noise": 1.0}, {"plain": 0.5}, {"plain": 1.5, "none": -0.5}, {"plain": "1"}):
        with pytest.raises(ValueError, match="`damage`"):
            check_shares(shares, "damage")
    check_shares(dict.fromkeys(KINDS, 0.25), "damage")
