"""Probe videos and write a manifest: python pipelines/index_videos.py SOURCE --out manifest.parquet."""

import argparse
import sys
from typing import get_args

from tats_ray.cluster.index import IndexReport, Transcoding, index_videos
from tats_ray.config.overrides import ConfigError
from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import DecodeError
from tats_ray.data.transcode import Codec, TranscodeSettings

DEFAULTS = TranscodeSettings()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = make_parser().parse_args(arguments)
    try:
        report = index_videos(
            options.source,
            out=options.out,
            workers=options.workers,
            fps=options.fps,
            window=options.window,
            depth="every frame" if options.verify else "quick",
            transcoding=transcoding_of(options),
        )
    except (ManifestError, DecodeError, ConfigError, ValueError, ConnectionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(report)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = argparse.ArgumentParser(
        description="Probe videos in parallel and write a manifest. Files that do not decode are listed, with the "
        "reason, in a CSV table beside it."
    )
    parser.add_argument(
        "source",
        help="a folder of videos, of .tar shards (WebDataset) or of folders of JPEG or PNG frames; a VideoMAE list "
        "(path and label), a CSV or Parquet table with a column path; a video or a shard. A path, or a URI that fsspec "
        "knows, such as s3://bucket/videos",
    )
    parser.add_argument("--out", required=True, help="the manifest to write, a Parquet file; a path or a URI")
    parser.add_argument("--workers", type=int, help="most videos at once (default: as many as Ray has CPUs)")
    parser.add_argument("--fps", type=float, help="frames per second of folders of frames")
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="cut every video into windows of so many seconds, each a row of its own; a rest shorter than half of that "
        "belongs to the window before",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="decode every frame and refuse damaged files; costs as much as decoding the whole set once. The default "
        "reads every file and decodes its first frame, which finds files that do not open, not damage further on",
    )
    transcode = parser.add_argument_group(
        "transcoding", "write small, upright copies with many key frames, and have the manifest name these"
    )
    transcode.add_argument(
        "--transcode",
        metavar="DIR",
        help="where; laid out as the source is. Costs a decode and an encode of the whole set. The same command goes "
        "on where it was stopped",
    )
    transcode.add_argument(
        "--short-side", type=int, metavar="PIXELS", help=f"of the copies, at most (default: {DEFAULTS.short_side})"
    )
    transcode.add_argument("--gop", type=int, help=f"frames from key frame to key frame (default: {DEFAULTS.gop})")
    transcode.add_argument("--codec", choices=get_args(Codec), help=f"(default: {DEFAULTS.codec})")
    transcode.add_argument("--crf", type=int, help=f"0 (lossless) to 51 (worst) (default: {DEFAULTS.crf})")
    return parser


def transcoding_of(options: argparse.Namespace) -> Transcoding | None:
    """Collect how to transcode.

    Raises:
        ValueError: A setting breaks a rule, or has no effect because --transcode is missing.
    """
    names = ("short_side", "gop", "codec", "crf")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.transcode is not None:
        return Transcoding(options.transcode, TranscodeSettings(**given))
    for name, value in given.items():
        option = name.replace("_", "-")
        raise ValueError(f"--{option} {value} is for --transcode DIR; add that, or leave --{option} out")
    return None


def show(report: IndexReport) -> None:
    """Say what was found."""
    rows = len(report.manifest)
    cut = f", {rows} windows" if rows != report.num_videos else ""
    print(f"{report.num_videos} videos{cut} in {report.manifest_path}")
    print(f"{len(report.rejected)} files rejected, listed in {report.rejected_path}")
    if report.num_repeated:
        print(f"{report.num_repeated} videos hold the same bytes as one before them; they are kept")


if __name__ == "__main__":
    sys.exit(main())
