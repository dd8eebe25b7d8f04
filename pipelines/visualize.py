"""Draw how trained checkpoints see a clip: python pipelines/visualize.py CHECKPOINT [CHECKPOINT ...] [VIDEO_OR_FOLDER].

Tokens, policy, reconstruction, error beside the critic's guess, path of attention, and the nearest clips.
"""

import argparse
import sys
from pathlib import Path

from tats_ray.config.command_line import ended
from tats_ray.config.overrides import ConfigError
from tats_ray.copies import path_of
from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import DecodeError
from tats_ray.training.state import CheckpointError
from tats_ray.viewing.album import Album, make_album
from tats_ray.viewing.look import is_checkpoint

ERRORS = (CheckpointError, ConfigError, DecodeError, ManifestError, ValueError, OSError)
"""Errors whose message is all that a user needs."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = make_parser().parse_args(arguments)
    return ended(lambda: run(options), errors=ERRORS, again="the same command draws anew")


def run(options: argparse.Namespace) -> None:
    """Draw as the command line says."""
    checkpoints, source = divided(options.given)
    album = make_album(
        checkpoints,
        source,
        out=options.out,
        motion=options.format,
        clip=options.clip,
        token=None if options.token is None else place(options.token),
        among=options.among,
    )
    show(album)


def make_parser() -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s CHECKPOINT [CHECKPOINT ...] [VIDEO_OR_FOLDER] [--clip N] [--token T,ROW,COLUMN] [--among N] "
        "[--format gif|mp4] [--out FOLDER]",
        description="Draw how trained checkpoints see a clip, each picture as PNG and moving: the tokens that they "
        "draw and their policies; reconstructions; errors on a random mask beside the critic's guess; where a token "
        "looks by trajectory attention; and the clip's nearest neighbours.",
    )
    parser.add_argument(
        "given",
        nargs="+",
        metavar="CHECKPOINT, VIDEO_OR_FOLDER",
        help="folders or URIs of runs, of which the newest checkpoint is taken, or of checkpoints; then perhaps a "
        "video, a folder of videos or a manifest (.parquet). Without it, the first run's held-out videos",
    )
    parser.add_argument(
        "--clip", type=int, metavar="N", help="which of the videos, from 0 (default: the first good one)"
    )
    parser.add_argument(
        "--token",
        metavar="T,ROW,COLUMN",
        help="the token whose path of attention is drawn: time slot, row, column, from 0 (default: the likeliest)",
    )
    parser.add_argument(
        "--among",
        type=int,
        default=100,
        metavar="N",
        help="search the nearest among at most N other videos, evenly spaced (default: 100)",
    )
    parser.add_argument("--format", choices=["gif", "mp4"], default="gif", help="of moving pictures (default: gif)")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder of the pictures (default: pictures)")
    return parser


def divided(given: list[str]) -> tuple[list[Path], str | None]:
    """Tell checkpoints from the videos, which come last if at all.

    Raises:
        ValueError: There is no checkpoint.
    """
    *checkpoints, last = given
    if is_checkpoint(path_of(last)):
        return [path_of(path) for path in given], None
    if not checkpoints:
        raise ValueError(f"{last} is no folder of a run and no checkpoint; a run prints its folder when it ends")
    return [path_of(path) for path in checkpoints], last


def place(given: str) -> list[int]:
    """Read a token's place.

    Raises:
        ValueError: It is not three numbers.
    """
    parts = given.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--token must be time slot, row and column, such as 3,0,2, got {given!r}")
    return [int(part) for part in parts]


def show(album: Album) -> None:
    """Say what was left out, what is missing, and where the pictures are."""
    for failure in album.failures:
        print(f"left out: {failure}", file=sys.stderr)
    for line in [*album.notes, *map(str, album.files)]:
        print(line)


if __name__ == "__main__":
    sys.exit(main())
