"""The clips at some positions of a run, or why they are missing.

This is what decoding processes import: neither it nor what it needs imports torch, which would take seconds to load and
hundreds of MiB in each of them.
"""

import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tats_ray.data.clips import Clip, ClipConfig, cut_clips, load_clips
from tats_ray.data.code_rows import Coded
from tats_ray.data.codes import CodeCache
from tats_ray.data.decode import Decode, decode_views
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.order import CLIP
from tats_ray.data.source import DecodeError
from tats_ray.data.synthetic import GridShape, token_truth

CODED = {"codes": np.int32, "importance": np.float16}
"""Fields of ``Coded``, and their types."""


@dataclass(frozen=True)
class Sample:
    """One decoded clip, or why there is none."""

    position: int
    path: str
    video: np.ndarray | None  # uint8 [frames, height, width, 3]
    reason: str = ""
    truth: np.ndarray | None = None  # float32 [tokens], share that shows a mover; only where it is asked for
    short: bool = False  # its video is shorter than a clip
    coded: Coded | None = None  # only where clips come with their codes


def load_samples(
    record: VideoRecord,
    config: ClipConfig,
    *,
    seed: int,
    position: int,
    decode: Decode = decode_views,
    truth_grid: GridShape | None = None,
    codes: Path | None = None,
) -> list[Sample]:
    """Decode the clips at ``position`` and the ``views_per_decode - 1`` after it, which are cut from the same video.

    Starts, crops and flips are a function of seed and position alone. With ``truth_grid``, the tokens of a clip, each
    comes with the share of every token that shows a mover; a video whose ground truth cannot be read counts as lost.

    With ``codes``, a folder of cached codes, the clip is one of those that were encoded, and comes with its codes.

    Raises:
        CodesError: The folder does not hold the codes of such clips of this video.
    """
    positions = range(position, position + config.views_per_decode)
    rng = np.random.default_rng([seed, CLIP, position])
    coded: Coded | None = None
    try:
        if codes is None:
            clips = load_clips(record, config, rng, decode=decode)
        else:
            clip, coded = load_coded_clip(record, config, codes, rng=rng, decode=decode)
            clips = [clip]
        truths = [None if truth_grid is None else _mover_share(record, clip, truth_grid) for clip in clips]
    except DecodeError as error:
        return [Sample(position, record.source.name, None, error.reason) for position in positions]
    return [
        Sample(position, record.source.name, clip.video, truth=truth, short=clip.held, coded=coded)
        for position, clip, truth in zip(positions, clips, truths, strict=True)
    ]


def load_coded_clip(
    record: VideoRecord,
    config: ClipConfig,
    codes: Path,
    *,
    rng: np.random.Generator | None,
    decode: Decode = decode_views,
) -> tuple[Clip, Coded]:
    """Return one of the clips of a video that were encoded, just as it was, with its codes.

    Args:
        record: The video.
        config: The shape of the clips.
        codes: Folder of cached codes.
        rng: Draws one of the video's clips; None takes the one in the middle that is not mirrored.
        decode: Decodes the views, here or in another process.

    Raises:
        DecodeError: The video does not decode, or did not when it was to be encoded.
        CodesError: The folder does not hold the codes of such clips of this video.
    """
    there = _opened(codes, config)
    if record.id in there.lost:
        raise DecodeError(record.source.name, f"it could not be encoded: {there.lost[record.id]}")
    cuts = there.cuts(record)
    cut = there.middle(record) if rng is None else cuts[rng.integers(len(cuts))]
    [clip] = cut_clips(record, config, [(cut.start, cut.crop, cut.flip)], decode=decode)
    return clip, there.read(record, cut)


def num_codes(codes: Path, config: ClipConfig) -> int:
    """Return the codes of one clip in a folder of cached codes."""
    return _opened(codes, config).about.tokens


@cache
def _opened(codes: Path, config: ClipConfig) -> CodeCache:
    """Return the codes of a folder, which this process indexes once."""
    return CodeCache.open(codes, clip=config)


def _mover_share(record: VideoRecord, clip: Clip, grid: GridShape) -> np.ndarray:
    if record.truth is None:
        raise DecodeError(record.source.name, "it has no ground truth, and is no synthetic video")
    try:
        return token_truth(record.truth, record, clip, grid)[0]
    except (OSError, ValueError, TypeError, IndexError, zipfile.BadZipFile) as error:  # no such file, or another one
        raise DecodeError(record.source.name, f"its ground truth {record.truth} cannot be read: {error}") from error
