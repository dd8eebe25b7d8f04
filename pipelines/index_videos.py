"""Probe videos and write a manifest: python pipelines/index_videos.py SOURCE --out manifest.parquet."""

import argparse
import sys
from typing import get_args

from tats_ray.cluster.index import IndexReport, Transcoding, index_videos
from tats_ray.config.overrides import ConfigError
from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import DecodeError
from tats_ray.data.splits.epic100 import LabelKind
from tats_ray.data.splits.hmdb51 import Part
from tats_ray.data.splits.official import READERS, OfficialSplit
from tats_ray.data.transcode import Codec, TranscodeSettings
from tats_ray.tracking.store import without_credentials

DEFAULTS = TranscodeSettings()
SPLITS = """\
official splits by --split SET:FILE
  set          file, and what else it needs                     classes, unless by --classes
  ucf101       trainlist01.txt, testlist01.txt ...              classInd.txt
  hmdb51       folder of <class>_test_split<fold>.txt;          alphabetical
               --fold 1|2|3, --part train|test
  kinetics400  train.csv, validate.csv;                         alphabetical
               videos <youtube_id>_<start>_<end>
  ssv2         something-something-v2-train.json ...            something-something-v2-labels.json
  diving48     Diving48_V2_train.json, Diving48_V2_test.json    Diving48_vocab.json
  epic100      EPIC_100_train.csv, EPIC_100_validation.csv;     EPIC_100_verb_classes.csv,
               --label verb|noun; a row for every action        EPIC_100_noun_classes.csv
  Class files are looked for beside the split file. Videos are found by the names of their files, in any
  folder of the source and with any suffix. Those that are not there are listed among the rejected files.
  Class names are written beside the manifest, <stem>.classes.txt: one a line, the first for label 0.
"""


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
            split=split_of(options),
        )
    except (ManifestError, DecodeError, ConfigError, ValueError, ConnectionError, OSError) as error:
        print(f"error: {without_credentials(str(error))}", file=sys.stderr)
        return 2
    show(report)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = argparse.ArgumentParser(
        description="Probe videos in parallel and write a manifest. Files that do not decode are listed,\n"
        "with the reason, in a CSV table beside it.",
        epilog=SPLITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    split = parser.add_argument_group(
        "official splits",
        "take the videos of the source that a split file lists, in its order and with its labels; see below",
    )
    split.add_argument("--split", metavar="SET:FILE", help="such as ucf101:testlist01.txt")
    split.add_argument(
        "--classes",
        metavar="FILE",
        help="the file of classes, where it lies elsewhere; for hmdb51 and kinetics400 the names of all, one a line, "
        "where the split files do not hold them all",
    )
    split.add_argument("--fold", type=int, help="of hmdb51: 1, 2 or 3")
    split.add_argument("--part", choices=get_args(Part), help="of hmdb51; the other sets have a file of each part")
    split.add_argument("--label", choices=get_args(LabelKind), help="of epic100")
    return parser


def split_of(options: argparse.Namespace) -> OfficialSplit | None:
    """Collect which official split to take.

    Raises:
        ValueError: A setting breaks a rule, or has no effect because --split is missing.
    """
    names = ("classes", "fold", "part", "label")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.split is None:
        for name, value in given.items():
            raise ValueError(f"--{name} {value} is for --split SET:FILE; add that, or leave --{name} out")
        return None
    dataset, _, place = options.split.partition(":")
    if dataset not in READERS or not place:
        raise ValueError(f"--split must read SET:FILE, the set one of {', '.join(READERS)}, got {options.split!r}")
    return OfficialSplit(dataset, place, **given)


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
    cut = f", {rows} stretches" if rows != report.num_videos else ""
    print(f"{report.num_videos} videos{cut} in {report.manifest_path}")
    if report.classes_path is None:
        print(f"{len(report.rejected)} files rejected, listed in {report.rejected_path}")
    else:
        show_coverage(report)
    if report.num_repeated:
        print(f"{report.num_repeated} videos hold the same bytes as one before them; they are kept")


def show_coverage(report: IndexReport) -> None:
    """Say how much of a split was found."""
    rows, missing = len(report.manifest), report.num_missing
    listed, broken = rows + len(report.rejected), len(report.rejected) - missing
    print(
        f"{rows} of the {listed} rows of the split; {missing} not found and {broken} without frames are listed in "
        f"{report.rejected_path}"
    )
    print(f"class names in {report.classes_path}")


if __name__ == "__main__":
    sys.exit(main())
