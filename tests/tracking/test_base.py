import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from tats_ray.tracking import NullTracker, RunHandle, Tracker, TrackingConfig


def test_a_handle_travels_whole_and_shows_no_password():
    handle = RunHandle(uri="http://me:hunter2@host:5000", run_id="r", experiment_id="1")
    assert pickle.loads(pickle.dumps(handle)) == handle
    assert "hunter2" not in repr(handle)


def test_the_null_tracker_takes_everything_and_keeps_nothing():
    tracker: Tracker = NullTracker()
    tracker.log_metrics({"reconstruction/loss": 1.0}, step=0)
    tracker.log_file(Path("nowhere.png"), folder="pictures")
    tracker.close()


@pytest.mark.parametrize("wrong", [{"log_every": 0}, {"experiment": ""}, {"url": "http://host"}])
def test_a_wrong_config_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrackingConfig(**wrong)
