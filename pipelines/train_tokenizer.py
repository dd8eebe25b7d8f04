"""Train the adaptive tokenizer of long video: clips to discrete codes, and which of their tokens matter."""

import sys

from tats_ray.cluster.train_command import add_options, run_command
from tats_ray.config.command_line import make_parser, parse, resolve
from tats_ray.config.tokenizer_run import TokenizerRun
from tats_ray.copies import where
from tats_ray.driver import Outcome
from tats_ray.recipes import TOKENIZER_RECIPES, tokenizer_recipe
from tats_ray.training.state import checkpoint_identity, latest_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(__doc__ or "", TOKENIZER_RECIPES, default="tokenizer-tiny")
    add_options(parser)
    parsed = parse(parser, arguments)
    return run_command(lambda: resolve(parsed, tokenizer_recipe, TokenizerRun), parsed, lines=lines)


def lines(outcome: Outcome) -> dict[str, object]:
    """Say what the tokenizer is known by, and what comes next."""
    folder = outcome.launch.folder
    checkpoint = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    return {
        "tokenizer": checkpoint_identity(checkpoint)["tokenizer"],
        "next": f"python pipelines/encode_clips.py --checkpoint {where(folder)} --out CODES data.manifest=MANIFEST",
    }


if __name__ == "__main__":
    sys.exit(main())
