"""Long clips under Ray with little memory for objects: nothing goes to disk, and nothing is decoded twice."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tats_ray.data.synthetic import SyntheticConfig, make_videos

VIDEOS, STEPS, BATCH = 24, 48, 4
STORE = 80 * 2**20
"""Bytes; Ray takes no less than 75 MiB."""


@pytest.mark.ray
def test_clips_of_128_frames_stream_through_an_object_store_that_holds_a_quarter_of_them(tmp_path: Path) -> None:
    make_videos(tmp_path / "videos", SyntheticConfig(num_videos=VIDEOS, frames=132, size=64))
    script = Path(__file__).with_name("small_store_run.py")
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    own["RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"] = str(STORE)
    subprocess.run([sys.executable, str(script), str(tmp_path / "videos")], env=own, check=True, timeout=300)
    found = json.loads((tmp_path / "videos" / "found.json").read_text())
    assert found["failures"] == 0
    clips = STEPS * BATCH
    assert found["clips"] == clips
    assert clips * 128 * 64 * 64 * 3 > 3.5 * found["capacity"]
    assert found["spilled"] == 0
    decoded = (tmp_path / "videos" / "decoded").read_text().splitlines()
    assert len(set(decoded)) == VIDEOS
    assert set(Counter(decoded).values()) == {clips // VIDEOS}  # whole epochs, and one decoding of each clip
