"""How many operators a byte and an iteration launch: counts, which are the same on any machine, not times.

    python -m benchmarks.operators
    python -m benchmarks.operators --geometry small

A small model spends its time on launching operators, and any model does on a GPU. So what is counted here holds where
no clock can be trusted:

- operators: calls that compute or write, as torch dispatches them on this device; views are counted apart;
- waits: what would wait for a device: values read by the host, shapes that hang on values, constants copied to it;
- allocations: fresh tensors, and their bytes.

Each is told by part: the networks' own calls, what stands around them in a step (masks, cache, patch starts), and the
loop of `generate`. The first round, which reads the prompt, is left out.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_fblt import FBLTForCausalLM, drafters_fblt, generation_state_fblt, refinement_fblt
from modeling_fblt.generation_state_fblt import GenerationState

from .decoding import FEW, bundled_prompts, generate, modes_of
from .harness import DTYPES, POSITIVE, benchmark, build_console, build_table, number, option, report, start
from .network_times import PARTS, wrapped_networks
from .plots import bars
from .random_models import GEOMETRIES, random_model

STEP, LOOP = "around", "loop"
# Where the steps are called from: their module's name for each.
STEPS = ((generation_state_fblt, "feed"), (drafters_fblt, "draft_block"), (drafters_fblt, "draft_bytes"))
STEPS += ((refinement_fblt, "draft_bytes"),)
READS = {"aten._local_scalar_dense", "aten.nonzero", "aten._unique2", "aten.masked_select", "aten.is_nonzero"}


@dataclass
class Launches:
    """What was launched: operators and views by name, waits by kind, allocations and their bytes."""

    operators: Counter = field(default_factory=Counter)
    views: int = 0
    waits: Counter = field(default_factory=Counter)
    allocations: int = 0
    allocated_bytes: int = 0

    def add(self, other: "Launches") -> None:
        self.operators.update(other.operators)
        self.waits.update(other.waits)
        self.views += other.views
        self.allocations += other.allocations
        self.allocated_bytes += other.allocated_bytes


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


class CountLaunches(TorchDispatchMode):
    """Counts what torch launches while the mode is on.

    On a CPU nothing waits, so what would wait elsewhere is counted.

    Attributes:
        by_part: what each part launched itself, the parts that it calls left out.
        part: the part that runs now.
    """

    def __init__(self):
        super().__init__()
        self.by_part: dict[str, Launches] = {}
        self.part = LOOP

    @property
    def now(self) -> Launches:
        return self.by_part.setdefault(self.part, Launches())

    def take(self) -> dict[str, Launches]:
        """What was counted since the last call."""
        taken, self.by_part = self.by_part, {}
        return taken

    def __enter__(self):
        # A list is read from memory without an operator.
        self._tolist = tolist = torch.Tensor.tolist

        def counted(tensor):
            self.now.waits["list"] += 1
            return tolist(tensor)

        torch.Tensor.tolist = counted
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.tolist = self._tolist
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, now = kwargs or {}, self.now
        name = str(func).rsplit(".", 1)[0]
        self._count_wait(name, args, now)
        result = func(*args, **kwargs)
        given = {tensor.untyped_storage()._cdata for tensor in _tensors([args, list(kwargs.values())])}
        outputs = list(_tensors(result))
        fresh = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in given]
        if outputs and not fresh and not func._schema.is_mutable:
            now.views += 1
        else:
            now.operators[name] += 1
        now.allocations += len(fresh)
        now.allocated_bytes += sum(tensor.nbytes for tensor in fresh)
        return result

    @staticmethod
    def _count_wait(name: str, args: tuple, now: Launches) -> None:
        if name in READS:
            now.waits[name] += 1
        if name == "aten.lift_fresh":
            now.waits["constant"] += 1
        indices = args[1] if name in ("aten.index", "aten.index_put_", "aten.index_put") else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            now.waits["boolean index"] += 1


@dataclass
class Rounds:
    """What the rounds of a generation launched, by part, the first round left out.

    Attributes:
        count: rounds.
        new_bytes: bytes they wrote.
        calls: of each network.
    """

    count: int = 0
    new_bytes: int = 0
    by_part: dict[str, Launches] = field(default_factory=dict)
    calls: Counter = field(default_factory=Counter)

    def total(self) -> Launches:
        total = Launches()
        for launches in self.by_part.values():
            total.add(launches)
        return total


def count_rounds(model, write: Callable[[], Any]) -> Rounds:
    """Counts what `write`, which calls `generate`, launches round by round."""
    rounds, mode, calls = Rounds(), CountLaunches(), Counter()
    has_ended, before = GenerationState.has_ended, [0]

    def within(part: str, call: Callable) -> Callable:
        def run(*args, **kwargs):
            outer, mode.part = mode.part, part
            calls[part] += 1
            try:
                return call(*args, **kwargs)
            finally:
                mode.part = outer

        return run

    def at_the_end(state, ended):
        verdict = has_ended(state, ended)
        taken, written = mode.take(), state.known.sum()
        with torch.utils._python_dispatch._disable_current_modes():
            written = int(written)
        if state.round > 0:
            rounds.count += 1
            rounds.new_bytes += written - before[0]
            rounds.calls.update(calls)
            for part, launches in taken.items():
                rounds.by_part.setdefault(part, Launches()).add(launches)
        before[0] = written
        mode.take()  # what this function itself asked for
        calls.clear()
        return verdict

    steps = [(module, name, getattr(module, name)) for module, name in STEPS]
    GenerationState.has_ended = at_the_end
    for module, name, step in steps:
        setattr(module, name, within(STEP, step))
    try:
        with wrapped_networks(model, within), mode:
            write()
    finally:
        GenerationState.has_ended = has_ended
        for module, name, step in steps:
            setattr(module, name, step)
    return rounds


def figures_of(rounds: Rounds, layers: int) -> dict:
    """Means per iteration and byte, and by part.

    Args:
        layers: transformer layers that ran, per round of `rounds` summed up.
    """
    total, n = rounds.total(), rounds.count
    in_order = [part for part in (*PARTS, STEP, LOOP) if part in rounds.by_part]
    networks = sum(rounds.calls[part] for part in ("patcher", "encoder", "global", "decoder"))
    waits = sum(total.waits.values())
    return {
        "rounds": n,
        "bytes_per_iteration": rounds.new_bytes / n,
        "operators_per_iteration": total.operators.total() / n,
        "operators_per_byte": total.operators.total() / rounds.new_bytes,
        "views_per_iteration": total.views / n,
        "waits_per_iteration": waits / n,
        "network_calls_per_iteration": networks / n,
        "allocations_per_iteration": total.allocations / n,
        "allocated_kb_per_iteration": total.allocated_bytes / n / 1e3,
        "layers_per_iteration": layers / n,
        "waits": {kind: count / n for kind, count in total.waits.items()},
        "operators_by_part": {part: rounds.by_part[part].operators.total() / n for part in in_order},
        "operators_by_name": {name: count / n for name, count in total.operators.most_common()},
    }


def count_decoding(model, prompts, settings: dict, new_bytes: int) -> dict:
    """[`figures_of`] a decoding, over all prompts, one at a time. What is made once a process is left out."""
    together, networks = Rounds(), model.model
    for prompt in prompts:
        generate(model, prompt, settings, new_bytes)
        rounds = count_rounds(model, lambda prompt=prompt: generate(model, prompt, settings, new_bytes))
        together.count += rounds.count
        together.new_bytes += rounds.new_bytes
        together.calls.update(rounds.calls)
        for part, launches in rounds.by_part.items():
            together.by_part.setdefault(part, Launches()).add(launches)
    parts = {"patcher": networks.patcher, "encoder": networks.encoder, "decoder": networks.decoder}
    parts["global"] = networks.global_transformer
    layers = sum(together.calls[name] * len(part.layers) for name, part in parts.items() if part is not None)
    return figures_of(together, layers)


def print_results(results: dict, console: Console) -> None:
    modes = results["modes"]
    table = build_table(
        f"{results['model']}, {results['prompts']} bundled prompts, {results['new_bytes']} bytes, greedy, "
        f"{results['dtype']}",
        "mode", "B/iter", "layers", "op/iter", "op/B", "views", "waits", "networks", "alloc", "KB",
        caption="Means over all rounds but the first. op: operators without views; networks: calls of the four.",
    )  # fmt: skip
    names = ("bytes", "layers", "operators", None, "views", "waits", "network_calls", "allocations", "allocated_kb")
    for name, figures in modes.items():
        keys = ["operators_per_byte" if key is None else f"{key}_per_iteration" for key in names]
        table.add_row(name, *(number(figures[key], 1) for key in keys))
    console.print(table)
    parts = [part for part in (*PARTS, STEP, LOOP) if any(part in f["operators_by_part"] for f in modes.values())]
    table = build_table(
        "Operators per iteration, by part", "mode", *parts, caption="around: masks, cache, patch starts"
    )
    for name, figures in modes.items():
        table.add_row(name, *(number(figures["operators_by_part"].get(part), 1) for part in parts))
    console.print(table)


def draw(results: dict, path: Path) -> None:
    modes = results["modes"]
    bars(
        path,
        f"Operators of each decoding of {results['model']}, views left out",
        list(modes),
        {"per byte": [figures["operators_per_byte"] for figures in modes.values()]},
        "operators per byte (shorter is better)",
        note=f"{results['prompts']} bundled prompts, {results['new_bytes']} bytes, greedy, {results['dtype']}",
        digits=0,
    )


@benchmark(__doc__, "operators", repetitions=1, dtype="float32")
@option("--model", default="checkpoints/fblt-demo", help="Checkpoint folder.")
@option("--geometry", type=click.Choice(list(GEOMETRIES)), help="Random weights of this shape instead.")
@option("--prompts", type=POSITIVE, default=3, help="Bundled prompts.")
@option("--new-bytes", type=POSITIVE, default=64)
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.prompts, options.new_bytes = 1, 12
    results, console = start(options), build_console()
    dtype = DTYPES[options.dtype]
    if options.geometry is None:
        model = FBLTForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    else:
        model = random_model(GEOMETRIES[options.geometry](block_size=8), dtype)
    prompts = bundled_prompts(160)[: options.prompts]
    modes = {name: settings for name, settings in modes_of(model).items() if name in (*FEW, "blt-d one-step")}
    counted = {name: count_decoding(model, prompts, settings, options.new_bytes) for name, settings in modes.items()}
    results |= {
        "model": options.geometry or str(options.model),
        "prompts": len(prompts),
        "new_bytes": options.new_bytes,
        "modes": counted,
    }
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
