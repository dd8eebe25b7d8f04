"""Official splits by the command line, with the rows that they become."""

import runpy
from pathlib import Path

import pytest

from tats_ray.data.decode import View, decode_views
from tats_ray.data.frames import Pace
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.scaling import Crop
from tats_ray.data.splits.files import read_class_names

MADE = runpy.run_path(str(Path(__file__).with_name("split_files.py")))
EPIC, UCF = (MADE[name] for name in ("EPIC", "UCF"))


PIPELINE = Path(__file__).parents[2] / "pipelines" / "index_videos.py"


def index(*arguments: object) -> int:
    return runpy.run_path(str(PIPELINE))["main"]([str(argument) for argument in arguments])


def shown(record: VideoRecord, read_numbers) -> list[int]:
    """Decode every frame of a row; return the numbers that the frames show."""
    times = Pace(num_frames=record.num_frames, frame_stride=1).times(record, 0)
    views = [View(times, Crop(0, 0, record.width, record.height))]
    return read_numbers(decode_views(record.source, views, frame_size=(record.width, record.height), size=64)[0])


@pytest.mark.ray
def test_ucf101_becomes_a_labelled_manifest(put, count_video, tmp_path, capsys):
    lists = put({**UCF, "testlist01.txt": f"{UCF['testlist01.txt']}Archery/v_b.avi\nArchery/v_a.avi\n"})
    videos = put({"Archery/v_b.avi": "no video", "Archery/v_not_listed.avi": ""}, "UCF-101")
    for name in ("Archery/v_a", "HandstandPushups/v_HandStandPushups_g01_c01"):
        (videos / name).parent.mkdir(exist_ok=True)
        count_video(videos / f"{name}.avi", frames=5, codec="mpeg4")
    out = tmp_path / "out" / "ucf_test.parquet"
    assert index(videos, "--split", f"ucf101:{lists}/testlist01.txt", "--out", out) == 0
    said = capsys.readouterr().out
    assert "2 of the 4 rows of the split; 1 not found and 1 without frames are listed in" in said
    manifest = Manifest.read(out)
    rows = [manifest.record(row) for row in range(len(manifest))]
    assert [(Path(row.path).name, row.label) for row in rows] == [
        ("v_HandStandPushups_g01_c01.avi", 1),
        ("v_a.avi", 2),
    ]
    assert read_class_names(str(out.with_suffix(".classes.txt"))) == ["ApplyEyeMakeup", "HandstandPushups", "Archery"]
    header, missing, broken = out.with_suffix(".rejected.csv").read_text().splitlines()
    assert header == "path,reason"
    assert missing.startswith("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi,no video v_ApplyEyeMakeup_g01_c01 (with")
    assert broken.startswith(f"{videos}/Archery/v_b.avi,Invalid data")


@pytest.mark.ray
def test_the_actions_of_epic100_are_rows_that_show_their_own_frames(put, count_video, read_numbers, tmp_path, capsys):
    late = "P02_03_8,P02,P02_03,,00:00:02.32,00:00:02.46,1,2,open tap,open,1,tap,0,['tap'],[0]\n"  # from 2.40 s nothing
    lists = put({**EPIC, "EPIC_100_validation.csv": EPIC["EPIC_100_validation.csv"] + late})
    videos = tmp_path / "EPIC-KITCHENS"
    for name in ("P01_11", "P02_03"):
        (videos / name[:3] / "videos").mkdir(parents=True)
        video = count_video(tmp_path / f"{name}.mp4", frames=60)
        video.rename(videos / name[:3] / "videos" / f"{name}.MP4")
    out = tmp_path / "nouns.parquet"
    assert index(videos, "--split", f"epic100:{lists}/EPIC_100_validation.csv", "--label", "noun", "--out", out) == 0
    said = capsys.readouterr().out
    assert "2 videos, 3 stretches in" in said
    assert "3 of the 4 rows of the split; 0 not found and 1 without frames are listed in" in said
    manifest = Manifest.read(out)
    rows = [manifest.record(row) for row in range(len(manifest))]
    assert [(Path(row.path).name, row.label) for row in rows] == [
        ("P01_11.MP4", 2),
        ("P01_11.MP4", 0),
        ("P02_03.MP4", 0),
    ]
    assert [shown(row, read_numbers) for row in rows] == [
        list(range(10, 30)),  # from 0.4 to 1.2 s at 25 frames a second
        list(range(10, 20)),
        [58, 59],
    ]
    assert rows[0].content == rows[1].content
    (_, rejected) = out.with_suffix(".rejected.csv").read_text().splitlines()
    assert rejected == (
        f'{videos}/P02/videos/P02_03.MP4#P02_03_7,"P02_03_7 is from 3723.04 to 3725 s, and the video ends at 2.4 s"'
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--fold 1", "--fold 1 is for --split SET:FILE; add that, or leave --fold out"),
        ("--classes x", "--classes x is for --split SET:FILE; add that, or leave --classes out"),
        ("--split testlist01.txt", "--split must read SET:FILE, the set one of ucf101, hmdb51, kinetics400, ssv2, "),
        ("--split ucf101:", "--split must read SET:FILE"),
        ("--split hmdb51:x --fold 1", "a split of hmdb51 needs --part train|test"),
        ("--split ucf101:x --window 2", "window=2 would make other rows than the split lists; leave one of them out"),
        ("--split ssv2:none.json --classes none.json", "no such split or class file: "),
    ],
)
def test_wrong_commands_say_what_is_expected(arguments, message, tmp_path, capsys):
    assert index(tmp_path, "--out", tmp_path / "m.parquet", *arguments.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
