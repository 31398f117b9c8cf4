"""The page: two runs in turns write what `generate` writes alone, and a browser shows it."""

import re
import shutil
import threading
from html import unescape

import pytest
import torch

from fblt.drafts import Kind
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import tiny_model
from tests.thorough import long_run

gr = pytest.importorskip("gradio", reason="the extra `page` is not installed")

from fblt.page import shown  # noqa: E402
from fblt.page.app import LONGEST_PROMPT, build_app, write_beside  # noqa: E402
from fblt.page.race import Run, race  # noqa: E402

SAMPLED = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def model():
    return tiny_model(block_size=4)


@pytest.fixture(scope="module")
def inputs():
    return build_tokenizer()("Grüße, ", return_tensors="pt")


def written(html: str) -> str:
    """The text that a part of the page shows."""
    return unescape(re.sub(r"<[^>]+>", "", html.partition('<div class="text">')[2].rpartition("</div></div>")[0]))


@pytest.mark.parametrize("decoding", ["blt-s", "blt-dv", "blt-d"])
def test_runs_in_turns_write_what_each_writes_alone(model, inputs, decoding):
    alone = {}
    for name in (decoding, "ar"):
        torch.manual_seed(5)
        alone[name] = model.generate(**inputs, decoding=name, **SAMPLED)[0].tolist()
    runs = {name: Run(model, inputs, SAMPLED | {"decoding": name}, seed=5) for name in alone}
    torch.manual_seed(99)
    before = torch.get_rng_state()
    turns = [run for run in race(list(runs.values()))]
    assert {name: run.streamer.ids for name, run in runs.items()} == alone
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers moved
    changes = sum(a is not b for a, b in zip(turns, turns[1:], strict=False))
    assert changes >= 4 and all(run.seconds > 0 for run in runs.values())


def test_the_run_that_had_less_time_goes_on(model, inputs):
    runs = [Run(model, inputs, SAMPLED | {"decoding": name}, seed=0) for name in ("blt-dv", "ar")]
    for _ in race(runs):
        for run in runs:
            run.seconds = float(len(run.streamer.ids))  # as if each byte took a second
        if not any(run.ended for run in runs):
            assert abs(runs[0].seconds - runs[1].seconds) <= len(inputs.input_ids[0]) + 5


def test_closing_a_race_ends_its_threads(model, inputs):
    threads = threading.active_count()
    running = race([Run(model, inputs, SAMPLED | {"decoding": name}, seed=0) for name in ("blt-dv", "ar")])
    for _ in range(5):
        next(running)
    running.close()
    assert threading.active_count() == threads


def test_what_is_shown_is_what_was_written(model, inputs):
    run = Run(model, inputs, SAMPLED | {"decoding": "blt-dv", "valid_utf8": True}, seed=3)
    pending = 0
    for _ in race([run]):
        html = shown.text("blt-dv", run)
        pending += 'class="drafted"' in html
        assert ('class="drafted"' in html) == run.drafting
    assert pending > 2
    html = shown.text("blt-dv", run)
    expected = build_tokenizer().decode(run.streamer.ids, skip_special_tokens=True)
    assert len(written(html).replace("↵\n", "\n")) == len(expected)
    table = shown.counters({"blt-dv": run}, greedy=False)
    assert f"<td>{int(run.output.iterations[0])}</td>" in table
    kept = sum(kind is Kind.KEPT for kind in run.streamer.kinds)
    assert f"<td>of them drafted</td><td>{kept}</td>" in table


def test_greedy_verified_text_is_told_to_be_ars(model):
    settings = {"decoding": "blt-dv", "max_new_tokens": 12, "do_sample": False}
    *_, last = write_beside(model, build_tokenizer(), "ab", settings, {}, 0, True, 0.0)
    assert written(last[0]) == written(last[1]) and "<td>same text as ar</td><td>yes</td>" in last[2]
    assert 'class="patch"' in last[3]


@pytest.mark.parametrize(
    "prompt, own, told",
    [
        ("", {}, "0 bytes"),
        ("é" * LONGEST_PROMPT, {}, f"{2 * LONGEST_PROMPT} bytes"),
        ("a", {"confidence_threshold": 7.0}, "confidence_threshold"),
    ],
)
def test_what_cannot_be_written_is_refused_in_words(model, prompt, own, told):
    settings = {"decoding": "blt-d", "max_new_tokens": 8, "do_sample": False}
    with pytest.raises(gr.Error, match=told):
        list(write_beside(model, build_tokenizer(), prompt, settings, own, 0, True, 0.0))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("scheme, size", [pytest.param("light", (1280, 900), marks=long_run), ("dark", (390, 844))])
def test_a_browser_shows_a_text_grow(model, scheme, size):
    """Types a prompt, streams, switches decodings, compares the texts; on a desktop, and on a phone in the dark."""
    pytest.importorskip("playwright.sync_api")
    from tests.page.browser import ended, opened

    with opened(build_app(model, build_tokenizer(), "tiny"), scheme, size) as page:
        page.locator("#prompt textarea").fill("typed <b>here</b> & é")
        for decoding in ("blt-s", "blt-dv"):
            page.get_by_label(f"{decoding}:").check()
            page.locator("#write").click()
            page.locator("#chosen .drafted").first.wait_for()  # a draft, before it is judged
            ended(page, decoding)
            assert page.locator("#chosen .text").inner_text().startswith("typed <b>here</b> & é")
            assert page.locator("#chosen .drafted").count() == 0  # all judged
            assert page.locator("#plain .text").inner_text().startswith("typed <b>here</b> & é")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        dark = page.evaluate("document.body.classList.contains('dark')")
        assert dark == (scheme == "dark")
