"""Make synthetic videos with known motion: python pipelines/make_videos.py FOLDER [--num-videos 96] [--camera] ..."""

import argparse
import sys
from typing import Any

from pydantic import ValidationError

from tats_ray.data.synthetic import SyntheticConfig, make_videos


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description="Make H.264 videos of textured sprites that move beside static twins, each with its ground truth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", help="where the videos go; files of the same names are replaced")
    for name, field in SyntheticConfig.model_fields.items():
        kind: dict[str, Any] = (
            {"action": argparse.BooleanOptionalAction} if field.annotation is bool else {"type": field.annotation}
        )
        parser.add_argument(f"--{name.replace('_', '-')}", default=field.default, help=field.description, **kind)
    options = vars(parser.parse_args(arguments))
    folder = options.pop("folder")
    try:
        paths = make_videos(folder, SyntheticConfig(**options))
    except ValidationError as error:
        for problem in error.errors():
            print(f"error: {problem['loc'][0]}: {problem['msg']}, got {problem['input']}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(paths)} videos in {paths[0].parent.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
