"""The patches of a text as data: what the command `patch` prints, and what its pictures and the page draw."""

from dataclasses import dataclass

import torch

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET


@dataclass(frozen=True)
class Character:
    """Some bytes of a text that are shown together.

    Attributes:
        text: the character; `\\xe4` for a byte that belongs to none.
        start, end: its bytes, `content[start:end]`.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Patches:
    """Where a model starts patches in a text, and why.

    Attributes:
        content: the text's `n` bytes.
        starts: the first byte of each patch, in order; 0 is always one.
        entropies: `n` numbers in nats: how unsure the patcher was before each byte. None where it patches without.
        threshold: a byte whose entropy is above it starts a patch. None where nothing is compared.
        longest: a patch that is so many bytes long is cut, whatever the entropy. None: never.
    """

    content: bytes
    starts: list[int]
    entropies: list[float] | None
    threshold: float | None
    longest: int | None

    @property
    def mean_length(self) -> float:
        return len(self.content) / len(self.starts)

    @property
    def summary(self) -> str:
        return f"{len(self.content)} bytes in {len(self.starts)} patches, {self.mean_length:.2f} bytes each"


def find_patches(model: FBLTForCausalLM, content: bytes) -> Patches:
    """The patches that `model` makes of a text of one byte or more, which `<s>` is put in front of."""
    ids = torch.tensor([[BOS_ID, *(byte + BYTE_OFFSET for byte in content)]], device=model.device)
    with torch.no_grad():
        found = model.patch(ids)
    # A patch that `<s>` starts is shown from the first byte of the text.
    starts = sorted({max(position - 1, 0) for position in found.patch_starts[0, :-1].nonzero().flatten().tolist()})
    entropies = None if found.entropies is None else found.entropies[0, :-1].tolist()  # [i]: after i bytes of the text
    threshold = None if entropies is None else model.config.patching_threshold
    return Patches(content, starts, entropies, threshold, model.config.max_patch_length)


def characters(content: bytes) -> list[Character]:
    """Bytes as what is shown of them: every byte belongs to exactly one."""
    found, start = [], 0
    for character in content.decode(errors="surrogateescape"):
        raw = character.encode(errors="surrogateescape")
        found.append(Character(raw.decode(errors="backslashreplace"), start, start + len(raw)))
        start += len(raw)
    return found
