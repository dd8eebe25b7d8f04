import pytest

from tats_ray.data.clips import ClipConfig
from tats_ray.data.lengths import check_lengths
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.probe import probe_record
from tats_ray.data.source import VideoSource


@pytest.fixture(scope="module")
def manifest(count_video, tmp_path_factory) -> Manifest:
    """Videos of 5 and 9 frames, 25 a second."""
    folder = tmp_path_factory.mktemp("lengths")
    places = [count_video(folder / f"{frames}.mp4", frames=frames) for frames in (5, 9)]
    found = Manifest.of([probe_record(VideoSource(str(place)), label=None) for place in places])
    return Manifest(found.table, name="videos.parquet")


FITS = [
    {"num_frames": 9, "frame_stride": 1},
    {"num_frames": 3, "frame_stride": 4},
    {"num_frames": 3, "frame_stride": None, "fps": 6.25},  # the last of 9 frames begins at 0.32 s
    {"num_frames": 10, "frame_stride": 1, "short_videos": "loop"},
]
LONGER = [
    ({"num_frames": 10, "frame_stride": 1}, "data.num_frames=10 at data.frame_stride=1"),
    ({"num_frames": 3, "frame_stride": 5, "short_videos": "refuse"}, "data.num_frames=3 at data.frame_stride=5"),
    ({"num_frames": 3, "frame_stride": None, "fps": 6.2}, "data.num_frames=3 at data.fps=6.2"),
]


@pytest.mark.parametrize("clip", FITS)
def test_clips_that_fit_into_the_longest_video_are_taken(clip, manifest):
    check_lengths(ClipConfig(**clip), manifest, remedy="or none")


@pytest.mark.parametrize(("clip", "named"), LONGER)
def test_clips_that_fit_into_no_video_are_refused(clip, named, manifest):
    with pytest.raises(ManifestError) as refused:
        check_lengths(ClipConfig(**clip), manifest, remedy="or fewer frames")
    assert str(refused.value) == (
        f"a clip of {named} is longer than every video of videos.parquet (longest: 9 frames, 0.36 s); take longer "
        f"videos, or fewer frames"
    )
