"""What restorations are worth: measures against naive references, baselines, and the script on a tiny model."""

import json

import numpy as np
import pytest

pytest.importorskip("datasets")

from datasets import Dataset, DatasetDict  # noqa: E402
from fblt.training.data.restore.damage import KINDS  # noqa: E402
from fblt.training.evaluation.restoration import evaluate  # noqa: E402
from fblt.training.evaluation.restoration.baselines import FrequentForms, split_word  # noqa: E402
from fblt.training.evaluation.restoration.errors import KINDS as KINDS_OF_ERROR  # noqa: E402
from fblt.training.evaluation.restoration.errors import count_errors, errors_of, kind_of_error  # noqa: E402
from fblt.training.evaluation.restoration.measures import edit_distance, figures, ratio, right_words  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.cli import refusal  # noqa: E402

short = st.text("abé ", max_size=12)


def naive_distance(one: str, other: str) -> int:
    table = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            replaced = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            table[i][j] = min(replaced, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


@settings(max_examples=100, deadline=None)
@given(short, short)
def test_edit_distance(one, other):
    assert edit_distance(one, other) == naive_distance(one, other)


def test_words_are_compared_in_place_or_by_their_longest_runs():
    assert right_words("l'été est là", "l'été es là") == [True, False, True]
    assert right_words("l'été est là", "l'été e st là") == [True, False, True]
    assert right_words("a b c d", "b c d") == [False, True, True, True]
    assert right_words("a b", "") == [False, False]


@settings(max_examples=100, deadline=None)
@given(short, short)
def test_all_words_are_right_only_in_equal_texts(line, restored):
    assert all(right_words(line, line))
    if line.split() != restored.split():
        assert not all(right_words(line, restored)) or len(line.split()) < len(restored.split())


def test_the_standard_error_is_that_of_resampled_lines():
    chance = np.random.default_rng(0)
    wholes = chance.integers(5, 15, 200)
    parts = chance.binomial(wholes, 0.8)
    found = ratio(parts, wholes)
    assert found["value"] == pytest.approx(parts.sum() / wholes.sum()) and found["of"] == wholes.sum()
    drawn = chance.integers(0, 200, (3000, 200))
    resampled = (parts[drawn].sum(1) / wholes[drawn].sum(1)).std()
    assert found["standard_error"] == pytest.approx(resampled, rel=0.1)
    assert ratio([], [])["value"] is None


def test_figures_of_marked_words():
    found = figures(["a é", "ô u i"], ["a e", "ô u i"], [[False, True], [True, False, False]])
    assert found["words_right"]["value"] == 4 / 5
    assert found["lines_right"]["value"] == 1 / 2
    assert found["ambiguous_words_right"]["value"] == 1 / 2
    assert found["character_errors"]["value"] == 1 / 8


@pytest.mark.parametrize(
    "wanted, found, kind",
    [
        ("été", "ete", "marks"),
        ("Straße", "Strasse", "marks"),
        ("Paris", "paris", "case"),
        ("là.", "là", "punctuation"),
        ("«là»", "la", "several of these"),
        ("Été", "ete,", "several of these"),
        ("maison", "mason", "letters"),
    ],
)
def test_kinds_of_errors(wanted, found, kind):
    assert kind_of_error(wanted, found) == kind


@settings(max_examples=100, deadline=None)
@given(short, short)
def test_every_wrong_word_is_one_error(line, restored):
    counts = count_errors([line], [restored])
    assert tuple(counts) == KINDS_OF_ERROR and sum(counts.values()) == len(errors_of(line, restored))
    if len(line.split()) == len(restored.split()):
        assert sum(counts.values()) == right_words(line, restored).count(False)
    else:
        assert counts["words joined or split"] == 1


def test_most_frequent_forms():
    forms = FrequentForms(["L'été est là.", "Où est la clé?", "la clé", "la clé", "Là où est la mer.", "là"])
    assert forms.restore("la cle est la.", "accents") == "la clé est la."
    assert forms.restore("est la cle", "plain") == "est la clé"
    assert forms.restore("inconnu", "plain") == forms.restore("inconnu", "accents") == "inconnu"
    assert forms.restore("La Cle", "none") == "La Cle"
    assert not forms.is_ambiguous("clé", "accents") and not forms.is_ambiguous("la", "none")
    forms = FrequentForms(["la là la là", "la, là la"])
    assert forms.is_ambiguous("là.", "accents") and forms.is_ambiguous("la", "plain")


@settings(max_examples=100, deadline=None)
@given(st.text("ab.,(é", max_size=8))
def test_a_split_word_is_whole(word):
    assert "".join(split_word(word)) == word


def test_settings_of_decodings():
    assert evaluate.parse_decoding("blt-d:confidence_threshold=0.9,unmasking=confidence") == {
        "decoding": "blt-d",
        "confidence_threshold": 0.9,
        "unmasking": "confidence",
    }
    with pytest.raises(ValueError, match="no SETTING=VALUE"):
        evaluate.parse_decoding("blt-d:0.9")


def test_the_script_measures_every_method(tiny_checkpoint, tmp_path):
    lines = ["Été à la mer.", "Où est la clé?", "Là, là et là."]
    columns = {"text": lines * 2, "language": ["fr"] * 3 + ["de"] * 3}
    splits = {split: Dataset.from_dict(columns) for split in ("train", "test", "test_prose")}
    DatasetDict(splits).save_to_disk(str(tmp_path / "data"))
    output = tmp_path / "figures.json"
    arguments = ["--model", str(tiny_checkpoint), "--data", str(tmp_path / "data"), "--lines", "2", "--splits", "test"]
    evaluate.main(
        [*arguments, "--decoding", "ar", "--decoding", "blt-dv", "--output", str(output)], standalone_mode=False
    )
    found = json.loads(output.read_text())
    for kinds in found["splits"].values():
        assert list(kinds) == list(KINDS)
        for kind, part in kinds.items():
            assert part["lines"] == {"de": 2, "fr": 2}
            assert list(part["methods"]) == ["left alone", "most frequent form", "ar", "blt-dv"]
            assert part["equal_to_ar"] == {"blt-dv": 4}
            assert part["errors_of"] == "ar" and tuple(part["errors"]) == KINDS_OF_ERROR
            assert part["methods"]["ar"] == part["methods"]["blt-dv"]
            alone = part["methods"]["left alone"]["all"]["words_right"]["value"]
            assert alone == 1 if kind == "none" else alone < 1
            assert part["costs"]["ar"]["decoder_calls_per_byte"] == pytest.approx(1, abs=0.02)
    assert "no SETTING=VALUE" in refusal(evaluate.main, *arguments, "--decoding", "ar:x")
