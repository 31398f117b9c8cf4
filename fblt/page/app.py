"""The page: a prompt, a decoding and its settings; two texts that grow side by side, their counters, the patches."""

import time
from collections.abc import Iterator

import gradio as gr
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_fblt.configuration_fblt import BYTE_OFFSET

from ..patch_html import legend as patches_legend
from ..patch_html import patches_html
from ..patches import find_patches
from . import shown
from .race import Run, race

DECODINGS = {
    "ar": "one byte at a time",
    "blt-s": "the decoder drafts, the model verifies",
    "blt-dv": "a block, verified",
    "blt-d": "a block, taken as it is",
}
NEED_BLOCKS = ("blt-dv", "blt-d")
EXAMPLES = ["It was a cold evening, and", "In the beginning", "def read_lines(path):\n\t"]
LONGEST_PROMPT = 2000  # bytes
MOST_NEW_BYTES = 400
SHORTEST_STEP = 0.04  # seconds between two pictures of the texts; a browser draws no faster

# What Gradio would fetch from elsewhere is left out: the page works without a network.
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = f"""{shown.STYLE}
footer {{ display: none !important; }}
.gradio-container {{ max-width: 1200px !important; margin: 0 auto !important; }}
"""
HEAD = '<meta name="viewport" content="width=device-width, initial-scale=1">'


def build_app(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> gr.Blocks:
    """The app for a model; `name` is what the page calls it."""
    offered = [d for d in DECODINGS if model.config.block_size is not None or d not in NEED_BLOCKS]
    default = "blt-dv" if "blt-dv" in offered else "blt-s"
    with gr.Blocks(title=f"FBLT: {name}", analytics_enabled=False) as app:
        gr.Markdown(f"## {name} writes bytes, many at a time\nDrafts appear, and are kept or taken back.")
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=3, max_length=LONGEST_PROMPT, elem_id="prompt")
                gr.Examples(EXAMPLES, prompt, label="Some prompts")
            with gr.Column(scale=2, min_width=300):
                decoding = gr.Radio(
                    [(f"{d}: {DECODINGS[d]}", d) for d in offered], value=default, label="Decoding", elem_id="decoding"
                )
                beside = gr.Checkbox(True, label="ar beside it, in turns", elem_id="beside")
        with gr.Accordion("Settings", open=False):
            with gr.Row():
                length = gr.Slider(8, MOST_NEW_BYTES, 160, step=8, label="New bytes", elem_id="length")
                temperature = gr.Slider(0, 1.5, 0.7, step=0.05, label="Temperature (0: greedy)", elem_id="temperature")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Row():
                draft = gr.Slider(1, 16, 8, step=1, label="blt-s: bytes per draft")
                unmasking = gr.Dropdown(
                    ["default", "one_step", "sequential", "confidence", "entropy"],
                    value="default",
                    label="Blocks: unmasking",
                )
                confidence = gr.Slider(0.1, 1, 0.7, step=0.05, label="Blocks: confidence threshold")
            with gr.Row():
                passes = gr.Slider(0, 3, 0, step=1, label="Refinement passes over a draft")
                lookup = gr.Slider(0, 16, 0, step=1, label="Bytes copied from earlier text (0: none)")
                pause = gr.Slider(0, 1, 0.1, step=0.05, label="Rest on each draft, seconds", elem_id="pause")
        with gr.Row():
            write = gr.Button("Write", variant="primary", elem_id="write", min_width=120)
            stop = gr.Button("Stop", elem_id="stop", min_width=120)
        gr.HTML(shown.legend())
        with gr.Row():
            with gr.Column(min_width=300):
                chosen_text = gr.HTML(shown.text("The decoding", None), elem_id="chosen")
            with gr.Column(min_width=300):
                plain_text = gr.HTML(shown.text("ar", None), elem_id="plain")
        table = gr.HTML(elem_id="counters")
        patches = gr.HTML(elem_id="patches")

        def run(
            prompt, decoding, beside, length, temperature, seed, draft, unmasking, confidence, passes, lookup, pause
        ) -> Iterator[tuple[str, str, str, str]]:
            settings = {"decoding": decoding, "max_new_tokens": int(length), "do_sample": temperature > 0}
            settings |= {"temperature": float(temperature)} if temperature > 0 else {}
            own = {"draft_length": int(draft), "confidence_threshold": float(confidence), "refine_steps": int(passes)}
            own |= {} if unmasking == "default" else {"unmasking": unmasking}
            own |= {"prompt_lookup_num_tokens": int(lookup)} if lookup else {}
            yield from write_beside(model, tokenizer, prompt, settings, own, int(seed or 0), beside, pause)

        settings = [length, temperature, seed, draft, unmasking, confidence, passes, lookup, pause]
        outputs = [chosen_text, plain_text, table, patches]
        writing = write.click(
            run, [prompt, decoding, beside, *settings], outputs, show_progress="hidden", api_name="write"
        )
        stop.click(None, cancels=[writing])
    return app.queue(default_concurrency_limit=1, max_size=32)


def write_beside(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: dict,
    own: dict,
    seed: int,
    beside: bool,
    pause: float,
) -> Iterator[tuple[str, str, str, str]]:
    """Writes with the chosen decoding, and with `ar` beside it; gives what the four parts of the page show.

    Args:
        settings: of `generate`, for both; `decoding` among them.
        own: of `generate`, for the chosen decoding alone.
        beside: whether `ar` writes too.
        pause: seconds to rest on a pending draft, so that an eye can see it.

    Raises:
        gr.Error: a prompt that is empty or too long, or settings that the model refuses; the message says so.
    """
    size = len(prompt.encode())
    if not 0 < size <= LONGEST_PROMPT:
        raise gr.Error(f"The prompt has {size} bytes: give 1 to {LONGEST_PROMPT}.", print_exception=False)
    decoding = settings["decoding"]
    inputs = tokenizer(prompt, return_tensors="pt", split_special_tokens=True).to(model.device)
    # The chosen decoding writes `ar` as it is; its settings are for drafts.
    chosen = Run(model, inputs, settings | (own if decoding != "ar" else {}), seed)
    runs = {decoding: chosen}
    if beside and decoding != "ar":
        runs["ar"] = Run(model, inputs, settings | {"decoding": "ar"}, seed)

    def parts() -> tuple[str, str, str]:
        beside_it = shown.text("ar", runs["ar"]) if len(runs) > 1 else ""
        return shown.text(decoding, chosen), beside_it, shown.counters(runs, greedy=not settings["do_sample"])

    yield *parts(), ""  # the patches of an earlier text go
    drawn = 0.0
    for run in race(list(runs.values())):
        seen = run is chosen and run.drafting and pause > 0
        if seen or time.monotonic() - drawn > SHORTEST_STEP:
            drawn = time.monotonic()
            yield *parts(), gr.skip()
            if seen:
                time.sleep(pause)
    for run in runs.values():
        if isinstance(run.error, ValueError):  # what the model refuses, in words for whoever set it
            raise gr.Error(str(run.error), print_exception=False)
        if run.error is not None:
            raise run.error
    yield *parts(), patched(model, chosen)


def patched(model: PreTrainedModel, run: Run) -> str:
    """The patches of all that a run wrote, prompt included."""
    ids = torch.tensor(run.streamer.ids)
    ids = ids[(ids >= BYTE_OFFSET) & (ids < BYTE_OFFSET + 256)]
    found = find_patches(model, bytes((ids - BYTE_OFFSET).tolist()))
    return shown.framed(
        f"<h3>Patches of the text</h3><p>{found.summary}. {patches_legend(found)}</p>{patches_html(found)}"
    )
