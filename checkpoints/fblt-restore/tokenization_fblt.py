# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The byte tokenizer: byte `b` is id `b + 4`, beside `<pad>`, `<s>`, `</s>`, a reserved id and `<mask>`.

It is a byte-level BPE without merges, hence a plain `tokenizer.json` that `AutoTokenizer` loads without any of this
code: this module is only needed to write that file.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID, MASK_ID, PAD_ID, RESERVED_ID

PAD, BOS, EOS, RESERVED, MASK = "<pad>", "<s>", "</s>", "<reserved>", "<mask>"
# transformers' own "no limit": a finite number would make it warn about long texts.
NO_LENGTH_LIMIT = int(1e30)
# A vocabulary of bytes takes no tokens for turns. Two control characters of ASCII, "start of text" and "end of text",
# mark them: one byte each, and none that text has. `</s>` cannot end a turn: the next one would see nothing before it.
START_OF_TURN, END_OF_TURN = 2, 3
CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- set parts = [content] if content is string else content | map(attribute='text') | list -%}
{{- parts | join('') | replace('\\x02', '') | replace('\\x03', '') -}}
{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role not in ('system', 'user', 'assistant', 'tool') -%}
{{- raise_exception('role ' ~ message.role ~ ': give system, user, assistant or tool') -}}
{%- endif -%}
{{- '\\x02' ~ message.role ~ '\\n' -}}
{%- if message.role == 'assistant' -%}
{% generation %}{{- text(message.content) ~ '\\x03' -}}{% endgeneration %}
{%- else -%}
{{- text(message.content) ~ '\\x03' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '\\x02assistant\\n' -}}
{%- endif -%}
"""


def _byte_characters() -> list[str]:
    """The printable character by which ByteLevel writes each of the 256 bytes.

    As in GPT-2: printable Latin-1 characters stand for themselves, the rest take the characters from U+0100 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    stand_ins = iter(range(256, 512))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer that every FBLT model uses.

    Encoding puts `<s>` in front and pads on the left. Every string survives encoding and decoding; bytes that are not
    valid UTF-8 survive as ids (`byte + 4`), while `decode` shows them as U+FFFD.

    The literal text `</s>` (and the other special tokens) is read as that token, so untrusted text could end a
    document. `tokenizer(text, split_special_tokens=True)` reads it as bytes; `<s>` is still put in front. As an
    argument of `from_pretrained` the same switch holds for every call.

    Conversations (`apply_chat_template`) are spelled in bytes: `<s>`, then per turn byte 2, the role, a newline, what
    was said, and byte 3, which is the id 7. Neither byte can be said: the template leaves them out. A model that was
    tuned to conversations stops at its turn's end with `generation_config.eos_token_id = [2, 7]`.

    Returns:
        A fast tokenizer with 261 ids. `save_pretrained` writes `tokenizer.json` and `tokenizer_config.json`.
    """
    special = {PAD: PAD_ID, BOS: BOS_ID, EOS: EOS_ID, RESERVED: RESERVED_ID, MASK: MASK_ID}
    byte_ids = {character: byte + BYTE_OFFSET for byte, character in enumerate(_byte_characters())}
    backend = Tokenizer(models.BPE(vocab=special | byte_ids, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    backend.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        mask_token=MASK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=NO_LENGTH_LIMIT,
        chat_template=CHAT_TEMPLATE,
    )
