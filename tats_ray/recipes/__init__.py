"""Named, complete runs; a worker receives the resolved run, never a recipe's name."""

from tats_ray.recipes.pretrain import RECIPES, recipe
from tats_ray.recipes.tokenizer import TOKENIZER_RECIPES, tokenizer_recipe

__all__ = ["RECIPES", "TOKENIZER_RECIPES", "recipe", "tokenizer_recipe"]
