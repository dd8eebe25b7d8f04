"""Videos whose motion is known: textured sprites that move beside static twins of the same look, on a textured ground.

The twins tell a detector of motion from a detector of contrast: only motion sets the movers apart from them.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationInfo, field_validator

from tats_ray.data.clips import Clip
from tats_ray.data.decode import TIME_TOLERANCE, Crop
from tats_ray.data.manifest import Manifest, ManifestError, VideoRecord, truth_path
from tats_ray.data.places import whole
from tats_ray.data.synthetic_events import EVENTS, FEWEST_FRAMES, event_begins, event_path

RADIUS = (0.11, 0.17)  # of a sprite, as shares of the frame's side: four sprites cover about a quarter of the frame
MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise")
TRAVEL = 0.9  # of the free way, at most, is what a sprite of a straight class travels: it never comes back
HEADINGS = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])  # of the straight ones, as steps in x and y
LIST, CLASSES = "videos.txt", "videos.classes.txt"
SPEED = (0.01, 0.025)  # of a mover, in sides of the frame per frame of the video
CAMERA_REACH = 0.08  # how far the camera wanders from its first position along each axis, in sides of the frame
SPECTRUM = 1.1  # the amplitude of a texture falls with frequency to this power; that of natural images with 1 to 1.5
PLACEMENTS = 32  # drawn before the one with the least overlap is kept
SAMPLES = 8  # sample points along each side of a token when its covered share is measured


class SyntheticConfig(BaseModel):
    """A set of synthetic videos."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    num_videos: int = Field(default=96, gt=0)
    """Videos to make."""
    frames: int = Field(default=48, gt=0)
    """Frames of a video."""
    fps: int = Field(default=24, gt=0)
    """Frames per second."""
    size: int = Field(default=96, ge=32, multiple_of=2)
    """Height and width of a video in pixels, even and at least 32."""
    movers: int = Field(default=2, ge=1)
    """Most sprites that move in a video; each video has between one and this many."""
    twins: int = Field(default=2, ge=0)
    """Sprites of the same look that do not move (but with the camera)."""
    camera: StrictBool = False
    """Whether the camera wanders, and with it the ground and all sprites."""
    motions: int = Field(default=0, ge=0, le=6)
    """Kinds of motion that are classes, so many of left, right, up, down, clockwise, anticlockwise: all movers of a
    video share one, and the labels are listed in videos.txt. No frame alone and no set of frames without their order
    tells the class. 0 mixes motions of any direction, which bounce from the edges, without labels."""
    events: StrictBool = False
    """Whether the class is which of two events far apart came first: every mover swings out and back, once along a row
    and once along a column, in an eighth of the video each, with at least a quarter of it between them in which nothing
    moves. Both classes show the same frames as often; only what links both events tells them apart."""
    noise: float = Field(default=2.0, ge=0)
    """Standard deviation of the sensor noise, in grey levels of 0 to 255."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random; a video depends on the seed and its number alone."""

    @field_validator("events")
    @classmethod
    def _classes_of_one_kind(cls, events: bool, info: ValidationInfo) -> bool:
        frames, motions = info.data.get("frames"), info.data.get("motions")
        if events and motions:
            raise ValueError(f"the classes are events or motions, got motions={motions} as well; leave one of them out")
        if events and frames is not None and frames < FEWEST_FRAMES:
            raise ValueError(f"two events need {FEWEST_FRAMES} frames or more, got frames={frames}; take 128, say")
        return events

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; none without labels."""
        return EVENTS if self.events else MOTIONS[: self.motions]


@dataclass(frozen=True)
class SpriteTracks:
    """Where the sprites of a video are, in the order in which they are painted: later ones cover earlier ones.

    A point belongs to a sprite where ``|x - x_s| ** e + |y - y_s| ** e <= radius ** e``: a disc for the exponent 2, a
    square with round corners for larger ones. Pixel ``n`` reaches from ``n`` to ``n + 1``.
    """

    x: np.ndarray
    """float32 [frames, sprites]: centre, in pixels from the left."""
    y: np.ndarray
    """float32 [frames, sprites]: centre, in pixels from the top."""
    radius: np.ndarray
    """float32 [sprites]: half the width, in pixels."""
    exponent: np.ndarray
    """float32 [sprites]."""
    moving: np.ndarray
    """bool [sprites]: True for movers, False for twins."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tracks as an ``.npz`` file."""
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpriteTracks":
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


