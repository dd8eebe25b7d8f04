"""What of synthetic events can be read at all, from hand-made features, from pixels and from an encoder's tokens.

    python benchmarks/events.py TRAIN.parquet TEST.parquet [--checkpoint RUN ...] [--frames 128] [--pixels 32]

``order``: which event of a clip came first, by the ridge probe of ``evaluate.py`` on all its slots of two frames.
``axis``: along which axis the movers of one slot go, of every slot in which they do, by the ridge probe on the slot's
feature and by the attentive probe (10 epochs) on its tokens. Who cannot tell the axis cannot tell the order.

``axes`` is how strongly a slot's pixels change where they differ from their neighbours along rows, and along columns;
``amount`` how strongly they change at all; ``pixels`` are the patches themselves. A slot's feature is the mean over its
tokens. The videos are those of ``make_videos.py --events``.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tats_ray.data.clips import Clip, ClipConfig, load_center_clip
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.synthetic import SpriteTracks, require_truth, shown_frames
from tats_ray.evaluation.accuracy import accuracy
from tats_ray.evaluation.probes import AttentiveConfig, attentive_scores
from tats_ray.evaluation.ridge import RidgeConfig, ridge_scores
from tats_ray.geometry import TokenGrid
from tats_ray.nn.patches import patchify
from tats_ray.probing.frozen import FrozenEncoder

TUBELET, PATCH = 2, 8
MOVING = 0.25
"""Pixels of the video that its movers go from one frame to the next, on average, in a slot that counts as moving."""
BATCH = 16

ridge = partial(ridge_scores, num_classes=2, config=RidgeConfig())
attentive = partial(attentive_scores, num_classes=2, config=AttentiveConfig(epochs=10), seed=0)


@dataclass(frozen=True)
class Videos:
    """The clips in the middle of all videos of a manifest."""

    pixels: Tensor
    """uint8 [videos, frames, height, width, 3]."""
    first: Tensor
    """Class of each: int64 [videos]."""
    travel: Tensor
    """How far movers go in a frame of each slot along x and along y, pixels: float32 [videos, slots, 2]."""

    @classmethod
    def read(cls, path: str, config: ClipConfig) -> "Videos":
        """Decode them, and read their ground truth."""
        manifest = Manifest.read(path)
        require_truth(manifest)
        records = [manifest.record(row) for row in range(len(manifest))]
        clips = [load_center_clip(record, config) for record in records]
        return cls(
            pixels=torch.stack([torch.from_numpy(clip.video) for clip in clips]),
            first=torch.tensor(manifest.table["label"].to_pylist()),
            travel=torch.stack([travel(record, clip) for record, clip in zip(records, clips, strict=True)]),
        )

    @property
    def moving(self) -> Tensor:
        """Slots that count: bool [videos, slots]."""
        return self.travel.amax(2) > MOVING

    @property
    def axis(self) -> Tensor:
        """0 along rows, 1 along columns, of each slot that counts: int64 [slots that count]."""
        return self.travel[self.moving].argmax(1)


def main() -> None:
    """Read the videos, probe, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--checkpoint", type=Path, nargs="*", default=[], metavar="RUN", help="runs, or checkpoints")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=32)
    options = parser.parse_args()
    grid = TokenGrid.of(num_frames=options.frames, crop_size=options.pixels, tubelet_size=TUBELET, patch_size=PATCH)
    load = partial(FrozenEncoder.load, device=torch.device("cpu"), num_frames=options.frames)
    encoders = [load(place) for place in options.checkpoint]
    for frozen in encoders:
        if (size := frozen.run.data.crop_size) != options.pixels:
            parser.error(f"{frozen.folder} was trained on crops of {size} pixels, got --pixels {options.pixels}")
        if frozen.grid.time != grid.time:
            parser.error(f"{frozen.folder} has tokens of {options.frames // frozen.grid.time} frames, not {TUBELET}")
    config = ClipConfig(num_frames=options.frames, frame_stride=1, crop_size=options.pixels)
    train, test = (Videos.read(path, config) for path in (options.train, options.test))
    print(f"{len(test.first)} test videos, {len(test.axis)} slots of them with motion")
    print(f"{'order':>7} {'axis':>7} {'attentive':>10}")
    for name, made, judged in features(train, test, grid=grid, encoders=encoders):
        order = ridge(made.mean(2).flatten(1), train.first, judged.mean(2).flatten(1))
        slots, others = made[train.moving], judged[test.moving]  # [slots that count, tokens, dim]
        found = [(order, test.first), (ridge(slots.mean(1), train.axis, others.mean(1)), test.axis)]
        if slots.shape[1] > 1:
            found.append((attentive(slots, train.axis, others), test.axis))
        shares = [f"{accuracy(scores, truth, resamples=1).top1:.3f}" for scores, truth in found]
        print("{:>7} {:>7} {:>10}  {}".format(*shares, *[""] * (3 - len(shares)), name), flush=True)


def features(
    train: Videos, test: Videos, *, grid: TokenGrid, encoders: Sequence[FrozenEncoder]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield names, and features of both float [videos, slots, tokens of a slot, dim]."""
    made, judged = (torch.stack([energies(video) for video in part.pixels]) for part in (train, test))
    yield "axes", made[..., :2], judged[..., :2]
    yield "amount", made[..., 2:], judged[..., 2:]
    made, judged = (patchify(part.pixels, grid).float().unflatten(1, (grid.time, -1)) for part in (train, test))
    yield "pixels", made, judged
    for frozen in encoders:
        yield str(frozen.folder), tokens(frozen, train.pixels), tokens(frozen, test.pixels)


def tokens(frozen: FrozenEncoder, videos: Tensor) -> Tensor:
    """Return what an encoder makes of all tokens: float32 [videos, slots, tokens of a slot, dim]."""
    keys = [str(number) for number in range(BATCH)]  # nothing is drawn
    encoded = [
        frozen.encode(part, keys=keys[: len(part)], token_ratio=1.0, order="in_order", seed=0)
        for part in videos.split(BATCH)
    ]
    return torch.cat(encoded).unflatten(1, (frozen.grid.time, -1))


def travel(record: VideoRecord, clip: Clip) -> Tensor:
    """Return how far movers go in a frame of each slot along x and along y, from the ground truth: [slots, 2]."""
    assert record.truth is not None  # as require_truth found
    tracks = SpriteTracks.load(record.truth)
    places = np.stack([tracks.x, tracks.y], axis=2)[shown_frames(record, clip)][:, tracks.moving]  # [frames, movers, 2]
    steps = np.abs(np.diff(places, axis=0, prepend=places[:1])).mean(1)
    return torch.from_numpy(steps).unflatten(0, (-1, TUBELET)).mean(1)


def energies(video: Tensor) -> Tensor:
    """Return, for each slot, mean change x slope along rows and along columns, and mean change: [slots, 1, 3]."""
    grey = video.float().mean(3)
    change = grey.diff(dim=0, prepend=grey[:1])
    across, down = torch.gradient(grey, dim=2)[0], torch.gradient(grey, dim=1)[0]
    found = torch.stack([(change * across).abs(), (change * down).abs(), change.abs()], dim=1).mean((2, 3))
    return found.unflatten(0, (-1, TUBELET)).mean(1, keepdim=True)


if __name__ == "__main__":
    main()
