"""Pre-trains, continues or fine-tunes an FBLT on the Hugging Face Trainer, from one YAML recipe.

    python -m training.train training/recipes/demo.yaml
    accelerate launch --config_file training/accelerate/ddp.yaml -m training.train training/recipes/demo.yaml

The same command resumes from the newest checkpoint in the recipe's `output`, after a kill at any moment too.
`--init-from` starts from saved weights instead of random ones. A recipe without `init_from` needs its patcher
trained first (`python -m training.train_patcher RECIPE`).
"""

import argparse

from .recipe import load_recipe
from .run import run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="YAML recipe")
    parser.add_argument("--init-from", help="folder of a saved FBLT to continue from; instead of the recipe's")
    parser.add_argument("--max-steps", type=int, help="instead of the recipe's")
    options = parser.parse_args(arguments)
    recipe = load_recipe(options.recipe)
    if options.max_steps is not None:
        recipe["trainer"]["max_steps"] = options.max_steps
    run(recipe, options.init_from)


if __name__ == "__main__":
    main()
