"""The pictures of one clip as several checkpoints see it, and of the clips that they find most alike, as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import torch

from tats_ray.data.clips import load_center_clip
from tats_ray.data.guard import GuardedDecoder
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.source import DecodeError
from tats_ray.tracking.figures import animate, save_sheet
from tats_ray.tracking.overlays import Video
from tats_ray.viewing.drawings import UNIFORM, Drawing, draw_all, shown_side
from tats_ray.viewing.gallery import Gallery, load_middles, spread
from tats_ray.viewing.look import (
    Look,
    Trained,
    follows_paths,
    look,
    mean_feature,
    nearest,
    open_together,
    token_number,
)

FPS = 8
NEIGHBOURS = 5


@dataclass(frozen=True)
class Subject:
    """The clip that all pictures show."""

    number: int
    record: VideoRecord
    shown: Video
    """As it is shown, which may be finer than what a model sees."""


@dataclass
class Album:
    """What was written, what could not be drawn and why, and the videos that were left out."""

    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[DecodeError] = field(default_factory=list)


def make_album(
    checkpoints: Sequence[Path],
    source: str | None,
    *,
    out: Path,
    motion: Literal["gif", "mp4"],
    clip: int | None = None,
    token: Sequence[int] | None = None,
    among: int = 100,
) -> Album:
    """Draw one clip as every checkpoint sees it, and the clips nearest to it; each picture still and moving.

    Args:
        checkpoints: Folders of runs or of checkpoints.
        source: A video, a folder of videos or a manifest; None takes the first run's held-out videos.
        out: Folder of the pictures, made when it is missing.
        motion: Kind of the moving pictures.
        clip: Number of the video that is drawn; None takes the first that decodes.
        token: Time slot, row and column of the token whose path of attention is drawn; None takes the likeliest.
        among: At most so many other videos, evenly spaced, are compared with the one that is drawn.

    Raises:
        CheckpointError: A checkpoint cannot be used.
        ConfigError: The settings of a run cannot be read.
        DecodeError: The chosen video does not decode, or none does.
        ManifestError: There are no such videos.
        ValueError: An argument breaks a rule; the message names it.
    """
    _check(out, among=among)
    trained = open_together(checkpoints, reserved=(UNIFORM,))
    first = next(iter(trained.values())).run
    places = {name: None if token is None else token_number(token, one.method.grid) for name, one in trained.items()}
    if token is not None and not any(map(follows_paths, trained.values())):
        raise ValueError("--token is for checkpoints with trajectory attention (masking.visible.kind=tats), got none")
    gallery = Gallery.held_out(first) if source is None else Gallery.of(source)
    album = Album()
    with GuardedDecoder(first.data) as decode:
        subject = _choose(gallery, clip, trained, decode, album)
        videos = {
            name: torch.from_numpy(load_center_clip(subject.record, one.run.data, decode=decode).video)
            for name, one in trained.items()
        }
        looks = {
            name: look(one, videos[name], seed=first.seed, clip=subject.number, token=places[name])
            for name, one in trained.items()
        }
        for name, one in trained.items():
            album.notes += _lacking(name, one, looks[name])
        seen = {name: (one, videos[name]) for name, one in trained.items()}
        drawings = draw_all(subject.shown, looks) | _retrieval(gallery, subject, seen, decode, album, among=among)
    called = PurePosixPath(subject.record.source.name).name
    for name, drawing in drawings.items():
        # The sheet of tokens goes into documents, which have captions of their own.
        title = "" if name == "tokens" else f"{called}: {name}"
        save_sheet(drawing.rows, out / f"{name}.png", title=title, footer=drawing.footer)
        animate(drawing.rows, out / f"{name}.{motion}", fps=FPS, footer=drawing.footer, colours=256)
        album.files += [out / f"{name}.png", out / f"{name}.{motion}"]
    return album


def _check(out: Path, *, among: int) -> None:
    if out.suffix in (".png", ".gif", ".mp4") or (out.exists() and not out.is_dir()):
        raise ValueError(f"--out must be a folder, in which the pictures get names of their own, got {out}")
    if among < 1:
        raise ValueError(f"--among must be at least 1 video, got {among}")


def _choose(
    gallery: Gallery, clip: int | None, trained: Mapping[str, Trained], decode: GuardedDecoder, album: Album
) -> Subject:
    """Decode the video of a number, or the first that decodes."""
    if clip is not None and not 0 <= clip < len(gallery):
        raise ValueError(f"--clip must be from 0 to {len(gallery) - 1} for {gallery.name}, got {clip}")
    side = shown_side([size for one in trained.values() for size in (one.method.grid.height, one.method.grid.width)])
    finer = next(iter(trained.values())).run.data.model_copy(update={"crop_size": side})
    for number in range(len(gallery)) if clip is None else [clip]:
        try:
            record = gallery.record(number, decode)
            return Subject(number, record, load_center_clip(record, finer, decode=decode).video)
        except DecodeError as error:
            album.failures.append(error)
    first = album.failures[0]
    if clip is not None or len(gallery) == 1:
        raise first
    raise DecodeError(gallery.name, f"none of its {len(gallery)} videos decodes; the first is {first}")


def _retrieval(
    gallery: Gallery,
    subject: Subject,
    seen: Mapping[str, tuple[Trained, torch.Tensor]],
    decode: GuardedDecoder,
    album: Album,
    *,
    among: int,
) -> dict[str, Drawing]:
    """Return the sheet of the clips nearest to the subject for each frozen encoder; none where it is alone."""
    sizes = {one.run.data.crop_size: one.run.data for one, _ in seen.values()}
    failed = {error.path for error in album.failures}
    numbers = spread(len(gallery), count=among, without=subject.number)
    middles, failures = load_middles(gallery, numbers, list(sizes.values()), decode)
    album.failures += [error for error in failures if error.path not in failed]
    if not middles:
        album.notes.append(f"no retrieval: there is no other video to compare with in {gallery.name}")
        return {}
    others = list(middles.values())
    rows = {f"query: {_caption(subject.record)}": subject.shown}
    for name, (one, query) in seen.items():
        size = list(sizes).index(one.run.data.crop_size)
        features = torch.stack([mean_feature(one, torch.from_numpy(other.clips[size])) for other in others])
        found = nearest(mean_feature(one, query), features, count=NEIGHBOURS)
        for rank, (row, cosine) in enumerate(found, 1):
            record = others[row].record
            finer = one.run.data.model_copy(update={"crop_size": subject.shown.shape[1]})
            label = f"{name} {rank}: {_caption(record)} ({cosine:.4f})"
            rows[label] = load_center_clip(record, finer, decode=decode).video
    lines = [
        "(cosine) of the frozen encoder's features, averaged over all tokens, with the query's",
        f"the nearest of {len(others)} other videos",
    ]
    return {"retrieval": Drawing(rows, lines)}


def _caption(record: VideoRecord) -> str:
    stem = PurePosixPath(record.source.name.rpartition("::")[2]).stem
    return stem if record.label is None else f"{stem}, class {record.label}"


def _lacking(name: str, trained: Trained, seen: Look) -> list[str]:
    """Say in one line what cannot be drawn, and whether the policy was on."""
    missing = {
        "probabilities": seen.snapshot.probability is None,
        "critic's map": seen.critic is None,
        "path of attention": seen.path is None,
    }
    kind = trained.run.masking.visible.kind
    notes = [f"{name}: {kind} has no {', no '.join(what for what, lacks in missing.items() if lacks)}"]
    if seen.path is not None and trained.method.stage != "policy":
        return [f"{name}: at step {trained.step} its policy was not on yet; training drew uniformly"]
    return notes if any(missing.values()) else []
