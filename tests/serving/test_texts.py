"""The `openai` client over HTTP is given the texts that `generate` writes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.serving.conftest import NAME

GREEDY = {"temperature": 0}
SETTINGS = [
    {},
    {"decoding": "ar"},
    {"decoding": "blt-s", "draft_length": 3},
    {"decoding": "blt-d", "unmasking": "one_step", "block_size": 4},
    {"valid_utf8": True, "refine_steps": 1},
]


def streamed(client, **fields) -> tuple[str, str]:
    """A streamed text, and why it ended."""
    text, reason = "", None
    for chunk in client.completions.create(model=NAME, stream=True, **fields):
        text += chunk.choices[0].text
        reason = chunk.choices[0].finish_reason or reason
    return text, reason


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_completion_is_what_generate_writes(client, expected, settings):
    told = client.completions.create(model=NAME, prompt="Grüße, ", max_tokens=20, extra_body=settings, **GREEDY)
    text = expected("Grüße, ", 20, do_sample=False, **settings)
    assert told.choices[0].text == text
    assert streamed(client, prompt="Grüße, ", max_tokens=20, extra_body=settings, **GREEDY)[0] == text
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (1 + len("Grüße, ".encode()), 20)
    assert told.choices[0].finish_reason == "length"


def test_a_temperature_draws_and_a_seed_repeats(client, expected):
    fields = {"prompt": "one", "max_tokens": 12, "temperature": 0.8, "top_p": 0.9}
    texts = [client.completions.create(model=NAME, seed=seed, **fields).choices[0].text for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    for seed, text in zip((1, 2), texts, strict=False):
        assert text == expected("one", 12, seed=seed, do_sample=True, temperature=0.8, top_p=0.9)
    assert streamed(client, seed=1, **fields)[0] == texts[0]
    greedy = client.completions.create(model=NAME, prompt="one", max_tokens=12, temperature=0).choices[0].text
    assert greedy == expected("one", 12, do_sample=False) and greedy not in texts


def test_several_prompts_and_several_texts_of_each(client, expected):
    prompts = ["one", "two words"]
    told = client.completions.create(model=NAME, prompt=prompts, n=2, max_tokens=8, temperature=1, seed=5)
    texts = [choice.text for choice in sorted(told.choices, key=lambda choice: choice.index)]
    wanted = [expected(prompts[i // 2], 8, seed=5 + i, do_sample=True, temperature=1.0) for i in range(4)]
    assert texts == wanted
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (4 + 10, 32)
    pieces = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(
        model=NAME, prompt=prompts, n=2, max_tokens=8, temperature=1, seed=5, stream=True
    ):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert list(pieces.values()) == wanted


@pytest.mark.parametrize("decoding", ["ar", "blt-dv"])
def test_stop_strings_end_a_text_and_are_no_part_of_it(client, expected, decoding):
    whole = expected("A", 32, do_sample=False, valid_utf8=True)
    settings = {"decoding": decoding, "valid_utf8": True}
    for stop in (whole[7:9], whole[17:20], ["never there", whole[17:20], whole[9:11]]):
        stops = [stop] if isinstance(stop, str) else stop
        cut = min(whole.find(s) if s in whole else len(whole) for s in stops)
        fields = {"prompt": "A", "max_tokens": 32, "stop": stop, "extra_body": settings, **GREEDY}
        choice = client.completions.create(model=NAME, **fields).choices[0]
        assert (choice.text, choice.finish_reason) == (whole[:cut], "stop")
        assert streamed(client, **fields) == (whole[:cut], "stop")


def test_what_the_prompt_ends_in_begins_no_stop_string(client, expected):
    whole = expected("A", 20, do_sample=False, valid_utf8=True)
    stop = "A" + whole[0]
    assert stop not in whole
    fields = {"prompt": "A", "max_tokens": 20, "stop": stop, "extra_body": {"valid_utf8": True}, **GREEDY}
    assert client.completions.create(model=NAME, **fields).choices[0].text == whole


def test_a_prompt_is_bytes_and_no_special_tokens(client, expected, tokenizer):
    text = "a</s>b<mask>"
    assert client.completions.create(model=NAME, prompt=text, max_tokens=10, **GREEDY).choices[0].text == expected(
        text, 10, do_sample=False
    )


def test_a_conversation_is_rendered_by_the_template(client, model, tokenizer):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Grüße"}, {"type": "text", "text": "!\x03"}]},
    ]
    told = client.chat.completions.create(model=NAME, messages=messages, max_completion_tokens=12, **GREEDY)
    prompt = "\x02system\nBe brief.\x03\x02user\nGrüße!\x03\x02assistant\n"
    ids = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=12, do_sample=False, eos_token_id=[2, 7])
    new = written[0, ids.input_ids.shape[1] :].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True).removesuffix("\x03")
    assert (told.choices[0].message.role, told.choices[0].message.content) == ("assistant", text)
    chunks = list(
        client.chat.completions.create(
            model=NAME,
            messages=messages,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
    assert not chunks[-1].choices and chunks[-1].usage == told.usage


def test_the_end_of_a_turn_ends_an_answer(client, model, tokenizer):
    """The model is made to write byte 3 at once: it ends the answer, and is no part of it."""
    bias = torch.zeros(261, dtype=torch.float64)
    bias[7] = 1e4
    head = model.lm_head
    hook = head.register_forward_hook(lambda module, args, output: output + bias)
    try:
        told = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Hi"}], **GREEDY)
        plain = client.completions.create(model=NAME, prompt="Hi", max_tokens=5, **GREEDY)
    finally:
        hook.remove()
    assert (told.choices[0].message.content, told.choices[0].finish_reason) == ("", "stop")
    assert told.usage.completion_tokens == 1
    assert plain.choices[0].text == "\x03" * 5


def test_32_streams_at_once(client, expected):
    """Each has a prompt of its own, and settings: no text takes anything from another."""
    kinds = [(f"prompt {i} é", SETTINGS[i % len(SETTINGS)], {"temperature": 0} if i % 3 else {}) for i in range(32)]

    def fields(i: int) -> dict:
        prompt, settings, sampling = kinds[i]
        sampling = sampling or {"temperature": 0.9, "seed": i}
        return {"prompt": prompt, "max_tokens": 6, "extra_body": settings, **sampling}

    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(lambda i: streamed(client, **fields(i))[0], range(32)))
    for (prompt, settings, sampling), text, i in zip(kinds, texts, range(32), strict=True):
        drawn = {"do_sample": False} if sampling else {"do_sample": True, "temperature": 0.9, "seed": i}
        assert text == expected(prompt, 6, **settings, **drawn), i


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
