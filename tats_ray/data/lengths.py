"""Whether any video is long enough for the clips that are wanted."""

import numpy as np

from tats_ray.data.clips import ClipConfig
from tats_ray.data.manifest import Manifest, ManifestError


def check_lengths(clip: ClipConfig, manifest: Manifest, *, remedy: str) -> None:
    """Refuse clips that are longer than every video of a manifest, unless short videos begin again.

    Args:
        clip: What is cut from each video.
        manifest: The videos.
        remedy: What else than longer videos would do.

    Raises:
        ManifestError: Every video is shorter than a clip.
    """
    lengths = manifest.table.column("num_frames" if clip.fps is None else "duration").to_pylist()
    longest = manifest.record(int(np.argmax(lengths)))
    if clip.pace.latest_start(longest) < 0 and clip.short_videos != "loop":
        pace = f"data.frame_stride={clip.frame_stride}" if clip.fps is None else f"data.fps={clip.fps:g}"
        raise ManifestError(
            f"a clip of data.num_frames={clip.num_frames} at {pace} is longer than every video of {manifest.name} "
            f"(longest: {longest.num_frames} frames, {longest.duration:.3g} s); take longer videos, {remedy}"
        )
