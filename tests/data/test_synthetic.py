import numpy as np
import pytest
from pydantic import ValidationError

from tats_ray.data import synthetic
from tats_ray.data.clips import ClipConfig, load_center_clip, load_clips
from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.manifest import truth_path
from tats_ray.data.probe import probe_record
from tats_ray.data.source import VideoSource
from tats_ray.data.synthetic import SpriteTracks, SyntheticConfig, draw_clip, make_videos, token_shares, token_truth
from tats_ray.geometry import TokenGrid

STILL = SyntheticConfig(noise=0, frames=24)


def covered(tracks: SpriteTracks, sprite: int, size: int, *, shrink: float = 0.0) -> np.ndarray:
    """Which pixels [frames, size, size] have their middle in a sprite that is smaller by some pixels."""
    middle = np.arange(size) + 0.5
    power = tracks.exponent[sprite]
    dx = np.abs(middle - tracks.x[:, sprite, None, None])
    dy = np.abs(middle[:, None] - tracks.y[:, sprite, None, None])
    return dx**power + dy**power <= max(tracks.radius[sprite] - shrink, 0) ** power


@pytest.mark.parametrize("seed", range(8))
def test_only_movers_change_the_picture(seed):
    video, tracks = draw_clip(np.random.default_rng(seed), STILL)
    near_mover = np.any([covered(tracks, s, 96, shrink=-2) for s in np.flatnonzero(tracks.moving)], axis=(0, 1))
    changed = np.any(video != video[0], axis=(0, 3))
    assert not np.any(changed & ~near_mover)  # without noise, nothing else moves: neither ground nor twins
    assert changed[near_mover].mean() > 0.8  # and wherever a mover passed, it changed something