class GridShape(Protocol):
    """The tokens of a clip along each axis, as ``TokenGrid`` counts them."""

    @property
    def time(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102


def make_videos(folder: str | os.PathLike[str], config: SyntheticConfig) -> list[Path]:
    """Write H.264 videos ``synthetic_0000.mp4`` and on, each with its tracks in ``<stem>.truth.npz`` beside it.

    Returns:
        The paths of the videos. Files of the same names are replaced; a video appears when it is complete. With
        labels, ``LIST`` beside them has a line ``path label`` for each, and ``CLASSES`` the classes' names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"synthetic_{number:04d}.mp4" for number in range(config.num_videos)]
    for number, path in enumerate(paths):
        video, tracks = draw_clip(np.random.default_rng([config.seed, number]), config, label=_label(number, config))
        tracks.save(truth_path(path))
        with whole(path) as unfinished:
            _encode(unfinished, video, fps=config.fps)
    if config.class_names:
        lines = [f"{path.name} {_label(number, config)}\n" for number, path in enumerate(paths)]
        (folder / LIST).write_text("".join(lines))
        (folder / CLASSES).write_text("".join(f"{name}\n" for name in config.class_names))
    return paths


def _label(number: int, config: SyntheticConfig) -> int | None:
    """Return the class of a video; classes take turns."""
    return number % len(config.class_names) if config.class_names else None


def draw_clip(
    rng: np.random.Generator, config: SyntheticConfig, *, label: int | None = None
) -> tuple[np.ndarray, SpriteTracks]:
    """Render one video in memory; all its movers move as the class ``label`` says, or each in its own way.

    Returns:
        uint8 RGB [frames, size, size, 3], and the truth about its sprites.
    """
    moving = np.arange(config.twins + rng.integers(1, config.movers + 1)) >= config.twins  # movers pass in front
    radius = config.size * rng.uniform(*RADIUS, len(moving))
    begins = event_begins(rng, frames=config.frames) if config.events else None
    placements = (
        _paths(rng, config, radius=radius, moving=moving, label=label, begins=begins) for _ in range(PLACEMENTS)
    )
    paths = min(placements, key=lambda paths: _overlap(paths, radius))  # [frames, sprites, 2]
    camera = _camera_path(rng, config)  # [frames, 2]
    tracks = SpriteTracks(
        x=(paths[..., 0] + camera[:, :1]).astype(np.float32),
        y=(paths[..., 1] + camera[:, 1:]).astype(np.float32),
        radius=radius.astype(np.float32),
        exponent=rng.choice([2.0, 5.0], len(moving)).astype(np.float32),
        moving=moving,
    )
    video = _ground(rng, camera, config)
    for sprite in range(len(moving)):
        _paint(video, rng, tracks, sprite)
    video += np.float32(config.noise) * rng.standard_normal(video.shape, dtype=np.float32)
    return np.clip(np.rint(video), 0, 255).astype(np.uint8), tracks


def require_truth(manifest: Manifest) -> None:
    """Check that every video has its ground truth, in a file that is there.

    Raises:
        ManifestError: Some have none.
    """
    truths = manifest.table.column("truth").to_pylist()
    lacking = [row for row, truth in enumerate(truths) if truth is None or not Path(truth).is_file()]
    if lacking:
        raise ManifestError(
            f"masking.visible.kind=oracle draws by ground truth, which {len(lacking)} of {len(manifest)} videos of "
            f"{manifest.name} lack, the first being {manifest.record(lacking[0]).source.name}; only synthetic videos "
            f"have it, in <stem>.truth.npz beside them: make some with pipelines/make_videos.py and index them, or "
            f"take another masking.visible.kind"
        )


def token_truth(
    path: str | os.PathLike[str], record: VideoRecord, clip: Clip, grid: GridShape
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how much of each token of a clip shows movers, and how much twins.

    Args:
        path: The ``.truth.npz`` of the video, ``record.truth``.
        record: The video.
        clip: The clip: its times, crop and mirroring are followed, its pixels are not looked at.
        grid: The tokens of the clip; ``grid.time`` divides its number of frames.

    Returns:
        Two float32 arrays [tokens] of shares in [0, 1], of movers and of twins that no mover covers.
    """
    frames = shown_frames(record, clip)
    return token_shares(SpriteTracks.load(path), frames=frames, crop=clip.crop, flipped=clip.flipped, grid=grid)


def shown_frames(record: VideoRecord, clip: Clip) -> np.ndarray:
    """Return which frames of a synthetic video a clip shows, by its times: int64 [frames of the clip]."""
    return np.floor(np.array(clip.times) * record.fps + TIME_TOLERANCE).astype(np.int64)


def token_shares(
    tracks: SpriteTracks, *, frames: np.ndarray, crop: Crop, flipped: bool, grid: GridShape
) -> tuple[np.ndarray, np.ndarray]:
    """Measure as ``token_truth`` does, from tracks in memory and the video's frames that make the clip."""
    x = crop.x + crop.width * (np.arange(grid.width * SAMPLES) + 0.5) / (grid.width * SAMPLES)
    y = crop.y + crop.height * (np.arange(grid.height * SAMPLES) + 0.5) / (grid.height * SAMPLES)
    radius, exponent = tracks.radius[:, None], tracks.exponent[:, None]
    dx = (np.abs((x[::-1] if flipped else x) - tracks.x[frames, :, None]) / radius) ** exponent
    dy = (np.abs(y - tracks.y[frames, :, None]) / radius) ** exponent
    inside = dy[..., None] + dx[:, :, None] <= 1  # [frames, sprites, rows, columns]
    mover = inside[:, tracks.moving].any(1)
    twin = inside[:, ~tracks.moving].any(1) & ~mover
    cells = (grid.time, -1, grid.height, SAMPLES, grid.width, SAMPLES)
    mover_share, twin_share = (
        shown.reshape(cells).mean((1, 3, 5), dtype=np.float32).ravel() for shown in (mover, twin)
    )
    return mover_share, twin_share


def _paths(
    rng: np.random.Generator,
    config: SyntheticConfig,
    *,
    radius: np.ndarray,
    moving: np.ndarray,
    label: int | None,
    begins: np.ndarray | None,
) -> np.ndarray:
    """Draw the centres of all sprites, wholly inside the frame: float [frames, sprites, 2]."""
    lengths = [config.frames if moves else 1 for moves in moving]  # a path of one frame stays where it is
    if begins is None:
        paths = [_path(rng, frames, config.size, reach, label) for frames, reach in zip(lengths, radius, strict=True)]
    else:
        assert label is not None  # events are classes
        swings = [
            event_path(rng, frames=config.frames, size=config.size, radius=reach, label=label, begins=begins)
            for reach in radius
        ]
        paths = [swing[:frames] for frames, swing in zip(lengths, swings, strict=True)]
    return np.stack([np.broadcast_to(path, (config.frames, 2)) for path in paths], axis=1)


def _path(rng: np.random.Generator, frames: int, size: int, radius: float, motion: int | None) -> np.ndarray:
    """Draw a straight path, of no class one that bounces from the edges, or an arc: float [frames, 2]."""
    time = np.arange(frames)[:, None]
    speed = size * rng.uniform(*SPEED)
    angle = rng.uniform(0, 2 * np.pi)
    straight = bool(rng.integers(2)) if motion is None else motion < len(HEADINGS)
    free = size - 2 * radius
    if straight and motion is not None:
        travel = min(speed * (frames - 1), TRAVEL * free) * HEADINGS[motion]
        first = radius + np.maximum(0, -travel)  # the nearest to the corner from which the path stays inside
        start = rng.uniform(first, first + free - np.abs(travel))
        return start + travel * time / max(1, frames - 1)
    if straight:
        start = rng.uniform(radius, size - radius, 2)
        unfolded = start - radius + speed * time * np.array([np.cos(angle), np.sin(angle)])
        return radius + free - np.abs(unfolded % (2 * free) - free)
    turn = size * rng.uniform(0.12, 0.25)
    center = rng.uniform(radius + turn, size - radius - turn, 2)
    sense = rng.choice([-1, 1]) if motion is None else (1, -1)[motion - len(HEADINGS)]  # rows count downwards
    angles = angle + sense * speed / turn * time
    return center + turn * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def _overlap(paths: np.ndarray, radius: np.ndarray) -> int:
    """Count the frames in which two sprites touch, over all pairs."""
    distance = np.linalg.norm(paths[:, :, None] - paths[:, None], axis=-1)  # [frames, sprites, sprites]
    return int(np.triu(distance < radius[:, None] + radius, k=1).sum())


def _camera_path(rng: np.random.Generator, config: SyntheticConfig) -> np.ndarray:
    """Draw by how many pixels the scene is shifted, a smooth walk from 0, or 0 without a camera: float [frames, 2]."""
    if not config.camera:
        return np.zeros((config.frames, 2))
    phases = rng.uniform(0, 2 * np.pi, 2)
    turns = rng.uniform(0.5, 1.5, 2) * rng.choice([-1, 1], 2)
    angles = phases + turns * 2 * np.pi * np.arange(config.frames)[:, None] / config.frames
    return config.size * CAMERA_REACH / 2 * (np.sin(angles) - np.sin(phases))


def _ground(rng: np.random.Generator, camera: np.ndarray, config: SyntheticConfig) -> np.ndarray:
    """Render the ground under the camera's path: float32 [frames, size, size, 3]."""
    margin = int(np.ceil(config.size * CAMERA_REACH)) + 1
    texture = _texture(rng, config.size + 2 * margin)
    corners = margin - camera
    if not camera.any():
        still = _window(texture, corners[0], config.size)
        return np.repeat(still[None], config.frames, axis=0)
    return np.stack([_window(texture, corner, config.size) for corner in corners])


def _paint(video: np.ndarray, rng: np.random.Generator, tracks: SpriteTracks, sprite: int) -> None:
    """Paint one sprite into all frames of a video [frames, size, size, 3], in place, with soft edges."""
    radius, exponent = tracks.radius[sprite], tracks.exponent[sprite]
    side = 2 * int(np.ceil(radius)) + 3
    texture = _texture(rng, side + 2)
    size = video.shape[1]
    for frame, x, y in zip(video, tracks.x[:, sprite], tracks.y[:, sprite], strict=True):
        left, top = int(np.floor(x - side / 2)), int(np.floor(y - side / 2))
        colour = _window(texture, np.array([left - x, top - y]) + side / 2 + 1, side)
        dx, dy = left - x + np.arange(side) + 0.5, top - y + np.arange(side) + 0.5
        distance = (np.abs(dx) ** exponent + np.abs(dy)[:, None] ** exponent) ** (1 / exponent)
        opacity = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)[..., None]
        rows, columns = slice(max(top, 0), min(top + side, size)), slice(max(left, 0), min(left + side, size))
        inner = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        frame[rows, columns] += opacity[inner] * (colour[inner] - frame[rows, columns])


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a coloured texture with the spectrum of natural images: float32 [side, side, 3], grey levels."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf  # the mean is drawn apart
    noise = rng.standard_normal((2, 4, *frequency.shape))
    fields = np.fft.irfft2((noise[0] + 1j * noise[1]) * frequency**-SPECTRUM, s=(side, side))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    colours = fields[0][..., None] + 0.5 * np.moveaxis(fields[1:], 0, -1)  # one brightness, weaker colours
    return (rng.uniform(90, 165, 3) + rng.uniform(30, 50) * colours).astype(np.float32)


def _window(texture: np.ndarray, corner: np.ndarray, side: int) -> np.ndarray:
    """Cut a square from a texture at a corner (x, y) between its pixels, bilinearly: [side, side, 3]."""
    x, y = np.floor(corner).astype(int)
    right, below = (corner - (x, y)).astype(np.float32)
    block = texture[y : y + side + 1, x : x + side + 1]
    block = block[:-1] + below * (block[1:] - block[:-1])
    return block[:, :-1] + right * (block[:, 1:] - block[:, :-1])


def _encode(path: Path, video: np.ndarray, *, fps: int) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        # With macroblock trees x264 gave two different files of the same frames in turn, even on one thread.
        options = {"crf": "18", "preset": "veryfast", "threads": "1", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        for image in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
