"""The pictures as a user gets them, and what he is told when he cannot have them."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def runs(
    small_run: Callable[..., TrainRun],
    save_run: Callable[..., Path],
    manifest: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Folders of two runs of other samplers and sizes."""
    results = tmp_path_factory.mktemp("results")
    tats = small_run("tats", manifest=manifest, results=results)
    rule = small_run("random", manifest=manifest, results=results, knobs={"data.crop_size": 32})
    rule = change(rule, {"masking.visible.kind": "random"}.items())
    return {run.name: str(save_run(run)) for run in (tats, rule)}


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command in an empty folder; return what it prints. ``command`` is for what must end within seconds."""
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(Path(__file__).parents[2] / "pipelines" / "visualize.py"))["main"]

    def run(*arguments: str) -> Any:
        assert main(list(arguments)) == 0
        return capfd.readouterr()

    return run


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    """Two good videos and two bad ones, the first of all among them."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, video in enumerate(sorted(videos.glob("*.mp4"))[:2]):
        (folder / f"good_{number}.mp4").write_bytes(video.read_bytes())
    for name in ("a_bad.mp4", "worse.mp4"):
        (folder / name).write_text("no video")
    return folder


def test_every_picture_of_a_folder_of_videos(
    draw: Callable[..., Any], runs: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    done = draw(*runs.values(), str(folder), "--format", "mp4", "--out", "out")
    names = ["tokens", "policy", "reconstruction", "error", "path", "retrieval"]
    assert done.out.splitlines() == [
        "tats: at step 8 its policy was not on yet; training drew uniformly",
        "random 0001: random has no probabilities, no critic's map, no path of attention",
        *(f"out/{name}.{suffix}" for name in names for suffix in ("png", "mp4")),
    ]
    assert re.fullmatch(rf"left out: {folder}/a_bad\.mp4: .+\nleft out: {folder}/worse\.mp4: .+\n", done.err)
    for name in names:
        with Image.open(tmp_path / f"out/{name}.png") as sheet, av.open(str(tmp_path / f"out/{name}.mp4")) as moving:
            assert min(sheet.size) > 200
            assert sum(1 for _ in moving.decode(video=0)) == 4


def test_a_runs_own_held_out_clips_and_a_token(draw: Callable[..., Any], runs: dict[str, str], tmp_path: Path) -> None:
    done = draw(runs["tats"], "--clip", "0", "--token", "1,2,3")
    assert done.err == ""
    assert "no retrieval: there is no other video to compare with in held-out videos of tats\n" in done.out
    assert len(list((tmp_path / "pictures").iterdir())) == 10
    first = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    draw(runs["tats"], "--clip", "0", "--token", "1,2,3")
    assert {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()} == first
    draw(runs["tats"], "--clip", "0", "--token", "0,0,0")
    changed = {path.name for path in (tmp_path / "pictures").iterdir() if path.read_bytes() != first[path.name]}
    assert changed == {"path.png", "path.gif"}


def test_the_query_is_not_its_own_neighbour(draw: Callable[..., Any], runs: dict[str, str], manifest: Path) -> None:
    done = draw(runs["tats"], str(manifest), "--clip", "3", "--among", "4")
    assert done.err == ""
    with Image.open("pictures/retrieval.png") as sheet, Image.open("pictures/policy.png") as two_rows:
        rows = (sheet.height - two_rows.height) // 100 + 2
    assert rows == 1 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none", r"none is no folder of a run and no checkpoint; a run prints its folder when it ends"),
        ("none {tats}", r"none is no folder of a run and no checkpoint: it has no run\.yaml"),
        ("{tats} none", r"no such folder, list or video: \S+/none"),
        ("{tats} none.parquet", r"no such manifest file: none\.parquet"),
        ("{tats} .", r"no videos found in the folder"),
        ("{tats} {tats}", r"a checkpoint was given twice: tats 0001 step 8; give each once"),
        ("{tats} --clip 1", r"--clip must be from 0 to 0 for held-out videos of tats, got 1"),
        ("{tats} --clip -1", r"--clip must be from 0 to 0 for held-out videos of tats, got -1"),
        ("{tats} --token 1,2", r"--token must be time slot, row and column, such as 3,0,2, got '1,2'"),
        ("{tats} --token 2,0,0", r"a token is time slot, row and column, below 2,4,4 for this checkpoint, got 2,0,0"),
        ("{random} --token 0,0,0", r"--token is for checkpoints with trajectory attention .*, got none"),
        ("{tats} --among 0", r"--among must be at least 1 video, got 0"),
        ("{tats} --out a.png", r"--out must be a folder, in which the pictures get names of their own, got a\.png"),
        ("{tats} {bad}", r"\S+: none of its 2 videos decodes; the first is \S+/x\.mp4: "),
        ("{tats} {bad}/x.mp4", r"\S+/x\.mp4: "),
        ("{tats} {bad} --clip 1", r"\S+/y\.mp4: "),
    ],
)
def test_what_cannot_be_drawn(
    command: Command, runs: dict[str, str], tmp_path: Path, arguments: str, message: str
) -> None:
    bad = tmp_path / "bad"
    if "{bad}" in arguments:
        bad.mkdir()
        for name in ("x.mp4", "y.mp4"):
            (bad / name).write_text("no video")
    done = command("visualize", *arguments.format(bad=bad, **runs).split())
    assert (done.status, done.out) == (1, "")
    assert re.match(f"error: {message}", done.err)
    assert done.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))
