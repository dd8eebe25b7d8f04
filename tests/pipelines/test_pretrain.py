"""The command line as a user meets it: what it prints, how it exits, what it leaves."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record

PIPELINES = Path(__file__).parents[2] / "pipelines"
START_SECONDS = 90
"""When to give up on a process of its own; 10 are enough for it alone."""

RESUMES = "the same command resumes a run that is not finished from its last checkpoint\n"

Command = Callable[..., Any]
Environment = Callable[[Path], dict[str, str]]


def test_videos_that_went_bad_after_indexing_end_the_run(
    command: Command, small: list[str], videos: Path, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    for video in videos.glob("*.mp4"):
        (copies / video.name).write_bytes(video.read_bytes())
    manifest = Manifest.of([probe_record(source, label=None) for source, _ in list_sources(copies)])
    manifest.write(tmp_path / "m.parquet")
    for video in copies.iterdir():
        video.write_bytes(b"gone")
    done = command("pretrain", *small, "data.manifest=m.parquet")
    assert done.status == 1
    assert done.err == "error: none of the 1 held-out videos could be decoded; index the videos again\n"


def test_a_damaged_checkpoint_and_other_settings_are_refused_and_nothing_is_lost(
    command: Command, small: list[str], manifest: Path, tmp_path: Path, environment: Environment
) -> None:
    start = [*small, f"data.manifest={manifest}", "training.steps=1000000"]
    stopped = interrupt(start, signal.SIGINT, tmp_path, environment)
    assert stopped.returncode == 130
    assert stopped.stderr.endswith(
        "interrupted; the same command resumes a run that is not finished from its last checkpoint\n"
    )
    assert "Traceback" not in stopped.stderr
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


def test_sigterm_ends_with_its_own_status(
    small: list[str], manifest: Path, tmp_path: Path, environment: Environment
) -> None:
    start = [*small, f"data.manifest={manifest}", "training.steps=1000000"]
    stopped = interrupt(start, signal.SIGTERM, tmp_path, environment)
    assert stopped.returncode == 143
    assert stopped.stderr.endswith(
        "terminated; the same command resumes a run that is not finished from its last checkpoint\n"
    )
    assert "Traceback" not in stopped.stderr
    assert '"KILLED"' in (tmp_path / "results" / "tiny" / "0001" / "status.json").read_text()


def interrupt(
    arguments: list[str], number: signal.Signals, folder: Path, environment: Environment
) -> subprocess.CompletedProcess[str]:
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
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


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


def test_alone_a_run_imports_no_ray_and_ends_with_where_everything_is(
    small: list[str], manifest: Path, tmp_path: Path, environment: Environment
) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(PIPELINES.parent)!r})
from pipelines.pretrain import main
status = main(sys.argv[1:])
assert not [name for name in sys.modules if name.partition(".")[0] == "ray"], "ray was imported"
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *small, f"data.manifest={manifest}"],
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
