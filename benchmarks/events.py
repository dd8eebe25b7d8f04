"""Whether the order of synthetic events can be read at all: ridge regression on hand-made features.

    python benchmarks/events.py TRAIN.parquet TEST.parquet [--frames 128] [--pixels 32]

Of each slot of two frames: how strongly its pixels change where they differ from their neighbours along rows, and along
columns (``axes``), or how strongly they change at all (``amount``). The probe is the one of ``evaluate.py``, on the
slots' features. What encoders' features are worth is measured against these.
"""

import argparse

import torch
from torch import Tensor

from tats_ray.data.clips import ClipConfig, load_center_clip
from tats_ray.data.manifest import Manifest
from tats_ray.evaluation.ridge import RidgeConfig, ridge_scores


def main() -> None:
    """Read the clips in the middle of all videos, and print how many of the test videos are told right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=32)
    options = parser.parse_args()
    clip = ClipConfig(num_frames=options.frames, frame_stride=1, crop_size=options.pixels)
    (train, labels), (test, truth) = (read(path, clip) for path in (options.train, options.test))
    for name, features in (("axes", slice(0, 2)), ("amount", slice(2, 3))):
        rows = [part[:, :, features].flatten(1) for part in (train, test)]
        scores = ridge_scores(rows[0], labels, rows[1], num_classes=int(labels.max()) + 1, config=RidgeConfig())
        print(f"{name:8} {(scores.argmax(1) == truth).float().mean():.3f} of {len(truth)} test videos")


def read(path: str, clip: ClipConfig) -> tuple[Tensor, Tensor]:
    """Return features ``[videos, slots, 3]`` and labels."""
    manifest = Manifest.read(path)
    videos = (load_center_clip(manifest.record(row), clip).video for row in range(len(manifest)))
    features = torch.stack([energies(torch.from_numpy(video)) for video in videos])
    return features, torch.tensor(manifest.table["label"].to_pylist())


def energies(video: Tensor) -> Tensor:
    """Return, for each slot of two frames, mean change x slope along rows and along columns, and mean change."""
    grey = video.float().mean(3)
    change = grey.diff(dim=0, prepend=grey[:1])
    across, down = torch.gradient(grey, dim=2)[0], torch.gradient(grey, dim=1)[0]
    found = torch.stack([(change * across).abs(), (change * down).abs(), change.abs()], dim=1).mean((2, 3))
    return found.unflatten(0, (-1, 2)).mean(1)


if __name__ == "__main__":
    main()
