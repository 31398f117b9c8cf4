# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The trade-off: scores and their errors, answers to claims, and the whole experiment at its smallest size."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from fblt.benchmarks import tradeoff
from fblt.benchmarks.tradeoff_claims import NO, OPEN, STEADY, YES, Row, above, joint, judge
from fblt.benchmarks.tradeoff_family import BASE, Part, block_size_of, decodings, final_of, model_names, run_recipe
from fblt.benchmarks.tradeoff_scores import (
    MEASURES,
    bleu_counts,
    bleu_score,
    difference,
    summary,
    word_counts,
    word_score,
)
from fblt.training.evaluation.restoration.measures import figures
from fblt.training.run import build_model
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu import corpus_bleu

from modeling_fblt import FBLTForCausalLM
from tests.cli import refusal, succeed
from tests.modeling.tiny import tiny_model
from tests.thorough import long_run

# --- scores ---

WORDS = st.lists(st.sampled_from("a b c the cat sat on mat .".split()), min_size=1, max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_bleu_of_counts_is_sacrebleus(pairs):
    lines, texts = zip(*pairs, strict=True)
    assert bleu_score(bleu_counts(lines, texts).sum(0)) == pytest.approx(corpus_bleu(texts, [lines]).score)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_words_of_counts_are_those_of_the_evaluation(pairs):
    lines, texts = zip(*pairs, strict=True)
    found = figures(lines, texts)["words_right"]["value"]
    assert word_score(word_counts(lines, texts).sum(0)) == pytest.approx(100 * found)


def test_errors_shrink_with_lines_and_are_those_of_a_mean():
    generator = np.random.default_rng(0)
    counts = np.stack([generator.integers(0, 2, 4000), np.ones(4000, dtype=int)], 1)
    few, many = (summary(counts[:n], word_score, 0)["error"] for n in (250, 4000))
    assert many == pytest.approx(100 * 0.5 / np.sqrt(4000), rel=0.1)
    assert few == pytest.approx(4 * many, rel=0.2)


def test_differences_are_paired():
    generator = np.random.default_rng(0)
    one = np.stack([generator.integers(0, 5, 300), np.full(300, 5)], 1)
    other = np.stack([np.minimum(one[:, 0] + 1, 5), one[:, 1]], 1)
    gap, error = difference(other, one, word_score, 0)
    assert gap == pytest.approx(word_score(other.sum(0)) - word_score(one.sum(0)))
    assert 0 < error < summary(one, word_score, 0)["error"] / 2  # lines that are hard for one are for the other
    assert difference(one, one, word_score, 0) == (0.0, 0.0)


# --- claims ---


def test_a_difference_decides_at_two_errors():
    assert [above(1.0, 0.4), above(1.0, 0.6), above(-1.0, 0.4)] == [YES, OPEN, NO]
    assert [above(-1.0, 0.4, -2.0), above(-1.0, 0.4, -0.1)] == [YES, NO]
    assert [joint([YES, YES]), joint([NO]), joint([YES, NO]), joint([YES, OPEN]), joint([])] == [YES, NO, *[OPEN] * 3]


def family(scores: dict[str, float], verified: float = 0.0, **base) -> dict[tuple[str, str], Row]:
    """Rows with these scores of `STEADY` by block size; `blt-dv` scores `verified` more, at as many decoder calls."""
    rows = {
        ("base", "ar"): Row(39.0, 1.0, 0.5, 10.0, 1.0),
        ("base", "blt-s 8"): Row(39.0, **{"decoder_calls": 1.1, "global_calls": 0.2, "traffic": 6.0, **base}),
        ("blt", "ar"): Row(40.0, 1.0, 0.5, 10.0, 1.0),
    }
    for size, score in scores.items():
        rows[f"blt-d-{size}", "ar"] = Row(score + verified, 1.0, 0.5, 10.0, 1.0)
        rows[f"blt-d-{size}", STEADY] = Row(score, 0.4, 0.2, 4.0, 0.0)
        rows[f"blt-d-{size}", "blt-d confidence 0.95"] = Row(score + 50, 0.9, 0.2, 4.0, 0.0)
        rows[f"blt-d-{size}", "blt-dv one step"] = Row(score + verified, 0.45, 0.4, 7.0, 1.0)
    return rows


def answers(rows: dict, error: float, sizes=(4, 8, 16)) -> list[str]:
    return [
        found.answer for found in judge(rows, lambda one, other: (rows[one].score - rows[other].score, error), sizes)
    ]


def test_the_papers_trends_are_answered_yes():
    rows = family({4: 38.0, 8: 37.0, 16: 34.0}, 1.0, equal_to_ar=1.0)
    assert answers(rows, 0.3) == [YES, YES, YES, YES]
    assert answers(rows, 5.0)[:3] == [OPEN, OPEN, OPEN]


def test_the_opposite_is_answered_no():
    rows = family({4: 30.0, 8: 37.0, 16: 38.0}, -1.0, equal_to_ar=0.9)
    assert answers(rows, 0.3) == [NO, NO, NO, NO]


def test_a_rise_in_between_answers_no_and_mixed_sizes_decide_nothing():
    rows = family({4: 38.0, 8: 39.0, 16: 34.0}, 1.0, equal_to_ar=1.0)
    assert answers(rows, 0.3)[1] == NO
    rows["blt-d-8", "blt-dv one step"].score = 30.0
    assert answers(rows, 0.3)[2] == OPEN


def test_missing_rows_decide_nothing():
    assert answers({}, 0.1) == [OPEN] * 4


def test_the_papers_own_figures_bear_its_claims_out():
    """Its scores have no errors here: the answers are those of the differences as they are printed."""
    for size, task in (("3B", "fr-en"), ("3B", "de-en"), ("1B", "fr-en")):
        own = [row for row in tradeoff.paper_rows(tradeoff.PAPER) if (row["size"], row["task"]) == (size, task)]
        rows = {}
        for row in own:
            name = row["model"].lower()
            how = f"{row['method'].lower()} {row['setting']}".replace("alpha=", "confidence ").strip()
            rows[name, how] = Row(
                row["score"], row["decoder_calls"], row["global_calls"], row["traffic_mb"], 1.0 if name == "blt" else 0
            )
            if name == "blt":
                rows["base", how] = rows[name, how]
        assert answers(rows, 0.0) == [YES, YES, YES, YES], (size, task)


# --- the experiment ---


def test_every_decoding_is_named_once_and_quick_ones_are_some_of_them():
    for size in (None, 4):
        quick, full = decodings(size, True), decodings(size, False)
        assert set(quick) <= set(full) and all(full[name] == settings for name, settings in quick.items())
        assert len({json.dumps(value) for value in full.values()}) == len(full)
    assert STEADY in decodings(4, True)


def write_data(folder) -> list[str]:
    """A few lines and pairs in the columns of the real data; the options that name them."""
    lines = {
        "fr": ["L’été, les élèves vont à la mer et à la montagne.", "Où est le café de la gare, s’il vous plaît ?"],
        "de": ["Schöne Grüße von der Brücke über den großen Fluß.", "Die Tür ist auf, und draußen wird es kühl."],
    }
    rows = [(code, line) for code, own in lines.items() for line in own]
    columns = {"language": [code for code, _ in rows], "source": ["made up"] * len(rows)}
    texts = {**columns, "text": [line for _, line in rows]}
    english = [f"So it is, in {code}, and in a few more words." for code, _ in rows]
    pairs = {**columns, "prompt": [line + "\n" for _, line in rows], "completion": english}
    arguments = []
    for task, data in (("restore", texts), ("translate", pairs)):
        rows = Dataset.from_dict({name: values * 12 for name, values in data.items()})  # heads train on long rows
        DatasetDict(dict.fromkeys(("train", "validation", "test"), rows)).save_to_disk(str(folder / task))
        arguments += [f"--{task}-data", str(folder / task)]
    return arguments


@long_run
@pytest.mark.slow
def test_the_experiment_runs_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    arguments = [*write_data(tmp_path), "--quick", "--plot", "--work", str(tmp_path / "work")]
    output = tmp_path / "results.json"
    monkeypatch.setitem(tradeoff.QUICK, "block_sizes", [4])
    monkeypatch.setitem(tradeoff.QUICK, "lines", 1)
    calls = []
    real = tradeoff.Measurer.measure

    def stopping(self, part, batch):
        calls.append((part.task, part.model, part.batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, part, batch)

    monkeypatch.setattr(tradeoff.Measurer, "measure", stopping)
    with pytest.raises((KeyboardInterrupt, AssertionError, SystemExit)):
        succeed(tradeoff.main, *arguments, "--output", output)
    assert len(calls) == 2 and not output.exists()
    succeed(tradeoff.main, *arguments, "--output", output)
    assert calls[2] == calls[1]  # what was stopped is done again, what was done is not
    assert len(set(calls)) == len(calls) - 1

    results = json.loads(output.read_text())
    assert output.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    for task, found in results["tasks"].items():
        assert found["score"] in MEASURES and len(found["answers"]) == 4
        assert list(dict.fromkeys(row["model"] for row in found["rows"])) == model_names([4])
        by_name = {(row["model"], row["decoding"]): row for row in found["rows"]}
        for name in model_names([4]):
            plain = by_name[name, "ar"]
            assert plain["decoder_calls"] == pytest.approx(1.0, abs=0.02) and plain["equal_to_ar"] == 1.0
            assert by_name[name, "blt-s 4"]["equal_to_ar"] == 1.0, (task, name)
        assert by_name["blt-d-4", "blt-d one step"]["decoder_calls"] < 0.5
        assert by_name["blt-d-4", "blt-dv head"]["draft_head_calls"] > 0
        assert by_name["blt-d-4", "blt-dv one step"]["draft_head_calls"] == 0
    assert "differs in ['seed']" in refusal(tradeoff.main, *arguments, "--output", output, "--seed", "1")


@pytest.mark.slow
def test_a_base_that_is_given_is_copied_and_all_others_start_from_it(tmp_path):
    base = tiny_model(diffusion_loss_weight=0.0)
    base.save_pretrained(tmp_path / "given")
    options = SimpleNamespace(
        **{"restore_data": tmp_path, "restore_base": tmp_path / "given", "work": tmp_path / "work", "quick": True},
        **{"seed": 0, "base_steps": 3, "adapt_steps": 2, "rate": 0.5},
    )
    final = final_of("restore", BASE, options)
    tradeoff.train(Part("steps", "restore", BASE, 3, final / "config.json"), options)
    copied = FBLTForCausalLM.from_pretrained(final).state_dict()
    assert all(torch.equal(value, copied[name]) for name, value in base.state_dict().items())
    for name in model_names([4])[1:]:
        recipe = run_recipe("restore", name, options)
        started = build_model(recipe, None)
        assert torch.equal(started.lm_head.weight, base.lm_head.weight)
        assert started.config.block_size == (block_size_of(name) or base.config.block_size)
        assert (started.config.diffusion_loss_weight > 0) == (block_size_of(name) is not None)


def test_a_base_that_cannot_be_one_is_refused_before_any_work(tmp_path):
    tiny_model(block_size=None).save_pretrained(tmp_path / "no-mask")
    tiny_model(draft_head_config={"hidden_size": 8}).save_pretrained(tmp_path / "head")
    for folder, message in (("no-mask", "block_size"), ("head", "draft head"), ("nowhere", "fblt train")):
        arguments = ["--tasks", "restore", "--restore-base", tmp_path / folder, "--work", tmp_path / "work"]
        said = refusal(tradeoff.main, *arguments, "--output", tmp_path / "results.json")
        assert "--restore-base" in said and message in said
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--block-sizes", "8,4"], "--block-sizes"),
        (["--tasks", "translate", "--translate-data", "nowhere"], "fblt prepare translate"),
        (["--tasks", "restore", "--rate", "0"], "--rate"),
        (["--tasks", "restore", "--paper", "nowhere.csv"], "--paper"),
    ],
)
def test_bad_arguments_are_named_before_any_work(tmp_path, arguments, message):
    work = tmp_path / "work"
    assert message in refusal(tradeoff.main, *arguments, "--work", work, "--output", tmp_path / "results.json")
    assert not work.exists()
