"""Probe videos and write a manifest: python pipelines/index_videos.py FOLDER_OR_LIST --out manifest.parquet."""

import argparse
import sys

from tats_ray.cluster.index import index_videos
from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import DecodeError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description="Probe videos in parallel and write a manifest. Files that do not decode are listed, with the "
        "reason, in a CSV table beside it."
    )
    parser.add_argument(
        "source",
        help="a folder, a VideoMAE list (path and label), a CSV or Parquet table with a column path, or a video",
    )
    parser.add_argument("--out", required=True, help="the manifest to write, a Parquet file")
    parser.add_argument("--workers", type=int, help="most videos probed at once (default: as many as Ray has CPUs)")
    options = parser.parse_args(arguments)
    try:
        report = index_videos(options.source, out=options.out, workers=options.workers)
    except (ManifestError, DecodeError, ValueError, ConnectionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(report.manifest)} videos in {report.manifest_path}")
    print(f"{len(report.rejected)} files rejected, listed in {report.rejected_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
