"""Put one file through everything, in a process of its own with a limit of memory; write what came of it as JSON."""

import json
import random
import resource
import sys

import numpy as np

from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.probe import Probe, probe, verify
from tats_ray.data.source import DecodeError, VideoSource

SIZE = 24


def decode(source: VideoSource, measured: Probe, views: list[list[int]]) -> list[np.ndarray]:
    """Decode frames by number, whole, at a small size."""
    size = (measured.width, measured.height)
    times = measured.times or [number / measured.fps for number in range(measured.num_frames)]
    return decode_views(
        source, [View(tuple(times[n] for n in view), Crop(0, 0, *size)) for view in views], frame_size=size, size=SIZE
    )


def report(source: VideoSource) -> dict[str, object]:
    """Return the frames that probing, verifying and decoding find, or the reasons for which they refuse."""
    found: dict[str, object] = {}
    measured = None
    for name, measure in (("verify", verify), ("probe", probe)):
        try:
            measured = measure(source)
            found[name] = measured.num_frames
        except DecodeError as error:
            found[name] = error.reason
    if measured is None:
        return found
    frames = list(range(measured.num_frames))
    step = 1 + measured.num_frames * measured.width * measured.height // 2**24  # large videos: not every frame alone
    try:
        whole = decode(source, measured, [frames])[0]
        found["decode"] = len(whole)
        found["wrong"] = [
            n for n in frames[::step] if not np.array_equal(decode(source, measured, [[n]])[0][0], whole[n])
        ]
        rng = random.Random(0)
        clips = [sorted(rng.choices(frames, k=8)) for _ in range(6)]
        together = decode(source, measured, clips)
        found["clips"] = all(np.array_equal(video, whole[clip]) for video, clip in zip(together, clips, strict=True))
    except DecodeError as error:
        found["decode"] = error.reason
    return found


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
    json.dump(report(VideoSource(sys.argv[1])), sys.stdout)
