"""Pre-trains, continues or fine-tunes an FBLT on the Hugging Face Trainer, from one YAML recipe.

\b
    fblt train training/recipes/demo.yaml
    accelerate launch --config_file training/accelerate/ddp.yaml -m training.train training/recipes/demo.yaml

The same command resumes from the newest checkpoint in the recipe's `output`, after a kill at any moment too.
`--init-from` starts from saved weights instead of random ones. A recipe without `init_from` needs its patcher
trained first (`fblt train-patcher RECIPE`).
"""

import click

from fblt.commands import Command

from .recipe import load_recipe
from .run import run


@click.command(cls=Command, help=__doc__)
@click.argument("recipe")
@click.option("--init-from", help="Folder of a saved FBLT to continue from; instead of the recipe's.")
@click.option("--max-steps", type=int, help="Instead of the recipe's.")
def main(recipe: str, init_from: str | None, max_steps: int | None) -> None:
    settings = load_recipe(recipe)
    if max_steps is not None:
        settings["trainer"]["max_steps"] = max_steps
    run(settings, init_from)


if __name__ == "__main__":
    main()
