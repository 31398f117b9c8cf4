"""A training step of any size on any machine: the model's own code on weights that have a shape, but no values.

Weights and what is computed of them are torch's fake tensors. Bytes, positions and masks, on whose values the shapes of
a step depend, are real. So operations and memory are those of the code that trains, whatever a config asks for, and
there is no second description of it to keep up. Tests compare both with steps that are really made.
"""

import gc
import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from modeling_fblt import FBLTConfig, FBLTForCausalLM

# By network, how the names of its modules begin. What runs in no module of these is the draft head's.
NETWORKS = {
    "encoder": "model.encoder",
    "global": "model.global_transformer",
    "decoder": "model.decoder",
    "byte head": "lm_head",
}
DRAFT_HEAD, BACKWARD = "draft head", "backward"
CACHE_CHUNK = 512  # bytes that a cache is fed at once


@dataclass(frozen=True)
class Arrival:
    """The gradient of one weight in the backward pass.

    Attributes:
        weight: its name.
        size: bytes of the gradient.
        beside: the most bytes, since the arrival before, that were neither weights nor gradients that had arrived.
    """

    weight: str
    size: int
    beside: int


@dataclass(frozen=True)
class StepCost:
    """What one step takes, in one process.

    Attributes:
        forward: operations by network; a multiplication with an addition is two.
        backward: operations; what is computed a second time for lack of memory included.
        arrivals: of gradients, in their order.
        kept: bytes that the forward pass keeps for the backward pass.
    """

    forward: dict[str, int]
    backward: int
    arrivals: list[Arrival]
    kept: int


class StepCounter(TorchDispatchMode):
    """Counts the bytes of all tensors that operators make and something still holds, and operations by network.

    torch's own counter of operations keeps states of checkpointed layers, so that memory cannot be told beside it.

    Attributes:
        now, highest: bytes.
        operations: by network, and of the backward pass.
        network: to which operations are counted.
    """

    def __init__(self, held: Iterable[torch.Tensor]):
        super().__init__()
        self.now = self.highest = 0
        self.network = DRAFT_HEAD
        self.operations = dict.fromkeys((*NETWORKS, DRAFT_HEAD, BACKWARD), 0)
        self.known = WeakIdKeyDictionary()
        for tensor in held:  # weights, which are not counted
            self.known[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*_numbered(func, args), **(kwargs or {}))
        self.operations[self.network] += operations_of(func, args, kwargs or {}, out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        size = storage.nbytes()
        self.known[storage] = None
        weakref.finalize(storage, self.take, size)
        self.now += size
        self.highest = max(self.highest, self.now)

    def take(self, size: int) -> None:
        self.now -= size

    def highest_since(self) -> int:
        """The most bytes at once since this was asked last."""
        found, self.highest = self.highest, self.now
        return found

    def watch(self, model: nn.Module) -> list:
        """Counts operations of the forward pass by network from now on; returns the hooks that do."""
        hooks = []
        for name, module in model.named_modules():
            network = next((n for n, begin in NETWORKS.items() if name.startswith(begin)), None)
            if network is not None:
                hooks.append(module.register_forward_pre_hook(lambda *_, network=network: self._enter(network)))
                hooks.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        self.entered: list[str] = []
        return hooks

    def _enter(self, network: str) -> None:
        self.entered.append(self.network)
        if self.network != BACKWARD:  # in which checkpointed layers run again
            self.network = network

    def _leave(self) -> None:
        self.network = self.entered.pop()


def operations_of(func, args: tuple, kwargs: dict, out) -> int:
    """Operations of one operator as torch's flop counter has them, which knows attention on GPUs alone."""
    packet = func._overloadpacket
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(x.shape for x in args[:3]))
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        # Each of its two products has two gradients; the products themselves, computed again, are not counted.
        return 2 * sdpa_flop_count(*(x.shape for x in args[1:4]))
    count = flop_registry.get(packet)
    return 0 if count is None else count(*args, **kwargs, out_val=out)


def _numbered(func, args: tuple) -> tuple:
    """Arguments of indexing by real masks, which fake tensors cannot be indexed by, as numbers."""
    if func is not torch.ops.aten.index.Tensor:
        return args
    indices = []
    for index in args[1]:
        is_mask = index is not None and index.dtype == torch.bool
        indices += index.nonzero(as_tuple=True) if is_mask else [index]
    return (args[0], indices, *args[2:])


def fake_model(config: FBLTConfig, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> FBLTForCausalLM:
    """A model in train mode whose weights have no values."""
    with torch.device("meta"):
        model = FBLTForCausalLM(config).to(dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
    model.set_attn_implementation(attention)
    return model.train()


def regular_starts(length: int, patch_length: float) -> torch.Tensor:
    """Starts of patches of so many bytes on average, of a row and the position after it: `[length + 1]`."""
    starts = torch.zeros(length + 1, dtype=torch.bool)
    starts[:2] = True
    begins = 1 + (torch.arange(length) * patch_length).round().long()
    starts[begins[begins <= length]] = True
    return starts


def dry_step(
    model: nn.Module,
    rows: int,
    length: int,
    patch_length: float,
    autocast: bool = False,
    backward: bool = True,
) -> StepCost:
    """A training step of `rows` rows of `length` bytes each.

    Args:
        model: of [`fake_model`], or a real one, whose step is then really made.
        patch_length: mean bytes of a patch; patches are as equally long as that allows.
        autocast: products in bfloat16.
        backward: whether to go back, too; without, `backward` is 0 and nothing arrives.
    """
    torch.manual_seed(0)
    ids = torch.randint(4, 260, (rows, length))
    starts = regular_starts(length, patch_length).expand(rows, -1)
    weights = dict(model.named_parameters())
    counter = StepCounter([*weights.values(), *model.buffers()])
    arrivals: list[Arrival] = []

    def arrived(name: str):
        def note(weight: torch.Tensor) -> None:
            size = weight.grad.untyped_storage().nbytes()
            arrivals.append(Arrival(name, size, counter.highest_since()))
            counter.take(size)
            counter.highest = counter.now

        return note

    hooks = [w.register_post_accumulate_grad_hook(arrived(name)) for name, w in weights.items() if w.requires_grad]
    hooks += counter.watch(model)
    half = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with counter:
        with half:
            loss = model(input_ids=ids, labels=ids, patch_starts=starts).loss
        kept = counter.now
        counter.network = BACKWARD
        if backward:
            loss.backward()
    for hook in hooks:
        hook.remove()
    back = counter.operations.pop(BACKWARD)
    return StepCost(counter.operations, back, arrivals, kept)


@torch.no_grad()
def cache_bytes(model: FBLTForCausalLM, length: int, patch_length: float) -> int:
    """Bytes of the KV cache of one row, with the room that its buffers keep in reserve."""
    model.eval()
    ids = torch.randint(4, 260, (1, length))
    starts = regular_starts(length, patch_length)
    counter = StepCounter([*model.parameters(), *model.buffers()])
    with counter:
        cache = None
        for first in range(0, length, CACHE_CHUNK):
            chunk = slice(first, first + CACHE_CHUNK)
            given = starts[None, first : min(first + CACHE_CHUNK, length) + 1]
            cache = model(ids[:, chunk], past_key_values=cache, patch_starts=given, use_cache=True).past_key_values
    held = counter.now
    del cache
    gc.collect()
    return held - counter.now  # beside the cache, constants were made that stay
