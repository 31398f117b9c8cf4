"""Whether a tokenizer beside a model is the byte tokenizer: the model sees ids alone and cannot tell."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modeling_fblt.configuration_fblt import BYTE_OFFSET, VOCAB_SIZE
from modeling_fblt.tokenization_fblt import build_tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json")
REMEDY = "give the byte tokenizer, which saving an FBLT writes (`modeling_fblt.tokenization_fblt.build_tokenizer`)"
# Every byte that UTF-8 has, nearly: one-byte characters, and leads and continuations of the others.
PROBE = "".join(map(chr, range(1, 0x800))) + "\u0800\u4e2d\uac00\ufffd\U00010000\U0001f600\U000fffff \n"


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuses a tokenizer whose ids are not the model's.

    Args:
        tokenizer: any. Templates and settings of its own are fine; other ids for bytes, or more of them, are not.
        where: what the message calls its place, such as `--source folder`.

    Raises:
        ValueError: names an id that differs, and the remedy.
    """
    vocabulary, expected = tokenizer.get_vocab(), build_tokenizer().get_vocab()
    for token, number in sorted(expected.items(), key=lambda item: item[1]):
        if vocabulary.get(token) != number:
            raise ValueError(
                f"{where}: its tokenizer has id {vocabulary.get(token)} for {token!r}, where the weights have "
                f"{number}; {REMEDY}"
            )
    extra = {token: number for token, number in vocabulary.items() if not 0 <= number < VOCAB_SIZE}
    if extra:
        token = min(extra, key=extra.get)
        raise ValueError(
            f"{where}: its tokenizer has the token {token!r} with id {extra[token]}, and the weights end with id "
            f"{VOCAB_SIZE - 1}: spell new tokens as bytes; {REMEDY}"
        )
    found = tokenizer(PROBE, add_special_tokens=False).input_ids
    wanted = [byte + BYTE_OFFSET for byte in PROBE.encode()]
    if found != wanted:
        place = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(found))
        raise ValueError(
            f"{where}: its tokenizer does not spell text as bytes: it gives {len(found)} ids for {len(wanted)} bytes, "
            f"and they differ from byte {place} of a probe on; {REMEDY}"
        )
    if tokenizer.decode(wanted) != PROBE:
        raise ValueError(f"{where}: its tokenizer does not read bytes back as the text they are; {REMEDY}")


def check_saved_tokenizer(folder: Path, where: str) -> None:
    """The same of the tokenizer in a folder, if there is one."""
    if any((folder / name).is_file() for name in FILES):
        check_tokenizer(AutoTokenizer.from_pretrained(folder), where)
