"""Draw the tokens that trained samplers choose on one held-out clip, beside random ones; PNG, and GIF beside it."""

import argparse
import sys
from pathlib import Path

from tats_ray.config.overrides import ConfigError
from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import DecodeError
from tats_ray.tracking.figures import animate, heat_overlay, save_sheet, show_tokens
from tats_ray.training.state import CheckpointError
from tats_ray.worker import look

SHOWN_SIZE = 96


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, as its end prints it")
    parser.add_argument("--clip", type=int, default=0, help="which held-out clip of the first run (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("tokens.png"), help="the picture (default: tokens.png)")
    parsed = parser.parse_args(arguments)
    try:
        seen = [look(folder, parsed.runs[0], clip=parsed.clip, shown_size=SHOWN_SIZE) for folder in parsed.runs]
    except (CheckpointError, ConfigError, DecodeError, ManifestError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    video, first = seen[0].video, seen[0]
    rows = {"clip": video, "random: tokens": show_tokens(video, first.random_idx, first.grid)}
    for folder, snapshot in zip(parsed.runs, seen, strict=True):
        name = folder.resolve().parent.name
        if f"{name}: tokens" in rows:
            name = f"{name} {folder.name}"
        rows[f"{name}: tokens"] = show_tokens(video, snapshot.visible_idx, snapshot.grid)
        if snapshot.probability is not None:
            rows[f"{name}: probability"] = heat_overlay(video, snapshot.probability, snapshot.grid)
    save_sheet(rows, parsed.out)
    animate(rows, parsed.out.with_suffix(".gif"), fps=8)
    print(f"{parsed.out} and {parsed.out.with_suffix('.gif')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
