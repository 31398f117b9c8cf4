"""Where the time of a generation goes: by network, and by torch operator."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from .network_times import network_times

ROWS = 20


def profile_generation(generate: Callable, model, clock: Callable[[], float]) -> dict:
    """Runs a generation twice: once timed by network, once under torch's profiler.

    Args:
        generate: of no arguments; its `FBLTGenerateOutput` counts rounds.

    Returns:
        `seconds`, `seconds_by_network`, `outside` (the share of neither), `calls`, `operators` (torch's table) and
        `operator_calls_per_iteration`.
    """
    generate()
    with network_times(model, clock) as times:
        began = clock()
        output = generate()
        seconds = clock() - began
    rounds = int(output.iterations.max())
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        generate()
    averages = recorded.key_averages()
    by_network = {name: sum(values) for name, values in times.seconds.items()}
    return {
        "iterations": rounds,
        "seconds": seconds,
        "seconds_by_network": by_network,
        "outside": 1 - sum(by_network.values()) / seconds,
        "calls": {name: len(values) for name, values in times.seconds.items()},
        "operator_calls_per_iteration": sum(event.count for event in averages) / rounds,
        "operators": averages.table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=40),
    }
