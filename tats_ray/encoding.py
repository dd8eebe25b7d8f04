"""Codes of a manifest's clips: a frozen tokenizer, what it is to encode, and one part of that after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from tats_ray.config.error import ConfigError
from tats_ray.config.tokenizer_run import TokenizerRun, read_tokenizer
from tats_ray.data.clips import ClipConfig
from tats_ray.data.code_rows import CodesAbout, coded_row, cuts_of, pixels_of, write_part
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.part_files import Part, cut, part_file
from tats_ray.data.views import Crops
from tats_ray.probing.config import ExtractionConfig
from tats_ray.probing.decoding import ViewLayout, Views
from tats_ray.probing.frozen import checkpoint_at
from tats_ray.probing.work import Work, make_here
from tats_ray.tokenizer.model import AdaptiveTokenizer, check_window


class EncodedData(BaseModel):
    """Which videos are encoded, and which clips of each."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    manifest: str | None = None
    """Manifest of pipelines/index_videos.py."""
    num_frames: int | None = Field(default=None, ge=1)
    """Frames of a clip, a multiple of the tokenizer's window; null is one window."""
    frame_stride: int | None = Field(default=None, ge=1)
    """Frames of the video from one frame of a clip to the next; null, with fps null too, is the tokenizer's pace."""
    fps: float | None = Field(default=None, gt=0)
    """Frames of a clip a second, instead of frame_stride."""
    short_videos: Literal["hold", "loop", "refuse"] = "hold"
    """A video with fewer frames than a clip spans has its last frame held, or is listed as without codes."""
    segments: int = Field(default=1, ge=1)
    """Clips along time, evenly spaced from the first that fits to the last; 1 is the middle one."""
    crops: Crops = 1
    """Clips across: the middle square (1), or three along the longer side (3)."""
    flip: StrictBool = False
    """Whether each clip is encoded mirrored as well."""


class EncodingConfig(GuardConfig):
    """What is encoded, and where."""

    data: EncodedData = EncodedData()
    """Which videos, and which clips of each."""
    batch: int = Field(default=8, ge=1)
    """Clips that the tokenizer sees at once."""
    cluster: ExtractionConfig = ExtractionConfig()
    """Where the clips are encoded."""


@dataclass(frozen=True)
class FrozenTokenizer:
    """The tokenizer of one checkpoint, in inference mode, in float32.

    Example:
        >>> frozen = FrozenTokenizer.load(Path("results/tokenizer/0001"), device=torch.device("cpu"))
        >>> codes, importance = frozen.encode(video)
    """

    tokenizer: AdaptiveTokenizer
    run: TokenizerRun
    """The run that trained it."""
    checkpoint: Path
    """Folder of the checkpoint."""
    digest: str
    """Its content hash."""
    device: torch.device

    @classmethod
    def load(cls, place: Path, *, device: torch.device) -> "FrozenTokenizer":
        """Load the newest checkpoint of a run's folder, or the checkpoint given.

        Raises:
            CheckpointError: It is neither, is damaged, holds no tokenizer, or another one than its record names.
            ConfigError: run.yaml cannot be read, or is of another kind of run.
        """
        checkpoint = checkpoint_at(place)
        tokenizer, run, digest = read_tokenizer(checkpoint)
        return cls(tokenizer.to(device), run, checkpoint, digest, device)

    def encode(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes, int32 ``[batch, tokens]``, and importance, float16, of uint8 clips of whole windows.

        Raises:
            ValueError: The window does not divide the clips, or an importance is not finite.
        """
        clips = torch.from_numpy(np.ascontiguousarray(video)).to(self.device)
        codes, importance = self.tokenizer.codes(clips), self.tokenizer.importance(clips).half()
        if not bool(importance.isfinite().all()):
            raise ValueError(f"importance above {torch.finfo(torch.float16).max:g} cannot be kept as float16")
        return codes.int().cpu().numpy(), importance.cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Encoding(Work):
    """All that is to be encoded of one manifest."""

    about: CodesAbout

    def files(self, part: Part) -> list[Path]:
        """Return the one file of a part."""
        return [part_file(self.folder, part.number)]


def plan(frozen: FrozenTokenizer, manifest: Manifest, config: EncodingConfig, *, folder: Path) -> Encoding:
    """Say what is to be encoded, and see that it can be; nothing is made.

    Raises:
        ConfigError: Clips that the tokenizer's window does not divide, or a pace that is given twice.
    """
    data, run = config.data, frozen.run.data
    if data.frame_stride is not None and data.fps is not None:
        raise ConfigError(f"give one of data.frame_stride={data.frame_stride} and data.fps={data.fps:g}, not both")
    own = data.frame_stride is None and data.fps is None
    clip = ClipConfig(
        num_frames=data.num_frames or run.num_frames,
        frame_stride=run.frame_stride if own else data.frame_stride,
        fps=run.fps if own else data.fps,
        crop_size=run.crop_size,
        short_videos=data.short_videos,
    )
    try:
        check_window(clip.num_frames, window=run.num_frames)
    except ValueError as error:
        raise ConfigError(f"data.num_frames: {error}") from error
    layout = ViewLayout(clip, data.segments, data.crops)
    about = CodesAbout(
        tokenizer=frozen.digest,
        levels=frozen.run.tokenizer.levels,
        tokens=clip.num_frames // run.num_frames * frozen.run.grid.num_tokens,
        clip=pixels_of(clip),
        segments=data.segments,
        crops=data.crops,
        flips=data.flip,
        manifest=manifest.hash,
        parts=len(cut(len(manifest), video_bytes=layout.video_bytes)),
    )
    guard = GuardConfig(**config.model_dump(include=set(GuardConfig.model_fields)))
    return Encoding(
        checkpoint=frozen.checkpoint,
        folder=folder,
        layout=layout,
        about=about,
        batch=config.batch,
        guard=guard,
        num_videos=len(manifest),
    )


def encode_here(
    frozen: FrozenTokenizer,
    manifest: Manifest,
    encoding: Encoding,
    *,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts in this process: threads decode, each in a child; this thread encodes."""
    make_here(frozen, manifest, encoding, encode=encode_part, advance=advance)


def encode_part(
    frozen: FrozenTokenizer, encoding: Encoding, part: Part, records: Sequence[VideoRecord], views: Sequence[Views]
) -> None:
    """Encode the clips of a part and write them; a video that did not decode gets rows that say why."""
    about, layout, rows = encoding.about, encoding.layout, []
    for record, found in zip(records, views, strict=True):
        cuts = cuts_of(record, layout.clip.pace, segments=layout.segments, crops=layout.crops, flips=about.flips)
        if found.video is None:
            rows += [coded_row(record.id, one, about, found.reason) for one in cuts]
            continue
        clips = np.concatenate([found.video, found.video[:, :, :, ::-1]]) if about.flips else found.video
        pieces = [
            frozen.encode(clips[start : start + encoding.batch]) for start in range(0, len(clips), encoding.batch)
        ]
        coded = [pair for codes, importance in pieces for pair in zip(codes, importance, strict=True)]
        rows += [coded_row(record.id, one, about, pair) for one, pair in zip(cuts, coded, strict=True)]
    write_part(encoding.folder, part.number, rows)
