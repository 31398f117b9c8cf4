"""Recipes: one YAML file says everything about a training run."""

from pathlib import Path

import yaml

REQUIRED = ("seed", "data", "output", "sequence_length", "model", "patcher", "optimizer", "trainer")


def load_recipe(path: str | Path) -> dict:
    """Reads a recipe.

    Raises:
        FileNotFoundError, ValueError: no such file, or sections missing; the message names them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`recipe` {str(path)!r} does not exist: give a YAML file such as training/recipes/demo.yaml."
        )
    recipe = yaml.safe_load(path.read_text())
    missing = [key for key in REQUIRED if key not in (recipe or {})]
    if missing:
        raise ValueError(f"`recipe` {str(path)!r} lacks {missing}: see training/recipes/demo.yaml for all sections.")
    return recipe
