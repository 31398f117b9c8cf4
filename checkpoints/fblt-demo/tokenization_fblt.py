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
    )
