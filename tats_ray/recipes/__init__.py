"""Named, complete runs; a worker receives the resolved run, never a recipe's name."""

from tats_ray.recipes.pretrain import RECIPES, recipe

__all__ = ["RECIPES", "recipe"]
