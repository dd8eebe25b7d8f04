"""The videos that trained checkpoints are shown, by number; a file is measured when it is asked for."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from tats_ray.config.run import TrainRun
from tats_ray.data.clips import ClipConfig, load_center_clip
from tats_ray.data.guard import GuardedDecoder
from tats_ray.data.listing import Listed, list_sources
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.order import split_held_out
from tats_ray.data.probe import probe_record
from tats_ray.data.source import DecodeError


@dataclass(frozen=True)
class Gallery:
    """Videos in a fixed order.

    Example:
        >>> gallery = Gallery.of("/folder/of/videos")
        >>> with GuardedDecoder(run.data) as decode:
        ...     record = gallery.record(0, decode)
    """

    name: str
    """Where they are from, for messages."""
    num_videos: int
    record: Callable[[int, GuardedDecoder], VideoRecord]
    """Returns what is known of a video; raises ``DecodeError`` where it has to be measured and cannot be."""

    def __len__(self) -> int:
        return self.num_videos

    @classmethod
    def of(cls, source: str) -> "Gallery":
        """Return the videos of a manifest (a ``.parquet`` file), or what ``list_sources`` finds: a folder, a video.

        Raises:
            ManifestError: There is no such source, or no video in it.
        """
        if source.lower().endswith(".parquet"):
            manifest = Manifest.read(source)
            return cls(source, len(manifest), partial(_row, manifest, range(len(manifest))))
        listed = list_sources(source)
        return cls(source, len(listed), partial(_measured, listed))

    @classmethod
    def held_out(cls, run: TrainRun) -> "Gallery":
        """Return the videos that a run has never trained on.

        Raises:
            ValueError: The run names no manifest.
            ManifestError: Its manifest is gone.
        """
        if run.data.manifest is None:
            raise ValueError(f"the run {run.name} has no data.manifest; name a video or a folder of videos to look at")
        manifest = Manifest.read_all(run.data.manifest)
        _, rows = split_held_out(len(manifest), held_out=run.data.held_out, seed=run.seed)
        return cls(f"held-out videos of {run.name}", len(rows), partial(_row, manifest, rows))


@dataclass(frozen=True)
class Middle:
    """The clip in the middle of a video."""

    record: VideoRecord
    clips: tuple[np.ndarray, ...]
    """uint8 ``[frames, height, width, 3]``, as each configuration wants it."""


def load_middles(
    gallery: Gallery, numbers: Sequence[int], configs: Sequence[ClipConfig], decode: GuardedDecoder
) -> tuple[dict[int, Middle], list[DecodeError]]:
    """Decode the clips in the middle of some videos, several videos at once.

    Returns:
        Those that decode by number, in the order given, and why the others are missing.
    """

    def load(number: int) -> Middle | DecodeError:
        try:
            record = gallery.record(number, decode)
            return Middle(record, tuple(load_center_clip(record, config, decode=decode).video for config in configs))
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = dict(zip(numbers, pool.map(load, numbers), strict=True))
    middles = {number: middle for number, middle in loaded.items() if isinstance(middle, Middle)}
    return middles, [middle for middle in loaded.values() if isinstance(middle, DecodeError)]


def spread(num_videos: int, *, count: int, without: int) -> list[int]:
    """Return at most ``count`` numbers below ``num_videos``, evenly spaced, and not ``without``."""
    others = np.delete(np.arange(num_videos), without)
    chosen = np.linspace(0, len(others) - 1, min(count, len(others))).round().astype(int)
    return others[chosen].tolist()


def _row(manifest: Manifest, rows: Sequence[int] | np.ndarray, number: int, _: GuardedDecoder) -> VideoRecord:
    return manifest.record(int(rows[number]))


def _measured(listed: Listed, number: int, decode: GuardedDecoder) -> VideoRecord:
    source, label = listed[number]
    return decode.call(probe_record, source, label=label)
