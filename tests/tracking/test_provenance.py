import platform

import pytest

from tats_ray.tracking import provenance
from tats_ray.tracking.provenance import dotted_params, provenance_tags


def test_a_config_becomes_dotted_paths():
    config = {
        "data": {"num_frames": 16, "source": None, "crop": {"size": 48}},
        "fast": True,
        "betas": [0.9, 0.95],
        "none": {},
    }
    assert dotted_params(config) == {
        "data.num_frames": "16",
        "data.source": "null",
        "data.crop.size": "48",
        "fast": "true",
        "betas": "[0.9, 0.95]",
        "none": "{}",
    }


def test_no_param_holds_a_password():
    config = {"tracking": {"uri": "http://me:hunter2@host:5000"}, "mirrors": ["https://me:hunter2@a", "b"]}
    assert dotted_params(config) == {"tracking.uri": "http://host:5000", "mirrors": '["https://a", "b"]'}


@pytest.mark.parametrize("length", [6000, 6001, 50_000])
def test_a_long_param_is_cut_to_what_mlflow_takes_and_says_so(length):
    value = dotted_params({"files": "x" * length})["files"]
    assert len(value) == 6000
    assert value.endswith(f" ... ({length} characters)") == (length > 6000)


def test_versions_and_hardware_are_tagged():
    tags = provenance_tags()
    assert tags["version.python"] == platform.python_version()
    assert {"version.torch", "version.ray", "version.mlflow", "version.av", "version.timm"} <= set(tags)
    assert "CPUs" in tags["hardware"]


def _answers(monkeypatch, answers):
    monkeypatch.setattr(
        provenance, "_output", lambda *command: answers.get(command[3] if len(command) > 3 else command[0])
    )


@pytest.mark.parametrize(("changes", "dirty"), [("", "false"), (" M a.py", "true")])
def test_the_commit_is_tagged_with_whether_it_is_the_whole_truth(monkeypatch, changes, dirty):
    _answers(monkeypatch, {"ls-files": "provenance.py", "rev-parse": "abc", "status": changes})
    tags = provenance_tags()
    assert (tags["mlflow.source.git.commit"], tags["git.dirty"]) == ("abc", dirty)


def test_a_package_inside_another_checkout_does_not_borrow_its_commit(monkeypatch):
    _answers(monkeypatch, {"ls-files": None, "rev-parse": "somebody else's", "status": ""})
    assert "mlflow.source.git.commit" not in provenance_tags()
