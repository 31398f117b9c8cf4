"""The evaluation: its measures against naive loops, and a whole run on a tiny model."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("datasets")

from fblt.training.evaluation import evaluate  # noqa: E402
from fblt.training.evaluation.drafts import continuations, draft_figures  # noqa: E402
from fblt.training.evaluation.measures import (  # noqa: E402
    AccuracyByOffset,
    distinct_ngrams,
    first_difference,
    in_proportion,
    is_blank,
    leading_correct,
    ratio_of_means,
    summary,
)
from fblt.training.evaluation.next_bytes import next_byte_figures  # noqa: E402
from fblt.training.evaluation.plots import plot_evaluation  # noqa: E402
from fblt.training.evaluation.samples import EncodedDocument, cut_rows, draw_anchors, draw_prompts, right_padded  # noqa: E402
from fblt.training.evaluation.writing import NEAR_TIE, describe_difference, equality, readable  # noqa: E402
from fblt.training.packing.sequences import encode_document  # noqa: E402

from modeling_fblt import FBLTForCausalLM  # noqa: E402
from tests.cli import refusal, succeed  # noqa: E402

SMALL = ["--anchors", "40", "--context", "100", "--row-length", "150", "--free-prompts", "3", "--free-bytes", "24"]
SMALL += ["--exact-prompts", "4", "--quality-prompts", "1", "--batch-size", "16", "--device", "cpu"]

ids_pairs = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.tuples(st.lists(st.integers(4, 6), min_size=n, max_size=n),
                                 st.lists(st.integers(4, 6), min_size=n, max_size=n)), min_size=1, max_size=4)
)  # fmt: skip


def documents(*sizes: tuple[str, int]) -> list[EncodedDocument]:
    """Documents of `size` random lower-case letters and blanks."""
    generator = np.random.default_rng(0)
    letters = list("abcdefgh \n")
    texts = [(source, "".join(generator.choice(letters, size))) for source, size in sizes]
    return [EncodedDocument(source, encode_document(text).astype(np.int64)) for source, text in texts]


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> FBLTForCausalLM:
    model = FBLTForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64).eval()
    model.generation_config.eos_token_id = None  # texts of a given length
    return model


# --- measures ---


@given(ids_pairs)
def test_leading_correct_counts_until_the_first_miss(pairs):
    expected = []
    for draft, real in pairs:
        count = 0
        while count < len(draft) and draft[count] == real[count]:
            count += 1
        expected.append(count)
    draft, real = (torch.tensor(side) for side in zip(*pairs, strict=True))
    assert leading_correct(draft, real).tolist() == expected


@given(st.text("ab", max_size=30), st.integers(1, 4))
def test_distinct_ngrams_against_a_loop(text, n):
    seen, total = [], 0
    for start in range(len(text)):
        gram = text[start : start + n]
        if len(gram) == n:
            total += 1
            if gram not in seen:
                seen.append(gram)
    assert distinct_ngrams(text, n) == (len(seen) / total if total else None)


def test_accuracy_by_offset_counts_blanks_apart():
    tally = AccuracyByOffset(3)
    real = torch.tensor([list(b"a b"), list(b"cd\n"), list(b"e f")]) + 4
    predicted = torch.tensor([list(b"a b"), list(b"xdx"), list(b"exx")]) + 4
    tally.add(predicted[:2], real[:2])
    tally.add(predicted[2:], real[2:])
    report = tally.report()
    assert report["all"] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert report["non_blank"] == pytest.approx([2 / 3, 1.0, 1 / 2])
    only_blank = AccuracyByOffset(1)
    only_blank.add(real[:1, 1:2], real[:1, 1:2])
    assert only_blank.report() == {"all": [1.0], "non_blank": [None]}


def test_blanks_are_space_tab_and_newline():
    ids = torch.arange(261)
    assert [i - 4 for i in ids[is_blank(ids)].tolist()] == sorted(b" \t\n")


def test_summary_and_ratio():
    values = [0, 2, 2, 4]
    report = summary(values, 5)
    assert report["mean"] == 2 and report["histogram"] == [1, 0, 2, 0, 1, 0]
    assert report["standard_error"] == pytest.approx(math.sqrt((4 + 0 + 0 + 4) / 3 / 4))
    # Paired: where one measure is always half the other, so is every resampled ratio.
    assert ratio_of_means([1, 2, 3, 4], [2, 4, 6, 8], seed=0) == pytest.approx({"ratio": 0.5, "low": 0.5, "high": 0.5})
    assert ratio_of_means([1, 2], [0, 0], seed=0) == {"ratio": None, "low": None, "high": None}


@given(st.integers(0, 300), st.lists(st.integers(1, 1000), min_size=1, max_size=5))
def test_proportional_shares_sum_up_and_are_off_by_less_than_one(total, sizes):
    named = {str(i): size for i, size in enumerate(sizes)}
    shares = in_proportion(total, named)
    assert sum(shares.values()) == total
    assert all(abs(shares[name] - total * size / sum(sizes)) < 1 for name, size in named.items())


def test_first_difference():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2


# --- text ---


def test_rows_have_every_byte_as_a_target_once():
    texts = documents(("a", 100), ("b", 9), ("a", 20))
    rows = cut_rows(texts, 10)
    for source in "ab":
        targets = [row.targets for row in rows if row.source == source]
        whole = np.concatenate([document.ids[1:] for document in texts if document.source == source])
        assert np.array_equal(np.concatenate(targets), whole)
    assert all(len(row.ids) == len(row.targets) <= 10 for row in rows)
    assert sum(1 in row.ids for row in rows) == len(texts)


def test_anchors_are_distinct_in_proportion_and_within_documents():
    texts = documents(("a", 300), ("b", 100), ("b", 20))
    anchors = draw_anchors(texts, 60, drafted=4, context=80, seed=1)
    # 64 ids before and 4 bytes after an anchor: 233 of the 300 letters and 33 of the 100 will do.
    assert {source: sum(a.source == source for a in anchors) for source in "ab"} == in_proportion(
        60, {"a": 233, "b": 33}
    )
    positions = set()
    for anchor in anchors:
        text = np.concatenate([anchor.context, [anchor.carried], anchor.real])
        assert 64 <= len(anchor.context) <= 80 and len(anchor.real) == 4
        assert text.min() >= 1 and anchor.real.min() >= 4
        found = [
            (number, place)
            for number, document in enumerate(texts)
            for place in range(len(document.ids) - len(text) + 1)
            if np.array_equal(document.ids[place : place + len(text)], text)
        ]
        assert len(found) == 1
        positions.add((found[0][0], found[0][1] + len(anchor.context)))
    assert len(positions) == 60
    with pytest.raises(ValueError, match="266 positions"):
        draw_anchors(texts, 267, drafted=4, context=80, seed=1)
    assert len(draw_anchors(texts, 266, drafted=4, context=80, seed=1)) == 266


def test_prompts_take_turns_and_are_followed_by_their_reference():
    texts = documents(("a", 300), ("b", 100), ("b", 20))
    prompts = draw_prompts(texts, 5, length=30, following=40, seed=0)
    assert [prompt.source for prompt in prompts] == ["a", "b", "a", "b", "a"]
    for prompt in prompts:
        assert prompt.ids[0] == 1 and len(prompt.ids) == 31 and len(prompt.reference) == 40
        text = readable([*prompt.ids, *prompt.reference])
        assert any(text in readable(document.ids) for document in texts)
    with pytest.raises(ValueError, match="no held-out document of b"):
        draw_prompts(texts, 5, length=30, following=80, seed=0)


# --- figures ---


@torch.inference_mode()
def test_bits_per_byte_equal_a_direct_loop(model):
    texts = documents(("a", 70), ("b", 33), ("a", 20))
    figures = next_byte_figures(model, texts, row_length=25, batch_size=3)
    bits, count, right, solid, solid_right, positions, patches = 0.0, 0, 0, 0, 0, 0, 0
    for document in texts:
        for first in range(0, len(document.ids) - 1, 25):
            row = torch.tensor(document.ids[first : first + 25])[None]
            log_p = torch.log_softmax(model(row).logits[0], dim=-1)
            positions += row.shape[1]
            patches += int(model.patch(row).patch_starts[:, :-1].sum())
            for i in range(row.shape[1]):
                target = document.ids[first + i + 1 : first + i + 2]
                if len(target) and target[0] != 2:
                    bits -= float(log_p[i, target[0]]) / math.log(2)
                    hit, blank = int(log_p[i].argmax()) == target[0], chr(target[0] - 4) in " \t\n"
                    count, right = count + 1, right + hit
                    solid, solid_right = solid + (not blank), solid_right + (hit and not blank)
            positions -= first + row.shape[1] == len(document.ids)  # `</s>` is no row's input
            patches -= first + row.shape[1] == len(document.ids) and int(model.patch(row).patch_starts[0, -2])
    assert count == 123
    assert figures["all"] == pytest.approx(
        {
            "bytes": count,
            "bits_per_byte": bits / count,
            "accuracy": right / count,
            "accuracy_non_blank": solid_right / solid,
            "mean_patch_length": positions / patches,
        },
        rel=1e-6,
    )
    assert sum(source["bytes"] for source in figures["sources"].values()) == count


class DraftRecorder:
    """A streamer that keeps the drafts."""

    def __init__(self):
        self.drafts: list[list[int]] = []

    def put(self, value):
        pass

    def put_draft(self, value):
        self.drafts.append(value.tolist())

    def end(self):
        pass


@torch.inference_mode()
def test_continuations_are_those_of_decoding(model):
    """The one-step draft, the causal draft and the leading bytes of `ar` are what `generate` makes at an anchor."""
    size = model.config.block_size
    anchors = draw_anchors(documents(("a", 400)), 12, drafted=size - 1, context=90, seed=0)
    context, lengths = right_padded([anchor.context for anchor in anchors], "cpu")
    plain = []  # what the model writes after the context: the carried byte first
    for anchor in anchors:
        prompt = torch.from_numpy(anchor.context)[None]
        plain.append(model.generate(prompt, max_new_tokens=size, decoding="ar")[0, prompt.shape[1] :])
    plain = torch.stack(plain)
    carried, written = plain[:, :1], plain[:, 1:]
    # Some texts go on as the model does, for a while or to the end, so that there are leading bytes to count.
    real = torch.from_numpy(np.stack([anchor.real for anchor in anchors]))
    real[:8, :2], real[:4] = written[:8, :2], written[:4]
    model = copy.deepcopy(model)
    model.add_draft_head(hidden_size=8)
    torch.manual_seed(0)
    for weight in model.draft_head.parameters():
        weight.data.normal_()
    made = continuations(model, context, lengths, carried, real)
    assert not torch.equal(made.head, made.one_step)
    counts = leading_correct(made.next_byte, real)
    assert counts.tolist() == leading_correct(written, real).tolist()
    assert counts[:4].tolist() == [size - 1] * 4 and counts[4:].min() < size - 1

    ways = [
        ({"decoding": "blt-s"}, made.causal),
        ({"decoding": "blt-dv", "draft_head": False}, made.one_step),
        ({"decoding": "blt-dv"}, made.head),
        *(({"decoding": "blt-dv", "refine_steps": n}, draft) for n, draft in enumerate(made.refined, 1)),
    ]
    assert len(made.refined) == 2
    for way, own in ways:
        for row, anchor in enumerate(anchors):
            # The first round finds the carried byte; the second drafts after it.
            recorder, prompt = DraftRecorder(), torch.from_numpy(anchor.context)[None]
            settings = {"draft_length": size - 1, "max_new_tokens": size + 1}
            model.generate(prompt, streamer=recorder, **settings, **way)
            assert recorder.drafts[0] == own[row].tolist()


def test_batches_do_not_change_the_figures(model):
    anchors = draw_anchors(documents(("a", 300), ("b", 200)), 20, drafted=4, context=90, seed=0)
    one, other = (draft_figures(model, anchors, batch_size, seed=0) for batch_size in (20, 3))
    assert one == other
    assert one["sources"]["a"]["count"] + one["sources"]["b"]["count"] == one["count"] == 20


def test_a_difference_is_described_and_a_tie_recognised(model):
    prompt = draw_prompts(documents(("a", 300)), 1, length=30, following=10, seed=0)[0]
    with torch.inference_mode():
        best = model(torch.from_numpy(prompt.ids)[None]).logits[0, -1].topk(2).indices.tolist()
    described = describe_difference(model, prompt, [best[0], 7], [best[1], 7], 0)
    assert described["position"] == 0 and described["ids"] == best
    assert described["near_tie"] == (described["top_2_gap"] < NEAR_TIE)
    third = next(i for i in range(4, 10) if i not in best)
    assert not describe_difference(model, prompt, [best[0]], [third], 0)["near_tie"]
    tied = FBLTForCausalLM(model.config).double().eval()
    tied.lm_head.weight.data.zero_()
    top = torch.zeros(261).topk(2).indices.tolist()
    assert describe_difference(tied, prompt, [top[0]], [top[1]], 0)["near_tie"]
    report = equality(model, [prompt, prompt], [[5, 6], [5, 6]], [[5, 6], [5, 7]])
    assert report["equal"] == 1 and report["differences"][0]["prompt"] == 1


# --- the command ---


def test_a_whole_run(tiny_checkpoint, tiny_data, tmp_path):
    output, picture = tmp_path / "results" / "eval.json", tmp_path / "plots" / "evaluation.png"
    command = ["--model", str(tiny_checkpoint), "--data", str(tiny_data), "--output", str(output), *SMALL]
    printed = succeed(evaluate.main, *command, "--plot", picture)
    assert "bits/byte" in printed and "blt-dv equals ar on" in printed and str(output) in printed
    assert "…" not in printed  # eighty columns hold every table
    result = json.loads(output.read_text())
    assert set(result) == {
        "format",
        "settings",
        "environment",
        "checkpoint",
        "next_byte",
        "drafts",
        "writing",
        "quality",
    }
    assert result["settings"]["seed"] == 0 and result["checkpoint"]["training"] is None
    assert set(result["next_byte"]["sources"]) == {"code", "prose"}
    drafts = result["drafts"]
    assert drafts["count"] == 40
    for kind in ("one_step", "refined_1", "refined_2", "blt-s", "ar"):
        assert sum(drafts[kind]["leading_correct"]["histogram"]) == 40
        assert len(drafts[kind]["leading_correct"]["histogram"]) == 5
    for kind in ("one_step", "refined_1", "blt-s"):
        assert {name: len(v) for name, v in drafts[kind]["accuracy_by_offset"].items()} == {"all": 4, "non_blank": 4}
    assert {"one_step_to_blt_s", "blt_s_to_ar", "sources"} <= set(drafts)
    writing = result["writing"]
    assert list(writing["decodings"]) == ["ar", "blt-s", "blt-d", "blt-dv"]
    for name, figures in writing["decodings"].items():
        assert 0 < figures["distinct_8grams"] <= 1 and figures["traffic_mb_per_byte"] > 0
        assert (figures["acceptance"] is None) == (name == "ar")
        kept = sum(count * rounds for count, rounds in enumerate(figures["acceptance_histogram"]))
        assert (kept > 0) == (name != "ar")
    assert writing["decodings"]["ar"]["decoder_calls_per_byte"] == pytest.approx(1.0)
    assert writing["decodings"]["blt-d"]["acceptance"] == pytest.approx(1.0, abs=0.2)
    for name, report in writing["equality"].items():
        assert report["prompts"] == 4 and report["equal"] + len(report["differences"]) == 4, name
        assert all(difference["near_tie"] for difference in report["differences"])
    assert set(writing["samples"][0]) == {"source", "prompt", "reference", "ar", "blt-s", "blt-d", "blt-dv"}
    assert not [file for file in output.parent.iterdir() if file != output]
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    before = picture.read_bytes()
    result["drafts"]["one_step"]["accuracy_by_offset"]["all"] = [1.0] * 4
    plot_evaluation(result, picture)
    assert picture.read_bytes() != before


def test_quick_is_smaller_but_gives_way_to_options():
    base = ["--model", "m", "--data", "d"]
    full, quick = evaluate.parse_arguments(base), evaluate.parse_arguments([*base, "--quick", "--anchors", "7"])
    assert full.anchors == 2000 and full.max_bytes is None and full.exact_prompts == 50
    assert quick.anchors == 7 and quick.max_bytes < 1e5 and quick.free_prompts < full.free_prompts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--split", "dev"], "--split dev: the data has test"),
        (["--data", "nowhere"], "`--data` 'nowhere' does not exist"),
        (["--model", "nowhere"], "--model nowhere: holds no config.json"),
        (["--anchors", "100000"], "--anchors 100000"),
        (["--free-bytes", "5000"], "--free-bytes 5000"),
    ],
)
def test_errors_name_the_option(tiny_checkpoint, tiny_data, change, message):
    assert message in refusal(evaluate.main, "--model", tiny_checkpoint, "--data", tiny_data, *SMALL, *change)


def test_numbers_below_one_are_refused():
    assert "--anchors 0: give at least 1" in refusal(evaluate.main, "--model", "m", "--data", "d", "--anchors", "0")
