"""The command line as a user meets it: what it prints, how it exits, what it leaves."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos

PIPELINES = Path(__file__).parents[2] / "pipelines"
SMALL = [
    "cluster.num_workers=0",
    "data.num_frames=4",
    "data.crop_size=16",
    "model.patch_size=4",
    "model.encoder.depth=1",
    "masking.mask_ratio=0.9",
    "training.steps=4",
    "training.global_batch=4",
    "training.checkpoint_every=2",
    "tracking.log_every=1",
]
SECONDS = 15
"""No wrong command may take longer once its imports are done (they take about 5 s alone)."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int | str | None
    out: str
    err: str


START_SECONDS = 90
"""When to give up on a process of its own; 10 are enough for it alone."""

Command = Callable[..., Done]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, SyntheticConfig(num_videos=6, frames=6, size=32))
    return folder


@pytest.fixture(scope="module")
def manifest(videos: Path) -> Path:
    path = videos / "six.parquet"
    Manifest.of([probe_record(source, label=label) for source, label in list_sources(videos)]).write(path)
    return path


def environment(results: Path) -> dict[str, str]:
    """This process's, with results below ``results`` and nothing said of MLflow or Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    return kept | {"TATS_RESULTS": str(results), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a pipeline as ``python pipelines/NAME.py`` does, but for the imports, in an empty folder.

    An exception that it lets through, a traceback for the user, fails the test.
    """
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment(tmp_path)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TATS_RESULTS", str(tmp_path / "results"))

    def run(name: str, *arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        began = time.monotonic()
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(PIPELINES / f"{name}.py"), run_name="__main__")
        assert time.monotonic() - began < SECONDS
        return Done(left.value.code, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", r"data\.manifest is not set; index your videos first"),
        ("data.manifest=none.parquet", r"no such manifest file: \S+/none\.parquet; make one with"),
        (
            "data.manifest={manifest} data.num_frames=8",
            r"data.num_frames=8 at data.frame_stride=1 is longer than every video .*longest: 6 frames",
        ),
        ("masking.mask_ratio=0.99", r"masking\.mask_ratio must leave both visible and hidden tokens, got 0\.99"),
        ("masking.visible.kind=tube masking.mask_ratio=0.01", r"masking\.mask_ratio must leave both .* hidden sites"),
        ("data.crop_size=18", r"crop_size must be a multiple of patch_size, got 18 pixels and patches of 4; try 16"),
        ("--recipe tinny", r"there is no recipe 'tinny'; did you mean tiny\?"),
        ("mask_ratio=0.5", r"there is no knob 'mask_ratio'; did you mean masking\.mask_ratio\?"),
        ("--config none.yaml", r"--config none\.yaml cannot be read"),
        ("data.manifest={manifest} tracking.uri=http://127.0.0.1:9", r"MLflow server http://127\.0\.0\.1:9 does not"),
    ],
)
def test_bad_input_is_one_message_in_seconds(command: Command, manifest: Path, arguments: str, message: str) -> None:
    start = [] if arguments.startswith("--") else SMALL
    done = command("pretrain", *start, *arguments.format(manifest=manifest).split())
    assert done.status == 1
    assert re.match(rf"error: .*{message}", done.err), done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", r"no such folder, list or video: \S+/none"),
        (".", r"no videos found in the folder"),
    ],
)
def test_no_videos_is_one_message(command: Command, source: str, message: str) -> None:
    done = command("index_videos", source, "--out", "m.parquet")
    assert done.status != 0
    assert re.match(rf"error: {message}.*\n$", done.err), done.err


