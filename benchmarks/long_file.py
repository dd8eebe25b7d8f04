"""What a clip costs by where in a long film it lies, and by the film's container: python benchmarks/long_file.py.

Makes one film in several containers and times clips around some places of it, in turns. Containers that are sought in
cost the same everywhere; the others are decoded from their beginning (``tats_ray/data/timeline.py`` says why).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from tats_ray.data.clips import ClipConfig
from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.probe import probe_record
from tats_ray.data.source import VideoSource

WIDTH, HEIGHT, FPS, GOP = 160, 120, 25, 50
CONTAINERS = ("mp4", "mkv", "avi", "ts")
PLACES = (0.0, 0.1, 0.5, 0.9, 0.99)


def main() -> None:
    """Make the films, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=9, help="clips at each place (default: 9)")
    options = parser.parse_args()
    clip = ClipConfig(num_frames=16, frame_stride=4, crop_size=112)
    crop = Crop((WIDTH - HEIGHT) // 2, 0, HEIGHT, HEIGHT)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        films = {suffix: Path(folder, f"film.{suffix}") for suffix in CONTAINERS}
        write(list(films.values()), frames=int(options.minutes * 60 * FPS))
        records = {suffix: probe_record(VideoSource(str(path)), label=None) for suffix, path in films.items()}
        seconds: dict[tuple[str, float], list[float]] = {(s, p): [] for s in films for p in PLACES}
        for _ in range(options.rounds):
            for (suffix, place), taken in seconds.items():
                record = records[suffix]
                start = int(place * clip.pace.latest_start(record)) + int(rng.integers(GOP))
                times = clip.pace.times(record, min(start, int(clip.pace.latest_start(record))))
                began = time.process_time()
                decode_views(record.source, [View(times, crop)], frame_size=(WIDTH, HEIGHT), size=112)
                taken.append(time.process_time() - began)
    print(
        f"ms of CPU a clip of 16 frames, stride 4, median of {options.rounds}; a film of {options.minutes:g} minutes, "
        f"{WIDTH}x{HEIGHT}, GOP {GOP}, no B-frames; the last column compares with the first place"
    )
    print("container", *(f"{100 * place:>7.0f} %" for place in PLACES), "    ratio")
    for suffix in CONTAINERS:
        row = [1000 * statistics.median(seconds[suffix, place]) for place in PLACES]
        print(f"{suffix:<9}", *(f"{value:>9.1f}" for value in row), f"{row[-1] / row[0]:>8.2f}")


def write(paths: list[Path], *, frames: int) -> None:
    """Encode one film, a texture that drifts, into several containers."""
    texture = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 4), np.uint8)
    wide = np.kron(texture, np.ones((8, 8), np.uint8))[..., None].repeat(3, 2)
    containers = [av.open(str(path), "w") for path in paths]
    streams = [container.add_stream("libx264", rate=FPS, options=X264) for container in containers]
    for stream in streams:
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", GOP
    for number in range(frames):
        shift = number % WIDTH
        image = np.ascontiguousarray(wide[:HEIGHT, shift : shift + WIDTH])
        for container, stream in zip(containers, streams, strict=True):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    for container, stream in zip(containers, streams, strict=True):
        container.mux(stream.encode(None))
        container.close()


X264 = {"preset": "ultrafast", "bf": "0", "threads": "1", "crf": "30"}

if __name__ == "__main__":
    main()