@pytest.mark.parametrize("camera", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_sprites_carry_their_texture_along_their_tracks(seed, camera):
    video, tracks = draw_clip(np.random.default_rng(seed), STILL.model_copy(update={"camera": camera}))
    for sprite in range(len(tracks.moving)):
        hidden = np.any(
            [covered(tracks, s, 96) for s in range(sprite + 1, len(tracks.moving))] or [[[[False]]]], axis=0
        )
        shown = covered(tracks, sprite, 96, shrink=2) & ~hidden
        means = [frame[seen].mean(0) for frame, seen in zip(video, shown, strict=True) if seen.sum() > 100]
        assert np.std(means, axis=0).max() < 6  # its own colour throughout; parts of it may be hidden


@pytest.mark.parametrize("axis", [0, 1])
def test_ground_and_textures_move_by_parts_of_a_pixel(axis, monkeypatch):
    """With ramps for textures, what moves by a tenth of a pixel changes by a tenth of the ramp's slope."""
    slope, pixels = 2.0, np.arange(96) + 0.5

    def ramp(rng, side):
        across = np.broadcast_to(slope * np.arange(side, dtype=np.float32), (side, side))
        return np.repeat((across if axis == 0 else across.T)[..., None], 3, axis=2)

    def along_columns(frames):  # [frames, rows, columns], turned so that the ramp runs along the columns
        return frames if axis == 0 else frames.transpose(0, 2, 1)

    monkeypatch.setattr(synthetic, "_texture", ramp)
    video, tracks = draw_clip(np.random.default_rng(3), STILL.model_copy(update={"camera": True}))
    twin = tracks.x[:, 0] if axis == 0 else tracks.y[:, 0]  # goes with the camera, as the ground does
    values = along_columns(video[..., 0].astype(float))
    sprites = np.any([covered(tracks, s, 96, shrink=-2) for s in range(len(tracks.moving))], axis=0)
    flat = values - slope * (pixels - twin[:, None, None])
    assert np.ptp(flat[~along_columns(sprites)]) <= 1.01  # rounding to grey levels
    for sprite in range(len(tracks.moving)):
        others = [covered(tracks, s, 96, shrink=-2) for s in range(sprite + 1, len(tracks.moving))]
        seen = covered(tracks, sprite, 96, shrink=2) & ~np.any(others or [np.zeros_like(sprites)], axis=0)
        place = tracks.x[:, sprite] if axis == 0 else tracks.y[:, sprite]
        inner = (values - slope * (pixels - place[:, None, None]))[along_columns(seen)]
        assert np.ptp(inner) <= 1.01


def test_movers_move_and_twins_stay():
    for seed in range(20):
        for camera in (False, True):
            config = STILL.model_copy(update={"camera": camera})
            _, tracks = draw_clip(np.random.default_rng(seed), config)
            path = np.stack([tracks.x, tracks.y], -1)
            step = np.linalg.norm(np.diff(path, axis=0), axis=-1)
            assert (~tracks.moving).sum() == 2
            assert 1 <= tracks.moving.sum() <= 2
            if camera:
                twins = path[:, ~tracks.moving] - path[:1, ~tracks.moving]
                np.testing.assert_allclose(twins[:, 0], twins[:, 1], atol=1e-4)  # both go with the camera; float32
                assert np.abs(twins).max() > 1
            else:
                assert np.all(step[:, ~tracks.moving] == 0)
                assert np.all(path >= tracks.radius[:, None] - 1e-3)
                assert np.all(path <= 96 - tracks.radius[:, None] + 1e-3)
                travelled = np.linalg.norm(path[:8].max(0) - path[:8].min(0), axis=-1)
                assert travelled[tracks.moving].min() > 2  # pixels in a third of a second


def test_movers_and_twins_look_alike_and_cover_alike():
    shares = []
    for seed in range(200):
        _, tracks = draw_clip(
            np.random.default_rng(seed), STILL.model_copy(update={"frames": 2, "movers": 1, "twins": 1})
        )
        shares.append([tracks.radius[tracks.moving][0], tracks.radius[~tracks.moving][0]])
    mover, twin = np.mean(shares, axis=0)
    assert abs(mover - twin) < 0.5  # the standard error of the difference is 0.17 pixels


def test_drawing_is_a_function_of_its_generator():
    (one, tracks), (two, _), (other, _) = (draw_clip(np.random.default_rng(seed), STILL) for seed in (0, 0, 1))
    assert one.shape == (24, 96, 96, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert tracks.x.shape == (24, len(tracks.moving))


def test_shares_by_hand():
    tracks = SpriteTracks(
        x=np.full((4, 3), 24, np.float32),
        y=np.array([[8, 8, 40]] * 2 + [[8, 100, 40]] * 2, np.float32),
        radius=np.array([8, 8, 8], np.float32),
        exponent=np.array([2, 200, 2], np.float32),  # an exponent of 200 is a square to a hundredth
        moving=np.array([False, True, True]),
    )
    grid = TokenGrid(time=2, height=4, width=4)
    shares = token_shares(tracks, frames=np.arange(4), crop=Crop(0, 0, 64, 64), flipped=False, grid=grid)
    mover, twin = (share.reshape(2, 4, 4) for share in shares)
    disc = np.pi / 4
    expected_mover, expected_twin = np.zeros((2, 2, 4, 4))
    expected_mover[0, 0, 1] = 1  # the square fills token (row 0, column 1) in the first slot and hides the twin
    expected_twin[1, 0, 1] = disc
    expected_mover[:, 2, 1] = disc
    np.testing.assert_allclose(mover, expected_mover, atol=0.03)  # 64 sample points to a token
    np.testing.assert_allclose(twin, expected_twin, atol=0.03)
    flipped, _ = token_shares(tracks, frames=np.arange(4), crop=Crop(0, 0, 64, 64), flipped=True, grid=grid)
    np.testing.assert_array_equal(flipped.reshape(2, 4, 4), mover[..., ::-1])
    late, _ = token_shares(tracks, frames=np.array([2, 2, 3, 3]), crop=Crop(0, 0, 64, 64), flipped=False, grid=grid)
    np.testing.assert_array_equal(late.reshape(2, 4, 4), mover[[1, 1]])
    part, _ = token_shares(
        tracks, frames=np.arange(4), crop=Crop(16, 0, 16, 16), flipped=False, grid=TokenGrid(2, 1, 1)
    )
    np.testing.assert_allclose(part, [1, 0], atol=0.03)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config = SyntheticConfig(num_videos=3, noise=0)
    return config, make_videos(tmp_path_factory.mktemp("synthetic"), config)


def test_files_hold_what_was_drawn(made):
    config, paths = made
    assert [path.name for path in paths] == ["synthetic_0000.mp4", "synthetic_0001.mp4", "synthetic_0002.mp4"]
    for number, path in enumerate(paths):
        record = probe_record(VideoSource(str(path)), label=None)
        assert (record.num_frames, record.fps, record.width, record.height) == (48, 24.0, 96, 96)
        assert record.truth == str(truth_path(path))
        video, tracks = draw_clip(np.random.default_rng([config.seed, number]), config)
        decoded = decode_views(
            VideoSource(str(path)), [View(tuple(np.arange(48) / 24), Crop(0, 0, 96, 96))], frame_size=(96, 96), size=96
        )[0]
        # H.264 at crf 18 keeps the brightness; it halves the resolution of colours, which are as fine as it here.
        assert np.abs((decoded.astype(float) - video) @ [0.299, 0.587, 0.114]).mean() < 4
        saved = SpriteTracks.load(record.truth)
        for name, array in vars(tracks).items():
            np.testing.assert_array_equal(getattr(saved, name), array)


def test_the_same_configuration_makes_the_same_files(made, tmp_path):
    config, paths = made
    again = make_videos(tmp_path / "again", config.model_copy(update={"num_videos": 2}))
    assert len(again) == 2
    for path, copy in zip(paths, again, strict=False):  # a video does not depend on how many are made
        assert path.read_bytes() == copy.read_bytes()
    assert len(list((tmp_path / "again").iterdir())) == 4


def test_truth_follows_start_crop_and_mirror_to_where_pixels_change(made):
    """Where the decoded clip changes between its frames there is a mover, whatever the crop, start and mirroring."""
    config = ClipConfig(num_frames=8, frame_stride=3, crop_size=64, flip=True)
    grid = TokenGrid.of(num_frames=8, crop_size=64, tubelet_size=2, patch_size=8)
    flips = set()
    for seed, path in enumerate(list(made[1]) * 3):
        record = probe_record(VideoSource(str(path)), label=None)
        clip = load_clips(record, config, np.random.default_rng(seed))[0]
        flips.add(clip.flipped)
        mover, twin = token_truth(record.truth, record, clip, grid)
        cells = clip.video.astype(float).reshape(4, 2, 8, 8, 8, 8, 3)  # time, frame, row, y, column, x, channel
        change = np.abs(cells[:, 1] - cells[:, 0]).mean((2, 4, 5)).ravel()
        moving, still = (mover > 0.25) & (mover < 0.75), (mover == 0) & (twin > 0.5)
        if moving.any() and still.any():
            assert change[moving].mean() > 4 * change[still].mean()
        assert np.corrcoef(change, mover > 0)[0, 1] > 0.4
    assert flips == {False, True}


def test_truth_of_the_middle(made):
    config = ClipConfig(num_frames=8, frame_stride=2, crop_size=96)
    record = probe_record(VideoSource(str(made[1][0])), label=None)
    clip = load_center_clip(record, config)
    grid = TokenGrid(4, 6, 6)
    mover, twin = token_truth(record.truth, record, clip, grid)
    tracks = SpriteTracks.load(record.truth)
    area = np.mean(
        [covered(tracks, s, 96)[16 + 1 : 32 : 2] for s in np.flatnonzero(tracks.moving)], axis=(1, 2, 3)
    ).sum()
    assert mover.shape == twin.shape == (144,)
    assert mover.dtype == twin.dtype == np.float32
    assert 0.7 * area < mover.mean() <= area * 1.02  # movers may cover each other


@pytest.mark.parametrize("fields", [{"size": 33}, {"size": 16}, {"movers": 0}, {"camera": "yes"}, {"num_frames": 3}])
def test_the_configuration_refuses(fields):
    with pytest.raises(ValidationError):
        SyntheticConfig(**fields)
