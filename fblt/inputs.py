"""What the commands on a model share: loading it with its tokenizer, and reading a text given as an argument."""

import sys
from pathlib import Path

import click
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from modeling_fblt import FBLTForCausalLM

from .tokenizers import check_tokenizer

MODEL = click.argument("model")
TEXT = click.argument("text", default="-")


def load(
    model: str, device: str = "cpu", dtype: torch.dtype | str = "auto"
) -> tuple[FBLTForCausalLM, PreTrainedTokenizerBase]:
    """A model in eval mode and its tokenizer, from a folder or a Hub repository; the code is this package's.

    Args:
        dtype: of the weights; `"auto"` for that of the file.

    Raises:
        ValueError: it is no FBLT, or its tokenizer is not the byte tokenizer.
        OSError: there is no such folder, and no such repository that can be reached.
    """
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except OSError as error:
        if Path(model).exists():
            raise
        raise OSError(f"model {model!r}: there is no such folder here, and as a name on the Hub: {error}") from error
    if not isinstance(loaded, FBLTForCausalLM):
        raise ValueError(f"model {model!r}: is a {type(loaded).__name__}; give an FBLT")
    tokenizer = AutoTokenizer.from_pretrained(model)
    check_tokenizer(tokenizer, f"model {model!r}")
    return loaded.eval().to(torch.device(device)), tokenizer


def read_text(text: str) -> str:
    """The text itself; standard input, all of it, where it is `-`.

    Raises:
        ValueError: standard input is no UTF-8, or there is no byte.
    """
    content = sys.stdin.buffer.read() if text == "-" else text.encode()
    if not content:
        raise ValueError("text: is empty; give at least one byte, as an argument or on standard input")
    return content.decode()
