"""An evaluation of restoration as tables."""

from rich.console import Console
from rich.table import Table

MEASURES = {
    "words_right": "words right",
    "ambiguous_words_right": "of ambiguous ones",
    "lines_right": "lines right",
    "character_errors": "characters wrong",
}


def print_restoration(evaluation: dict, console: Console) -> None:
    """For each split and kind of damage: what each method gets right, by language too, and what decodings cost."""
    for split, kinds in evaluation["splits"].items():
        for kind, found in kinds.items():
            console.print(measures_table(f"{split}, {kind}: {sum(found['lines'].values())} lines, %", found))
            console.print(languages_table(f"{split}, {kind}: words right by language, %", found))
            if found["costs"]:
                console.print(costs_table(f"{split}, {kind}: costs", found))


def percent(figure: dict) -> str:
    """A share in percent with its standard error; a dash where there is none."""
    if figure["value"] is None:
        return "-"
    error = "" if figure["standard_error"] is None else f" ± {100 * figure['standard_error']:.1f}"
    return f"{100 * figure['value']:.1f}{error}"


def measures_table(title: str, found: dict) -> Table:
    table = Table("", *MEASURES.values(), "words, mean of languages", title=title, title_justify="left")
    for name, parts in found["methods"].items():
        cells = [percent(parts["all"][measure]) for measure in MEASURES]
        table.add_row(name, *cells, f"{100 * parts['mean_of_languages']:.1f}")
    return table


def languages_table(title: str, found: dict) -> Table:
    table = Table("", *found["lines"], title=title, title_justify="left")
    for name, parts in found["methods"].items():
        table.add_row(name, *(percent(parts[language]["words_right"]) for language in found["lines"]))
    return table


def costs_table(title: str, found: dict) -> Table:
    names = [name for name in next(iter(found["costs"].values())) if name != "bytes"]
    headings = [name.replace("_per_byte", "").replace("_", " ") for name in names]
    table = Table("a byte", *headings, "texts equal to ar", title=title, title_justify="left")
    for name, costs in found["costs"].items():
        table.add_row(name, *(f"{costs[key]:.3f}" for key in names), str(found["equal_to_ar"].get(name, "")))
    return table
