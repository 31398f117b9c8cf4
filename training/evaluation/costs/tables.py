"""A plan as tables; each says how its figures were come by."""

from rich.console import Console
from rich.table import Table


def print_plan(found: dict, console: Console) -> None:
    """Prints what `plan` found."""
    settings = found["settings"]
    for table in (_networks(found), _memory(found), _decoding(found)):
        console.print(table)
    kind = "DDP" if settings["shards"] == 1 else f"FSDP2, {settings['shards']} shards"
    if settings["shards"] not in (1, settings["gpus"]):
        kind += f" in {settings['gpus'] // settings['shards']} replicas"
    fits = "fits" if found["fits"] else "does NOT fit: fewer rows, activation_checkpointing, or more shards"
    lines = [
        f"{settings['gpus']} x {settings['gpu']}, {kind}; {settings['rows']} rows of {settings['sequence_length']} "
        f"bytes each, {settings['bytes_per_step']:,} bytes a step, patches of {settings['patch_length']:g} bytes",
        f"{found['memory_needed'] / 1e9:.1f} GB of each GPU's memory (computed): {fits}",
        f"{found['bytes_per_second'] / 1e6:.2f} MB of text a second (computed, {settings['utilisation']:.0%} of the "
        f"peak assumed); {found['bytes'] / 1e9:,.0f} GB in {found['hours']:,.0f} hours, "
        f"{found['hours'] * settings['gpus']:,.0f} GPU hours",
        f"decoding: {found['cache_bytes'] / 1e6:.0f} MB of KV cache for a row of {settings['sequence_length']} bytes "
        "(dry run)",
    ]
    if settings["attention"] == "flex_attention":
        lines.append("flex_attention is counted as sdpa in tiles, which takes more operations and memory")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _networks(found: dict) -> Table:
    table = Table(
        "network",
        "parameters (exact)",
        "operations a byte (dry run)",
        title="The model, and a forward pass",
        title_justify="left",
    )
    operations = found["operations_per_byte"]
    for name, count in found["parameters"].items():
        table.add_row(name, f"{count:,}", _millions(operations[name]) if operations.get(name) else "")
    table.add_row("blocks in the last two", "", _millions(operations["blocks"]))
    table.add_row("all, forward", f"{sum(found['parameters'].values()):,}", _millions(operations["forward"]))
    table.add_row("all, backward", "", _millions(operations["backward"]))
    return table


def _millions(count: float) -> str:
    return f"{count / 1e6:,.1f} M"


def _memory(found: dict) -> Table:
    table = Table(
        "GB", *found["memory"], title="A GPU's memory at its fullest (computed from a dry run)", title_justify="left"
    )
    for name in dict.fromkeys(name for moment in found["memory"].values() for name in moment):
        table.add_row(
            name, *(f"{moment[name] / 1e9:.2f}" if name in moment else "" for moment in found["memory"].values())
        )
    table.add_row("all", *(f"{sum(moment.values()) / 1e9:.2f}" for moment in found["memory"].values()))
    return table


def _decoding(found: dict) -> Table:
    table = Table(
        *("decoding", "decoder calls", "global calls", "MB", "of ar", "bytes/s"),
        title="Decoding a byte, one row, bfloat16, Eq. 8 (computed; drafts accepted as by the paper's 3B, fr-en)",
        title_justify="left",
    )
    for row in found["decoding"]:
        table.add_row(
            row["decoding"],
            f"{row['decoder_calls']:.3f}",
            f"{row['global_calls']:.3f}",
            f"{row['traffic_mb']:,.0f}",
            f"{row['traffic_mb'] / found['decoding'][0]['traffic_mb']:.0%}",
            f"{row['bytes_per_second_at_most']:,.0f}",
        )
    return table
