"""Features of a manifest's views: decoded once, encoded for each way of looking at them, written part by part."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import torch

from tats_ray.data.clips import ClipConfig
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.part_files import Part
from tats_ray.data.views import Crops
from tats_ray.probing.decoding import ViewLayout, Views
from tats_ray.probing.frozen import FrozenEncoder, Order, slot_means
from tats_ray.probing.parts import Extraction, Reading, identified, write_part
from tats_ray.probing.work import GIB, ViewDecoder, make_here


class Extract(Protocol):
    """Makes the parts that an extraction misses: :func:`extract_here`, or Ray's in ``cluster/features.py``."""

    def __call__(self, frozen: FrozenEncoder, manifest: Manifest, extraction: Extraction) -> None:
        """Return when every part is there; raise PartError where one cannot be made."""
        ...


def layout_of(
    frozen: FrozenEncoder, *, segments: int, crops: Crops, short_videos: Literal["hold", "loop", "refuse"] | None
) -> ViewLayout:
    """Return the views that an encoder is shown: clips of the shape and pace that it was trained on."""
    data = frozen.run.data
    clip = ClipConfig(
        num_frames=data.num_frames,
        frame_stride=data.frame_stride,
        fps=data.fps,
        crop_size=data.crop_size,
        short_videos=short_videos or data.short_videos,
    )
    return ViewLayout(clip=clip, segments=segments, crops=crops)


def plan_extraction(
    frozen: FrozenEncoder,
    manifest: Manifest,
    layout: ViewLayout,
    looks: Iterable[tuple[float, Order, bool]],
    *,
    root: Path,
    seed: int,
    batch: int,
    guard: GuardConfig,
) -> Extraction:
    """Say what is to be extracted, and where it goes; nothing is made.

    Args:
        frozen: The encoder.
        manifest: The videos.
        layout: Their views.
        looks: Token ratio, order of the frames, and whether all tokens are kept, for each way of looking at them.
        root: Folder below which features lie, each set in a folder that is named by what it is a function of.
        seed: Of the draws of tokens and the shuffles of frames.
        batch: Views that the encoder sees at once.
        guard: What the decoding of one video may take.
    """
    identity = {
        "weights": frozen.digest,
        "model": frozen.run.model.model_dump(mode="json"),
        "manifest": manifest.hash,
        "clip": layout.clip.model_dump(mode="json"),
        "segments": layout.segments,
        "crops": layout.crops,
        "seed": seed,
    }
    readings = []
    for ratio, order, with_tokens in looks:
        folder, text = identified(root, {**identity, "token_ratio": ratio, "order": order})
        readings.append(Reading(folder, text, token_ratio=ratio, order=order, with_tokens=with_tokens))
    return Extraction(
        checkpoint=frozen.checkpoint,
        folder=root,
        layout=layout,
        readings=tuple(readings),
        seed=seed,
        batch=batch,
        guard=guard,
        num_videos=len(manifest),
    )


def tokens_gib(frozen: FrozenEncoder, extraction: Extraction) -> float:
    """Return what the tokens of an extraction take, in GiB, on the disk and again in memory."""
    views = extraction.num_videos * extraction.layout.num_views
    kept = sum(frozen.num_tokens(reading.token_ratio) for reading in extraction.readings if reading.with_tokens)
    return views * kept * frozen.dim * np.dtype(np.float16).itemsize / GIB


def extract_here(
    frozen: FrozenEncoder,
    manifest: Manifest,
    extraction: Extraction,
    *,
    decoder: ViewDecoder | None = None,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts in this process: threads decode, each in a child; this thread encodes.

    Args:
        frozen: The encoder.
        manifest: The videos.
        extraction: What to make.
        decoder: Whose views are used; one of its own by default.
        advance: Told how many more videos are done.
    """
    make_here(frozen, manifest, extraction, encode=encode_part, decoder=decoder, advance=advance)


def encode_part(
    frozen: FrozenEncoder, extraction: Extraction, part: Part, records: Sequence[VideoRecord], views: Sequence[Views]
) -> None:
    """Encode the views of a part in every way that is still missing, and write them.

    Args:
        frozen: The encoder.
        extraction: What to make.
        part: Which videos.
        records: They; an id and the number of a view are that view's name in all draws.
        views: What became of each.
    """
    clip = extraction.layout.clip
    shape = (0, clip.num_frames, clip.crop_size, clip.crop_size, 3)
    video = np.concatenate([np.zeros(shape, np.uint8), *(found.video for found in views if found.video is not None)])
    keys = [
        f"{record.id}/{number}"
        for record, found in zip(records, views, strict=True)
        if found.video is not None
        for number in range(len(found.video))
    ]
    for reading in extraction.unread(part):
        write_part(reading, part, views, _encoded(frozen, extraction, reading, torch.from_numpy(video), keys))


def _encoded(
    frozen: FrozenEncoder, extraction: Extraction, reading: Reading, video: torch.Tensor, keys: Sequence[str]
) -> list[np.ndarray]:
    """Return the slots' means and, where they are kept, the tokens of all views."""
    slots = [np.zeros((0, frozen.grid.time, frozen.dim), np.float32)]
    tokens = [np.zeros((0, frozen.num_tokens(reading.token_ratio), frozen.dim), np.float16)]
    for start in range(0, len(keys), extraction.batch):
        some = slice(start, start + extraction.batch)
        encoded = frozen.encode(
            video[some],
            keys=keys[some],
            token_ratio=reading.token_ratio,
            order=cast("Order", reading.order),
            seed=extraction.seed,
        )
        slots.append(slot_means(encoded, frozen.grid).cpu().numpy())
        if reading.with_tokens:
            tokens.append(encoded.half().cpu().numpy())
    return [np.concatenate(slots), *([np.concatenate(tokens)] if reading.with_tokens else [])]
