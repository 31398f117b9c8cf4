"""Loads checkpoints as a run does that goes on from them, and writes them anew: `... -m tests.training.resaved`.

Arguments are pairs of a checkpoint and of a recipe, whose `max_steps` are the checkpoint's and whose `output` is to
hold the new one.
"""

import sys

from fblt.training.recipe import load_recipe
from fblt.training.run import build_trainer


def resave(checkpoint: str, recipe: str) -> None:
    trainer = build_trainer(load_recipe(recipe))
    trainer.train(resume_from_checkpoint=checkpoint)  # no step is left to make
    trainer._save_checkpoint(trainer.model_wrapped, None)


if __name__ == "__main__":
    for checkpoint, recipe in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        resave(checkpoint, recipe)
