"""Frames are shown upright, in their proportions, one moment at a time and in the right colours."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.probe import probe
from tats_ray.data.scaling import Orientation
from tats_ray.data.source import VideoSource

COLOURS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)  # of the four quarters


def quarters(*, width, height, colours=COLOURS):
    return colours.repeat(height // 2, 0).repeat(width // 2, 1)


def write(path, images, *, codec="libx264", pixels="yuv444p", options=None, prepare=lambda stream: None, as_is=False):
    """Encode RGB images nearly without loss; frames may come ready made."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "1"} if options is None else options)
        frame = images[0] if as_is else av.VideoFrame.from_ndarray(images[0], format="rgb24")
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixels
        stream.codec_context.thread_count = 1
        prepare(stream)
        for number, image in enumerate(images):
            frame = image if as_is else av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return VideoSource(str(path))


def show(source, crop, *, frame_size, size=16, time=0.0):
    return decode_views(source, [View((time,), crop)], frame_size=frame_size, size=size)[0][0].astype(int)


def assert_quarters(source, colours, *, frame_size, tolerance=6, time=0.0):
    """Each quarter of the upright frame has its colour all over, but for a pixel at the seams."""
    width, height = frame_size
    for row in range(2):
        for column in range(2):
            crop = Crop(column * width // 2 + 2, row * height // 2 + 2, width // 2 - 4, height // 2 - 4)
            seen = show(source, crop, frame_size=frame_size, time=time)
            assert np.abs(seen - colours[row, column].astype(int)).max() <= tolerance, (row, column)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_display_matrix(turns, mirrored, tmp_path):
    source = write(
        tmp_path / "turned.mp4",
        [quarters(width=96, height=64)],
        prepare=lambda stream: stream.set_display_rotation(90 * turns, hflip=mirrored),  # anticlockwise, then mirrored
    )
    upright = np.rot90(COLOURS, turns)
    upright = upright[:, ::-1] if mirrored else upright
    measured = probe(source)
    size = (measured.width, measured.height)
    assert size == ((64, 96) if turns % 2 else (96, 64))
    assert_quarters(source, upright, frame_size=size)
    whole = show(source, Crop(0, 0, *size), frame_size=size, size=32)
    assert np.abs(whole[8::16, 8::16] - upright).max() <= 6


def test_a_senseless_matrix_turns_nothing(tmp_path):
    source = write(
        tmp_path / "senseless.mp4",
        [quarters(width=96, height=64)],
        prepare=lambda stream: stream.set_display_matrix([0] * 8 + [1 << 30]),
    )
    assert_quarters(source, COLOURS, frame_size=(96, 64))


def test_turning_makes_no_copy():
    image = np.zeros((4, 6, 3))
    assert np.shares_memory(Orientation(transposed=True, mirrored=True, flipped=True).turn(image), image)


@pytest.mark.parametrize(
    ("aspect", "frame_size"), [(Fraction(2), (192, 64)), (Fraction(1, 2), (96, 128)), (Fraction(32, 9), (341, 64))]
)
def test_pixels_that_are_not_square(aspect, frame_size, tmp_path):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = aspect

    source = write(tmp_path / "anamorphic.mp4", [quarters(width=96, height=64)], prepare=prepare)
    measured = probe(source)
    assert (measured.width, measured.height) == frame_size
    assert_quarters(source, COLOURS, frame_size=frame_size)
    width, height = frame_size
    side = min(frame_size)  # a square upright is a square: the seam is in its middle
    square = show(source, Crop((width - side) // 2, (height - side) // 2, side, side), frame_size=frame_size, size=32)
    assert np.abs(square[4, 4] - COLOURS[0, 0]).max() <= 6
    assert np.abs(square[28, 28] - COLOURS[1, 1]).max() <= 6


def test_turned_pixels_that_are_not_square(tmp_path):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        stream.set_display_rotation(90)

    source = write(tmp_path / "both.mp4", [quarters(width=96, height=64)], prepare=prepare)
    measured = probe(source)
    assert (measured.width, measured.height) == (64, 192)
    assert_quarters(source, np.rot90(COLOURS), frame_size=(64, 192))


def test_a_change_of_resolution_is_cut_in_proportion(tmp_path):
    images = quarters(width=96, height=64), quarters(width=64, height=128)
    parts = [write(tmp_path / f"{number}.h264", [image] * 5) for number, image in enumerate(images)]
    (tmp_path / "both.h264").write_bytes(b"".join(Path(part.path).read_bytes() for part in parts))
    source = VideoSource(str(tmp_path / "both.h264"))
    measured = probe(source)
    assert (measured.num_frames, measured.width, measured.height) == (10, 96, 64)
    for frame in range(10):
        assert_quarters(source, COLOURS, frame_size=(96, 64), time=frame / measured.fps)


def test_interlaced_frames_show_one_field(tmp_path):
    images = np.zeros((10, 64, 96, 3), np.uint8)
    images[:, ::2] = 255  # the moment of the upper lines is white, that of the lower ones black
    source = write(
        tmp_path / "interlaced.ts", list(images), pixels="yuv420p", options={"crf": "1", "x264-params": "tff=1"}
    )
    with av.open(source.path) as container:
        assert next(container.decode(video=0)).interlaced_frame
    measured = probe(source)
    assert (measured.width, measured.height) == (96, 64)  # as on display, though half the lines are used
    for crop in (Crop(0, 0, 96, 64), Crop(10, 7, 33, 21)):
        assert show(source, crop, frame_size=(96, 64)).min() >= 250


LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # weights of red and blue: ITU-R BT.601, BT.709
SPACES = {"bt601": 6, "bt709": 1}  # as ITU-T H.273 numbers them


def to_rgb(planes, *, space, bits, full):
    """Convert Y'CbCr to R'G'B' by the book: ITU-R BT.601 section 3, BT.709 section 3, in floating point."""
    red, blue = LUMA[space]
    top = 2**bits - 1
    luma, cb, cr = (plane.astype(float) for plane in planes)
    if full:
        luma, cb, cr = luma / top, (cb - 2 ** (bits - 1)) / top, (cr - 2 ** (bits - 1)) / top
    else:
        scale = 2 ** (bits - 8)
        luma, cb, cr = (luma / scale - 16) / 219, (cb / scale - 128) / 224, (cr / scale - 128) / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return 255 * np.clip(np.stack([r, g, b], -1), 0, 1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", LUMA)
@pytest.mark.parametrize(("pixels", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv422p10le", 10), ("yuv444p16le", 16)])
def test_colours_by_the_book(pixels, bits, space, full, tmp_path):
    """Flat patches of every kind of colour, stored without loss, against the formulas of the standards."""
    rng = np.random.default_rng(0)
    frame = av.VideoFrame(64, 64, pixels)
    frame.colorspace, frame.color_range = SPACES[space], 2 if full else 1
    planes, scale = [], 2 ** (bits - 8)
    for plane in frame.planes:
        patches = rng.integers(60 * scale, 190 * scale, (4, 4))
        image = patches.repeat(plane.height // 4, 0).repeat(plane.width // 4, 1)
        raw = np.zeros((plane.height, plane.line_size), np.uint8)
        data = image.astype(np.uint8 if bits == 8 else np.uint16).view(np.uint8)
        raw[:, : data.shape[1]] = data
        plane.update(raw)
        planes.append(patches)

    def prepare(stream):
        stream.codec_context.colorspace, stream.codec_context.color_range = SPACES[space], 2 if full else 1

    source = write(
        tmp_path / "patches.mkv", [frame], codec="ffv1", pixels=pixels, options={}, prepare=prepare, as_is=True
    )
    expected = to_rgb(planes, space=space, bits=bits, full=full)
    seen = show(source, Crop(0, 0, 64, 64), frame_size=(64, 64), size=64)[8::16, 8::16]  # amid the patches
    # The tables of libswscale err by up to three levels where chroma is subsampled; a wrong matrix or range by tens.
    assert np.abs(seen - expected).max() <= 4
    other = to_rgb(planes, space="bt709" if space == "bt601" else "bt601", bits=bits, full=full)
    assert np.abs(seen - other).max() > 10


@pytest.mark.parametrize(("pixels", "depth"), [("gray", 8), ("gray16le", 16)])
def test_grey(pixels, depth, tmp_path):
    ramp = np.linspace(0, 2**depth - 1, 64).astype(np.uint8 if depth == 8 else np.uint16)[None].repeat(64, 0)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(ramp), format=pixels)
    source = write(tmp_path / "grey.mkv", [frame], codec="ffv1", pixels=pixels, options={}, as_is=True)
    seen = show(source, Crop(0, 0, 64, 64), frame_size=(64, 64), size=64)
    assert np.abs(seen - np.linspace(0, 255, 64)[None, :, None]).max() <= 2  # rounded to eight bits


@pytest.mark.parametrize(("pixels", "codec", "name"), [("rgba", "png", "a.mov"), ("bgr0", "ffv1", "a.mkv")])
def test_colours_stored_as_such(pixels, codec, name, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    source = write(tmp_path / name, [image], codec=codec, pixels=pixels, options={})
    assert np.array_equal(show(source, Crop(0, 0, 64, 64), frame_size=(64, 64), size=64), image)


def test_odd_sizes(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (65, 97, 3), np.uint8)
    source = write(tmp_path / "odd.mov", [image], codec="png", pixels="rgb24", options={})
    for x, y in ((0, 0), (96, 64), (33, 17)):
        seen = show(source, Crop(x, y, 1, 1), frame_size=(97, 65), size=4)
        assert (seen == image[y, x]).all()
    assert np.array_equal(show(source, Crop(32, 0, 65, 65), frame_size=(97, 65), size=65), image[:, 32:])