def test_videos_that_went_bad_after_indexing_end_the_run(command: Command, videos: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    for video in videos.glob("*.mp4"):
        (copies / video.name).write_bytes(video.read_bytes())
    manifest = Manifest.of([probe_record(source, label=None) for source, _ in list_sources(copies)])
    manifest.write(tmp_path / "m.parquet")
    for video in copies.iterdir():
        video.write_bytes(b"gone")
    done = command("pretrain", *SMALL, "data.manifest=m.parquet")
    assert done.status == 1
    assert done.err == "error: none of the 1 held-out videos could be decoded; index the videos again\n"


def test_a_damaged_checkpoint_and_other_settings_are_refused_and_nothing_is_lost(
    command: Command, manifest: Path, tmp_path: Path
) -> None:
    start = [*SMALL, f"data.manifest={manifest}", "training.steps=2000"]
    stopped = interrupt(start, signal.SIGINT, tmp_path)
    assert stopped.status == 130
    assert stopped.err.endswith("interrupted; the same command resumes from the last checkpoint\n")
    assert "Traceback" not in stopped.err
    checkpoints = tmp_path / "results" / "tiny" / "0001" / "checkpoints"
    newest = max(checkpoints.iterdir()) / "training.pt"
    newest.write_bytes(newest.read_bytes()[:-10])
    before = written(tmp_path / "results" / "tiny")

    other = command("pretrain", *start, "seed=1")
    assert other.status == 1
    assert re.match(r"error: the unfinished run \S+ was started differently: seed was 0, is 1\. Repeat", other.err)
    damaged = command("pretrain", *start)
    assert damaged.status == 1
    assert re.match(rf"error: checkpoint file {newest} has \d+ bytes, \d+ were written; remove", damaged.err)
    assert written(tmp_path / "results" / "tiny") == before


def test_sigterm_ends_with_its_own_status(manifest: Path, tmp_path: Path) -> None:
    stopped = interrupt([*SMALL, f"data.manifest={manifest}", "training.steps=2000"], signal.SIGTERM, tmp_path)
    assert stopped.status == 143
    assert stopped.err.endswith("terminated; the same command resumes from the last checkpoint\n")
    assert "Traceback" not in stopped.err
    assert '"KILLED"' in (tmp_path / "results" / "tiny" / "0001" / "status.json").read_text()


def interrupt(arguments: list[str], number: signal.Signals, folder: Path) -> Done:
    """Start a run and send it a signal when it has written its first checkpoint."""
    started = subprocess.Popen(
        [sys.executable, PIPELINES / "pretrain.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(folder / "results"),
    )
    began = time.monotonic()
    while not list((folder / "results").glob("tiny/0001/checkpoints/step_*")):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() - began < START_SECONDS
        time.sleep(0.05)
    started.send_signal(number)
    out, err = started.communicate(timeout=START_SECONDS)
    return Done(started.returncode, out, err)


def written(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_would_be_and_starts_nothing(command: Command, tmp_path: Path) -> None:
    done = command("pretrain", "--dry-run", "--recipe", "videomae-base", "seed=5")
    assert (done.status, done.err) == (0, "")
    assert "name: videomae-base\nseed: 5\n" in done.out
    facts = dict(re.findall(r"^(\S.*?)  +(\S.*)$", done.out, re.MULTILINE))
    assert facts["tokens a clip"] == "1,568 (8 x 14 x 14)"
    assert (facts["visible tokens"], facts["target tokens"]) == ("160", "1,408")  # 20 of 196 sites in each slot
    # ViT-B's blocks are 12 * 12 * 768^2 weights and a little; VideoMAE says 87 million with its tubelet embedding.
    assert 86e6 < float(facts["parameters, encoder"].replace(",", "")) < 88e6
    assert float(facts["training GFLOPs a clip, autoencoder"].replace(",", "")) > 100
    assert not list(tmp_path.iterdir())


def test_alone_a_run_imports_no_ray_and_ends_with_where_everything_is(manifest: Path, tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(PIPELINES.parent)!r})
from pipelines.pretrain import main
status = main(sys.argv[1:])
assert not [name for name in sys.modules if name.partition(".")[0] == "ray"], "ray was imported"
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *SMALL, f"data.manifest={manifest}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
        cwd=tmp_path,
        env=environment(tmp_path / "results"),
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "tiny" / "0001"
    said = dict(re.findall(r"^(\w+) +(\S.*)$", done.stdout, re.MULTILINE))
    assert said["checkpoint"] == str(folder / "checkpoints" / "step_00000004")
    assert Path(said["checkpoint"], "autoencoder.safetensors").exists()
    assert said["pictures"] == str(folder / "pictures")
    assert said["MLflow"].endswith(f"mlflow ui --backend-store-uri sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    assert "switched on" in said["sampler"]
    # The bar's plain lines, and nothing else.
    assert all(re.match(r"\w+  \d+/4  loss ", line) for line in done.stderr.splitlines()), done.stderr
