"""The table below the demo: what each decoding wrote, what that took, and what a reader should know of it."""

from dataclasses import dataclass, field

from fblt.training.evaluation.measures import distinct_ngrams_together
from fblt.training.evaluation.traffic import COMPONENTS, calls, traffic_gb

VERIFIED = ("blt-s", "blt-dv")


@dataclass
class Tally:
    """What one decoding wrote for all prompts, and what that took."""

    written: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    calls: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COMPONENTS, 0.0))
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0

    @property
    def bytes(self) -> int:
        return sum(map(len, self.written))

    def add(self, output, prompt_length: int, seconds: float) -> None:
        """Counts one generation, a `FBLTGenerateOutput` of one row."""
        self.written.append(output.sequences[0, prompt_length:].tolist())
        self.seconds += seconds
        for name, count in calls(output).items():
            self.calls[name] += count
        self.drafted += int(output.drafted.sum())
        self.accepted += int(output.accepted.sum())
        self.rounds += int(output.iterations.sum())


def table_rows(tallies: dict[str, Tally], parameters: dict[str, int], greedy: bool) -> list[tuple[str, list[str]]]:
    """The table, one column per decoding: label and cells of each row. Only greedy text is to be the same for all."""
    plain = tallies.get("ar")
    columns = []
    for decoding, tally in tallies.items():
        per_byte = {name: count / tally.bytes for name, count in tally.calls.items()}
        column = {"bytes written": str(tally.bytes), "bytes per round": f"{tally.bytes / tally.rounds:.2f}"}
        has_patcher = parameters["patcher"] > 0
        for name in ("decoder", "encoder", "global", *["patcher"] * has_patcher):
            column[f"{name} calls per byte"] = f"{per_byte[name]:.3f}"
        for label, with_patcher in (("traffic per byte", False), *[("  with the patcher", True)] * has_patcher):
            traffic = traffic_gb(tally.calls, parameters, with_patcher=with_patcher) / tally.bytes
            column[f"{label}, MB"] = f"{1000 * traffic:.3g}"
            column[f"{label}, of ar's"] = "-"
            if plain:
                reference = traffic_gb(plain.calls, parameters, with_patcher=with_patcher) / plain.bytes
                column[f"{label}, of ar's"] = f"{traffic / reference:.0%}"
        speed = tally.bytes / tally.seconds
        column["bytes per second"] = f"{speed:.0f}"
        column["  times ar's"] = f"{speed * plain.seconds / plain.bytes:.2f}x" if plain else "-"
        kept = f"{tally.accepted / tally.drafted:.0%}" if tally.drafted else "-"
        column["drafted bytes kept"] = "unchecked" if decoding == "blt-d" else kept
        column["distinct 8-grams"] = f"{distinct_ngrams_together(tally.written):.0%}"
        if greedy:
            column["same bytes as ar"] = compare(tally, plain)
        columns.append(column)
    return [(label, [column[label] for column in columns]) for label in columns[0]]


def compare(tally: Tally, plain: Tally | None) -> str:
    """Whether a decoding wrote what plain decoding did."""
    if plain is None or tally is plain:
        return "-"
    same = sum(a == b for a, b in zip(tally.written, plain.written, strict=True))
    return "yes" if same == len(plain.written) else f"{same} of {len(plain.written)}" if same else "no"


def notes(tallies: dict[str, Tally], parameters: dict[str, int], temperature: float, seed: int) -> list[str]:
    """What a reader of the table should know."""
    greedy = temperature == 0
    sizes = ", ".join(f"{name} {parameters[name] / 1e6:.2f} M" for name in COMPONENTS if parameters.get(name))
    lines = [
        "Text is greedy, and small models repeat themselves: what is repeated is easy to draft, so other text gains "
        "less. The share of distinct 8-grams (strings of 8 bytes) tells how much is new."
        if greedy
        else f"Text is sampled at temperature {temperature:g} from seed {seed}. Verified decodings "
        f"({', '.join(VERIFIED)}) draw from the same distribution as ar, though not the same bytes; blt-d does not.",
        "Traffic is Eq. 8 of the paper, 2 bytes per parameter read: decoder calls read the decoder, global calls the "
        f"encoder and the global transformer. Parameters: {sizes}; tables of byte and hash embeddings are left out, "
        "since a lookup reads a few rows only.",
        "Calls and seconds include reading the prompt. Speed is a single timing on this machine, and much of a small "
        "network's time is Python's own.",
    ]
    plain = tallies.get("ar")
    unequal = (
        []
        if not greedy
        else [name for name in VERIFIED if name in tallies and compare(tallies[name], plain) not in ("yes", "-")]
    )
    if unequal:
        lines.append(
            f"{', '.join(unequal)}: a verified decoding can differ from ar where two bytes are equally likely."
        )
    return lines
